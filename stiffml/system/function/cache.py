"""What was found out about a function, kept as long as the function itself is."""

from __future__ import annotations

import weakref
from types import MethodType
from typing import Any

_KNOWN: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()

KEPT = 16
"""Entries of one function; a training asks for a few again and again."""


def remembered(func: Any) -> dict[Any, Any]:
    """A dictionary that belongs to a function; an empty one where nothing can be kept.

    Of a bound method, which is another object at every mention, it belongs to the instance.
    """
    owner, part = (func.__self__, func.__func__) if isinstance(func, MethodType) else (func, None)
    try:
        known = _KNOWN.setdefault(owner, {}).setdefault(part, {})
    except TypeError:  # it takes no weak references, or cannot be hashed
        return {}
    if len(known) >= KEPT:
        known.clear()
    return known
