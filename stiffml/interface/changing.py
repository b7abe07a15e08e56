"""Objects of frozen dataclasses with some fields changed."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


def changed(thing: T, **fields: Any) -> T:
    """As ``dataclasses.replace``, in a tenth of the time: nothing is checked, and nothing computed again.

    For dataclasses without ``__post_init__`` and cached properties.
    """
    made = object.__new__(type(thing))
    vars(made).update(vars(thing))
    vars(made).update(fields)
    return made
