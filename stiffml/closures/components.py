"""Components of a state: by name or place, magnitudes, times beside them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import array, described, texts, whole


def magnitudes(name: str, value: Any, count: int | None = None) -> Tensor:
    """(n,) positive numbers; one number stands for ``count`` of them, where that is known.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    found = array(name, value)
    if count is not None and found.ndim == 0:
        found = np.full(count, float(found))
    if found.ndim != 1 or found.size == 0 or (count is not None and len(found) != count):
        many = "one number for each component" if count is None else f"one number, or {count} of them"
        raise ValueError(f"{name} must be {many}, not of shape {found.shape}")
    if (found <= 0).any():
        at = int(np.argmax(found <= 0))
        raise ValueError(f"{name} must be positive, not {found[at]:g} as of component {at}")
    return torch.from_numpy(found.copy())


def named(components: Any, count: int) -> tuple[str, ...]:
    """Names of ``count`` components: those given, or y1, y2, …"""
    if components is None:
        return tuple(f"y{i}" for i in range(1, count + 1))
    names = texts("components", components, count)
    if len(set(names)) < count:
        raise ValueError(f"components: a name stands twice in {described(names)}")
    return names


def places(argument: str, which: Any, names: Sequence[str]) -> tuple[int, ...]:
    """The places of components given by names or numbers from 0, in order; all of them for None.

    Raises
    ------
    TypeError, ValueError
        For an unknown name (the message has the nearest), a number out of range, one twice, or none at all.
    """
    if which is None:
        return tuple(range(len(names)))
    if isinstance(which, str | int):
        which = [which]
    if isinstance(which, Tensor | np.ndarray):
        which = which.tolist()
    if not isinstance(which, Sequence):
        raise TypeError(f"{argument} must be names or numbers of components, not {described(which)}")
    found = [_place(argument, one, names) for one in which]
    if not found or len(set(found)) < len(found):
        what = "is empty" if not found else "names a component twice"
        raise ValueError(f"{argument} {what}: {described(which)}")
    return tuple(sorted(found))


def _place(argument: str, one: Any, names: Sequence[str]) -> int:
    if not isinstance(one, str):
        return whole(argument, one, least=0, most=len(names) - 1)
    if one not in names:
        near = difflib.get_close_matches(one, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
        raise ValueError(f"{argument}: there is no component {one!r}; {hint}")
    return names.index(one)


def invariant_rows(conserve: Any, count: int) -> np.ndarray:
    """(m, count) rows of sums that are conserved, from ``problem.invariants`` or an array.

    Raises
    ------
    TypeError, ValueError
        For an invariant that is a function of the state, or rows of another length.
    """
    if conserve is None:
        return np.zeros((0, count))
    if isinstance(conserve, Mapping):
        for name, row in conserve.items():
            if callable(row):
                raise ValueError(
                    f"conserve: {name} is a function of the state, and only sums w·y can be conserved; "
                    "leave it out"
                )
        conserve = [array(f"conserve: {name}", row).reshape(-1) for name, row in conserve.items()]
        wrong = [len(row) for row in conserve if len(row) != count]
        if wrong:
            raise ValueError(f"conserve: rows must have {count} numbers, not {wrong[0]}")
    rows = np.atleast_2d(array("conserve", conserve))
    if rows.ndim != 2 or rows.shape[1] != count:
        raise ValueError(f"conserve must be rows of {count} numbers, not of shape {rows.shape}")
    return rows


def beside(t: Tensor, y: Tensor) -> Tensor:
    """(…, 1) of states y (…, n): one time for all, or one for each along the first dimensions."""
    t = t.to(y)
    return t.reshape(*t.shape, *[1] * (y.dim() - t.dim())).expand(*y.shape[:-1], 1)
