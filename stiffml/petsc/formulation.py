"""The implicit problem M u' = f(s, u) in the form in which PETSc solves it."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch

from stiffml.settings import Tolerances
from stiffml.system.finite import is_finite
from stiffml.system.system import System


class Formulation:
    """The problem as it is: PETSc's vectors are states.

    Parameters
    ----------
    system : System
    keeps_graphs : bool
        Whether the linear solver uses the autograd graph of f for Jacobian products. Default False.

    Attributes
    ----------
    samples, width : int
        The Jacobian has one block (width, width) for each sample.
    constant : bool
        Whether the Jacobian is constant.
    eps : float
        The unit of rounding of the user's dtype.
    """

    def __init__(self, system: System, keeps_graphs: bool = False) -> None:
        self._system, self._keeps_graphs = system, keeps_graphs
        self.samples, self.width = system.layout.samples, system.layout.width
        self.constant = system.constant_jacobian
        self.eps = system.f.eps

    @cached_property
    def mass(self) -> np.ndarray | None:
        """(samples or 1, width, width) the blocks of M; None for the identity."""
        return None if self._system.mass is None else self._system.mass.blocks

    @property
    def size(self) -> int:
        """The length of PETSc's vectors."""
        return self.samples * self.width

    def enter(self, s: float, u: np.ndarray) -> np.ndarray:
        """From a state to PETSc's vector."""
        return u

    def leave(self, vector: np.ndarray) -> np.ndarray:
        """From PETSc's vector to the state."""
        return vector

    def tolerances(self, tolerances: Tolerances) -> Tolerances:
        """Tolerances for PETSc's vectors that measure errors as the given ones do for states."""
        return tolerances

    def weigh(self, vector: np.ndarray) -> np.ndarray:
        """M times a vector."""
        return self._system.weigh(vector)

    def slope(self, s: float, vector: np.ndarray, with_jacobian: bool) -> np.ndarray:
        """f at a vector. ``with_jacobian`` says that the Jacobian will be needed there too."""
        return self._system.f.evaluate(s, vector, with_jacobian, self._keeps_graphs)

    time_is_state = False
    """Whether time is an additional component of every sample."""

    def at(self, s: float, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """The time and the state of a vector."""
        return s, self._system.f.copied(vector)  # PETSc's own vector is read-only

    def wrt_time(self, s: float, u: np.ndarray) -> np.ndarray:
        """∂f/∂s at the state ``u``, in the same shape, with finite differences where it is not finite."""
        f, time = self._system.f, torch.tensor([s], dtype=torch.float64)
        found = f.time_derivative(time, torch.from_numpy(u)[None])[0].numpy()
        if is_finite(found):
            return found
        later = s + math.sqrt(self.eps) * max(abs(s), 1e-3)
        if later > f.span.end:
            later = 2 * s - later
        change = (f.evaluate_anew(later, u) - f.evaluate_anew(s, u)) / (later - s)
        return np.where(np.isfinite(found), found, change)

    def jacobian(self, s: float, vector: np.ndarray) -> np.ndarray:
        """(samples, width, width) the blocks of ∂f/∂u at a vector."""
        return self._system.f.jacobian_at(s, vector)

    def constant_blocks(self, s: float, vector: np.ndarray) -> np.ndarray:
        """(1 or samples, width, width) the blocks of a constant ∂f/∂u: one if it is that of all samples."""
        return self._system.f.constant_blocks(s, vector)


class TimeAsState(Formulation):
    """The problem with time as an additional component of every sample, s' = 1.

    PETSc's Rosenbrock methods leave out ∂f/∂s. In this larger, autonomous problem it is part of the Jacobian.
    """

    time_is_state = True

    def __init__(self, system: System, keeps_graphs: bool = False) -> None:
        super().__init__(system, keeps_graphs)
        self.width += 1
        self.constant = False

    @cached_property
    def mass(self) -> np.ndarray | None:
        """The blocks of M, with a one for time."""
        if self._system.mass is None:
            return None
        blocks = self._system.mass.blocks
        mass = np.zeros((len(blocks), self.width, self.width))
        mass[:, :-1, :-1], mass[:, -1, -1] = blocks, 1
        return mass

    def enter(self, s: float, u: np.ndarray) -> np.ndarray:
        rows = np.empty((self.samples, self.width))
        rows[:, :-1], rows[:, -1] = u.reshape(self.samples, -1), s
        return rows.ravel()

    def leave(self, vector: np.ndarray) -> np.ndarray:
        return vector.reshape(self.samples, self.width)[:, :-1].ravel()

    def tolerances(self, tolerances: Tolerances) -> Tolerances:
        # Time has no error, but PETSc counts it in its mean over all components.
        space = self._system.space
        states, times = space.sum(self.size - self.samples), space.sum(self.samples)
        scale = math.sqrt(states / (states + times))
        atol = np.broadcast_to(tolerances.atol, self.samples * (self.width - 1))
        rtol = tolerances.rtol
        rtol = rtol if isinstance(rtol, float) else self.enter(1.0, rtol)
        return Tolerances(scale * rtol, scale * self.enter(1.0, atol))

    def weigh(self, vector: np.ndarray) -> np.ndarray:
        weighed = vector.reshape(self.samples, self.width).copy()
        weighed[:, :-1] = self._system.weigh(self.leave(vector)).reshape(self.samples, -1)
        return weighed.ravel()

    def slope(self, s: float, vector: np.ndarray, with_jacobian: bool) -> np.ndarray:
        time = float(vector[self.width - 1])
        u = self.leave(vector)
        return self.enter(1.0, self._system.f.evaluate(time, u, with_jacobian, self._keeps_graphs))

    def at(self, s: float, vector: np.ndarray) -> tuple[float, np.ndarray]:
        return float(vector[self.width - 1]), self.leave(vector).copy()

    def jacobian(self, s: float, vector: np.ndarray) -> np.ndarray:
        time, u = self.at(s, vector)
        blocks = np.zeros((self.samples, self.width, self.width))
        blocks[:, :-1, :-1] = self._system.f.jacobian_at(time, u)
        blocks[:, :-1, -1] = self.wrt_time(time, u).reshape(self.samples, -1)
        return blocks
