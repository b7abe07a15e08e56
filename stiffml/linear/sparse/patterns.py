"""Sparsity patterns that were found before, remembered for each function."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

from stiffml.linear.sparse.compression import Coloured
from stiffml.system.derivatives.dynamics import Dynamics

_PATTERNS: weakref.WeakKeyDictionary[Any, dict[Any, Coloured | None]] = weakref.WeakKeyDictionary()
"""Patterns by function, layout and time: finding one takes hundreds of evaluations, and a training
solves with the same function again and again. An entry that appears later is noticed when J is evaluated."""

KEPT = 8
"""The number of patterns kept for one function."""


def known_pattern(
    of: Dynamics, key: object, find: Callable[[], Coloured | None], is_fair: Callable[[], bool]
) -> Coloured | None:
    """The pattern found before, or now by ``find``. That there is none is remembered after a fair trial only.

    ``is_fair``: whether f is finite where it was tried.
    """
    owner: Any = of.func
    if isinstance(owner, MethodType):  # another object at every mention
        owner, key = owner.__self__, (owner.__func__, key)
    try:
        known = _PATTERNS.setdefault(owner, {})
    except TypeError:  # it takes no weak references, or cannot be hashed
        return find()
    if key in known:
        return known[key]
    found = find()
    if found is not None or is_fair():
        if len(known) >= KEPT:
            known.clear()
        known[key] = found
    return found
