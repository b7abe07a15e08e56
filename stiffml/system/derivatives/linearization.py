"""The Jacobian J = ∂f/∂u at a set of states: products with it, and systems (a·M − b·J) x = v."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.products import added


class JacobianAt(Protocol):
    """J at one state."""

    def apply(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """J v, or Jᵀ v, for a vector (size,)."""


@runtime_checkable
class TensorJacobianAt(JacobianAt, Protocol):
    """One that multiplies tensors as well, on the device of func."""

    def product(self, v: Tensor, transpose: bool = False) -> Tensor:
        """J v, or Jᵀ v; it may be ``v`` itself."""


class Linearization(ABC):
    """J at K states.

    ``k`` is the position of a state among them; vectors are (size,) arrays, or (P, size) for P of them.
    """

    @abstractmethod
    def apply(self, k: int, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """J_k v or J_kᵀ v."""

    @abstractmethod
    def solve(self, k: int, a: float, b: float, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """The x of (a·M − b·J_k) x = v, or of the transposed system."""

    def solve_next(self, k: int, a: float, b: float, v: np.ndarray, row: int) -> np.ndarray:
        """The x of (a·M − b·J_k)ᵀ x = v, in a sweep that solves for the same ``row`` of every step.

        An iterative method may take its solutions of earlier steps as a first guess.
        """
        return self.solve(k, a, b, v, transpose=True)

    def pull_back(self, k: int, w: np.ndarray) -> np.ndarray:
        """J_kᵀ w, of a w (size,) with which a sweep has ∂f/∂θ multiplied as well."""
        return self.apply(k, w, transpose=True)

    def phi(self, order: int, size: float, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """φ_order(size·J) v, or its transpose times v; where J is the same at all states."""
        raise NotImplementedError("φ-functions are of a constant Jacobian")

    def correct(self, k: int, a: float, b: float, residual: np.ndarray, rtol: float) -> np.ndarray:
        """The x of (a·M − b·J_k) x = residual, to a relative residual ``rtol`` in the 2-norm."""
        return self.solve(k, a, b, residual)

    def factorise(self, a: np.ndarray, b: np.ndarray) -> Factors:
        """Factors of a·M − b·J at all states; a and b are (K, 1). This object must not be used afterwards."""
        return self.factors(a, b)

    def factors(self, a: np.ndarray, b: np.ndarray) -> Factors:
        """The same for one set of numbers a, b of many."""
        return _OneByOne(self, a, b)


class Factors(ABC):
    """Solves with the matrices a_k·M − b_k·J_k at K states."""

    @abstractmethod
    def solve(self, v: np.ndarray) -> np.ndarray:
        """(K, size) right-hand sides -> (K, size)."""

    def correct(self, residual: np.ndarray, rtol: float) -> np.ndarray:
        """The same for the update of a Newton iteration, to a relative residual ``rtol``."""
        return self.solve(residual)


class _OneByOne(Factors):
    """Solves at one state after the other."""

    def __init__(self, linearization: Linearization, a: np.ndarray, b: np.ndarray) -> None:
        self._linearization, self._a, self._b = linearization, a, b

    def solve(self, v: np.ndarray) -> np.ndarray:
        return self._each(self._linearization.solve, v)

    def correct(self, residual: np.ndarray, rtol: float) -> np.ndarray:
        return self._each(self._linearization.correct, residual, rtol)

    def _each(self, solve: Callable[..., np.ndarray], v: np.ndarray, *settings: float) -> np.ndarray:
        numbers = enumerate(zip(self._a[:, 0].tolist(), self._b[:, 0].tolist(), strict=True))
        rows = [solve(k, a, b, v[k], *settings) for k, (a, b) in numbers]
        return np.stack(rows) if len(rows) > 1 else rows[0][None]  # which may be large


class Products(Linearization):
    """J v and Jᵀ v by automatic differentiation, for explicit methods, which solve no linear systems."""

    def __init__(self, dynamics: Dynamics, s: Tensor, u: Tensor) -> None:
        self._dynamics, self._s, self._u = dynamics, s, u

    def apply(self, k: int, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        rows = torch.from_numpy(np.atleast_2d(v))
        s, u = self._s[k : k + 1].expand(len(rows)), self._u[k : k + 1].expand(len(rows), -1)
        product = self._dynamics.state_vjp(s, u, rows) if transpose else self._dynamics.state_jvp(s, u, rows)
        return product.numpy().reshape(v.shape)

    def solve(self, k: int, a: float, b: float, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        raise NotImplementedError("an explicit method has no linear system to solve")


class PulledBack(Products):
    """The same, where what a sweep pulls back gives the gradient of the parameters along the way.

    One backward pass then has both, which saves an evaluation of f and a pass for each state.

    Attributes
    ----------
    parameters : list of Tensor or None
        Σ (∂f/∂θ)ᵀ w over all w so far, for each of the parameters of f.
    """

    def __init__(self, dynamics: Dynamics, s: Tensor, u: Tensor) -> None:
        super().__init__(dynamics, s, u)
        self.parameters: list[Tensor | None] = [None] * len(dynamics.parameters)

    def pull_back(self, k: int, w: np.ndarray) -> np.ndarray:
        at = slice(k, k + 1)
        state, parts = self._dynamics.pull_back(self._s[at], self._u[at], torch.from_numpy(w)[None])
        self.parameters = [added(pair) for pair in zip(self.parameters, parts, strict=True)]
        return state[0].numpy()
