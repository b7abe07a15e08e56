"""States near a given one, without what is special about it.

An initial state often has components that are equal, or zero, or lie on a kink of f. A trial of f at such a
state may come out right by chance. At a state near it, it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

ATTEMPTS = ((1e-2, 1.0), (1e-2, -1.0), (1e-4, 1.0), (1e-4, -1.0), (1e-7, 1.0), (1e-7, -1.0))
"""Distances, relative to each component, and sides; the first is away from zero."""


def typical_sizes(u: np.ndarray) -> np.ndarray:
    """(size,) the sizes of the components; for those that are zero, the middle of the other sizes."""
    size = np.abs(u)
    if size.all():
        return size
    nonzero = size[size > 0]
    middle = np.sqrt(nonzero.min()) * np.sqrt(nonzero.max()) if nonzero.size else 1.0
    return np.where(size > 0, size, middle)


def random_signed(random: np.random.Generator, shape: int | tuple[int, ...]) -> np.ndarray:
    """Random numbers of either sign, between 0.5 and 1 in size."""
    numbers = random.uniform(-0.5, 0.5, shape)
    return numbers + np.copysign(0.5, numbers)


def enlarged(u: np.ndarray, least: float) -> np.ndarray:
    """The state with every component at least ``least`` of the largest, and that at least ``least``."""
    largest = max(float(np.abs(u).max()), least)
    return np.where(u < 0, -1.0, 1.0) * np.maximum(np.abs(u), least * largest)


def nearby(u: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
    """States (size,) near ``u`` whose components all differ, from far to near, and last ``u`` itself."""
    sizes, signs = typical_sizes(u), np.where(u < 0, -1.0, 1.0)
    for reach, side in ATTEMPTS:
        yield u + side * reach * signs * sizes * random.uniform(0.5, 1.0, u.size)
    yield u


BESIDE = 1e-4
"""Distance of the one state beside another, relative to each component."""


def beside(u: np.ndarray) -> np.ndarray:
    """One state (size,) beside ``u`` whose components all differ, away from zero; always the same."""
    return u + np.where(u < 0, -BESIDE, BESIDE) * typical_sizes(u) * _weights(u.size)


@lru_cache(maxsize=16)
def _weights(size: int) -> np.ndarray:
    """(size,) between 0.5 and 1; not to be written to."""
    return np.random.default_rng(0).uniform(0.5, 1.0, size)


def first_finite(
    evaluate: Callable[[np.ndarray], np.ndarray],
    states: Iterator[np.ndarray],
    every: Callable[[bool], bool] = bool,
) -> tuple[np.ndarray, np.ndarray] | None:
    """The first of some states at which a function is finite, and its value there; None if it is at none.

    ``every`` says whether a condition holds in all processes. If the function raises an exception at a state,
    the next one is tried: the solve will hardly come there.
    """
    for state in states:
        try:
            with np.errstate(all="ignore"):
                value = evaluate(state)
        except Exception:  # the user's function may raise anything
            value = np.array(np.nan)
        if every(bool(np.isfinite(value).all())):
            return state, value
    return None
