"""Findings about a function, kept as long as the function exists."""

from __future__ import annotations

import weakref
from types import MethodType
from typing import Any

_KNOWN: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()

KEPT = 16
"""The number of entries of one function; a training asks for the same few again and again."""


def remembered(func: Any) -> dict[Any, Any]:
    """The dictionary of findings of a function; an empty one if nothing can be kept for it.

    A bound method is a new object at every mention, so its dictionary belongs to the instance. One that says
    what it is made of, ``kept_with``, a function and a key, is remembered with that.
    """
    owner: Any
    owner, part = getattr(func, "kept_with", (func, None))
    if isinstance(owner, MethodType):
        owner, part = owner.__self__, (owner.__func__, part)
    try:
        known = _KNOWN.setdefault(owner, {}).setdefault(part, {})
    except TypeError:  # it takes no weak references, or cannot be hashed
        return {}
    if len(known) >= KEPT:
        known.clear()
    return known
