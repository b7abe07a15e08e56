"""A point of a fit: residuals with the solution that they are of, and their derivatives."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from stiffml.training.lm.levenberg_marquardt import TrialError
from stiffml.training.lm.separately import Path
from stiffml.training.lm.subspace import Products


class Derivatives(Protocol):
    """The derivatives of the residuals of a problem at its points."""

    @property
    def by_products(self) -> bool:
        """Whether they are to be had as products only."""

    def jacobian(self, theta: np.ndarray, solved: Any) -> np.ndarray:
        """(m, size)"""

    def along(self, theta: np.ndarray, solved: Any, v: np.ndarray) -> np.ndarray:
        """(m,) the product with ``v`` (size,)."""

    def back(self, theta: np.ndarray, solved: Any, w: np.ndarray) -> np.ndarray:
        """(size,) the product of the transpose with ``w`` (m,)."""


class SolvedPoint:
    """Residuals (m,) at ``theta`` (size,), with the solution that they are of."""

    def __init__(self, problem: Derivatives, theta: np.ndarray, residuals: np.ndarray, solved: Any) -> None:
        self._problem, self.theta, self.residuals, self.solved = problem, theta, residuals, solved
        self._jacobian: np.ndarray | None = None

    @property
    def numbers(self) -> np.ndarray:
        """(size,) what the iteration moves: ``theta``."""
        return self.theta

    @property
    def paths(self) -> list[Path]:
        """For each interval the times and states of its steps."""
        return self.solved.paths

    @property
    def products(self) -> Products | None:
        """The derivatives by their products, where they are too many for a matrix."""
        return self if self._problem.by_products else None

    def along(self, v: np.ndarray) -> np.ndarray:
        """(m,) the product of the derivatives with ``v`` (size,), as :meth:`back` for ``products`` only."""
        return _finite(self._problem.along(self.theta, self.solved, v))

    def back(self, w: np.ndarray) -> np.ndarray:
        """(size,) the product of their transpose with ``w`` (m,)."""
        return _finite(self._problem.back(self.theta, self.solved, w))

    def slopes(self, w: np.ndarray) -> np.ndarray:
        """The same in either case."""
        return self.back(w) if self._problem.by_products else self.jacobian().T @ w

    def jacobian(self) -> np.ndarray:
        """(m, size)

        Raises
        ------
        TrialError
            If it is not finite.
        """
        if self._jacobian is None:
            self._jacobian = _finite(self._problem.jacobian(self.theta, self.solved))
        return self._jacobian


def _finite(derivatives: np.ndarray) -> np.ndarray:
    if not np.isfinite(derivatives).all():
        raise TrialError("a derivative with respect to the parameters is not finite")
    return derivatives
