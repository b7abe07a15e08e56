"""Warnings that are given once."""

from __future__ import annotations

import warnings

_GIVEN: set[str] = set()


def warn_once(text: str) -> None:
    """Warn, unless the same has been said before."""
    if text not in _GIVEN:
        _GIVEN.add(text)
        warnings.warn(text, stacklevel=2)
