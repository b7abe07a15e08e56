"""Coefficients of the explicit Runge-Kutta methods, as PETSc has them under its own names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tableau:
    """a (s, s), b (s,); ``embedded`` says whether PETSc has an error estimate for it."""

    petsc_name: str
    order: int
    a: np.ndarray
    b: np.ndarray
    embedded: bool

    @property
    def c(self) -> np.ndarray:
        return self.a.sum(axis=1)


def _tableau(petsc_name: str, order: int, rows: list[list[float]], b: list[float], embedded: bool) -> Tableau:
    a = np.zeros((len(b), len(b)))
    for i, row in enumerate(rows):
        a[i, : len(row)] = row
    return Tableau(petsc_name, order, a, np.array(b), embedded)


EXPLICIT = {
    "euler": _tableau("1fe", 1, [[]], [1.0], embedded=False),
    "midpoint": _tableau("2b", 2, [[], [1 / 2]], [0.0, 1.0], embedded=False),
    "bosh3": _tableau(
        "3bs",
        3,
        [[], [1 / 2], [0, 3 / 4], [2 / 9, 1 / 3, 4 / 9]],
        [2 / 9, 1 / 3, 4 / 9, 0.0],
        embedded=True,
    ),
    "rk4": _tableau(
        "4", 4, [[], [1 / 2], [0, 1 / 2], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6], embedded=False
    ),
    "dopri5": _tableau(
        "5dp",
        5,
        [
            [],
            [1 / 5],
            [3 / 40, 9 / 40],
            [44 / 45, -56 / 15, 32 / 9],
            [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
            [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
            [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
        ],
        [35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0],
        embedded=True,
    ),
}
