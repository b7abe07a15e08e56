"""The role of a linear solver: systems (a·M − b·J) x = v at recorded states."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.linearization import Linearization
from stiffml.system.mass import Mass


class LinearSolver(ABC):
    """Solves systems with a·M − b·J, where J is the Jacobian of the right-hand side or its implicit part."""

    uses_blocks = False
    """Whether the Jacobian is evaluated as dense blocks, one a sample."""

    is_krylov = False
    """Whether it iterates by a Krylov method."""

    contraction = 0.0
    """The factor by which a Newton iteration on a recorded step reduces the residual at best; 0 for a direct
    solver."""

    enough = 1e-17
    """The size of the last update of such an iteration, relative to each component."""

    @property
    def krylov_iterations(self) -> int:
        """Iterations so far in solves at recorded states; 0 for a direct solver."""
        return 0

    @property
    @abstractmethod
    def description(self) -> str:
        """A few words for the statistics."""

    @property
    @abstractmethod
    def numbers_per_jacobian(self) -> int:
        """The memory of a Jacobian, in states, rounded up."""

    @abstractmethod
    def linearize(
        self, dynamics: Dynamics, s: Tensor, u: Tensor, mass: Mass | None, constant: bool = False
    ) -> Linearization:
        """J at the states (K,), (K, size); ``constant``: it is the same at all of them."""

    def evaluate(self, dynamics: Dynamics, s: Tensor, u: Tensor) -> Tensor:
        """f at K states where :meth:`linearize` will be called next: (K,), (K, size) -> (K, size)."""
        return dynamics.evaluate_many(s, u)

    def release_jacobian(self) -> None:  # noqa: B027 (direct solvers keep none)
        """Free the last Jacobian at a recorded state; large systems need the memory."""

    def release(self) -> None:  # noqa: B027
        """Free all that solves at recorded states have made. What follows does not depend on it."""

    def sparse_jacobian(self, s: float, u: np.ndarray) -> csr_array | None:
        """J at one state as a sparse matrix; None unless the solver works with one."""
        return None
