"""Checks of what a Field is made from. All raise ValueError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stiffml.checks import described, flag, whole


def axes_of(shape: Sequence[int]) -> tuple[int, ...]:
    """The points along 1 to 3 axes."""
    try:
        if isinstance(shape, bytes | Mapping):
            raise TypeError
        sizes = tuple(whole("shape", points, least=0) for points in shape)
    except TypeError:
        found = described(shape)
        raise ValueError(f"Field: shape must be a sequence of whole numbers, not {found}") from None
    if not 1 <= len(sizes) <= 3:
        raise ValueError(f"Field: shape must have 1 to 3 axes, not {len(sizes)}: {sizes}")
    if min(sizes) < 1:
        raise ValueError(f"Field: every axis needs at least one point, not {sizes}")
    return sizes


def positive_count(name: str, value: int) -> int:
    """A whole number of at least 1."""
    try:
        return whole(f"Field: {name}", value, most=2**31 - 1)
    except TypeError as error:
        raise ValueError(str(error)) from None


def for_each_axis(periodic: bool | Sequence[bool], axes: int) -> tuple[bool, ...]:
    """``periodic`` for each of the axes."""
    if isinstance(periodic, bool | np.bool_):
        return (bool(periodic),) * axes
    try:
        if isinstance(periodic, Mapping):
            raise TypeError
        each = tuple(flag("periodic", p) for p in periodic)
    except TypeError:
        found = described(periodic)
        raise ValueError(f"Field: periodic must be a bool, or one for each axis, not {found}") from None
    if len(each) != axes:
        raise ValueError(f"Field: periodic has {len(each)} entries, but shape has {axes} axes")
    return each
