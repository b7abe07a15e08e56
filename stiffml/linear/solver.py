"""What a way of solving linear systems offers: a matrix for PETSc's Newton, and solves at recorded states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.linearization import Linearization
from stiffml.system.mass import Mass

if TYPE_CHECKING:
    from stiffml.petsc.formulation import Formulation


class LinearSolver(ABC):
    """Solves systems with a·M − b·J.

    Attributes
    ----------
    krylov_iterations : int
        Of the systems solved at recorded states so far.
    """

    krylov_iterations = 0

    uses_blocks = False
    """Whether it takes the Jacobian as dense blocks, one a sample."""

    contraction = 0.0
    """By what the residual of a Newton iteration on recorded steps shrinks at best: 0 for exact solves."""

    enough = 1e-17
    """What the last update of such an iteration would be, relative to each component."""

    suggested_options: Mapping[str, object] = {}
    """PETSc options that the caller's take precedence of."""

    @property
    @abstractmethod
    def description(self) -> str:
        """What it does, in a few words, for the statistics."""

    @abstractmethod
    def matrix(self, problem: Formulation, prefix: str) -> ShiftedMatrix:
        """For the Newton iteration of a TS whose options have the ``prefix``."""

    @abstractmethod
    def linearize(
        self, dynamics: Dynamics, s: Tensor, u: Tensor, mass: Mass | None, constant: bool = False
    ) -> Linearization:
        """J at the states (K,), (K, size); ``constant``: it is the same at all of them."""

    def let_go(self) -> None:  # noqa: B027 (most hold nothing)
        """Of the last Jacobian at a recorded state: large systems need the room."""

    def release(self) -> None:  # noqa: B027
        """All that solves at recorded states have made, so that what follows does not depend on it."""

    def sparse_jacobian(self, s: float, u: np.ndarray) -> csr_array | None:
        """J at one state as a sparse matrix, if that is how it is solved with."""
        return None

    @property
    @abstractmethod
    def numbers_per_jacobian(self) -> int:
        """How many numbers a Jacobian takes, in multiples of the size of a state, rounded up."""


class ShiftedMatrix(ABC):
    """shift·M − J of a problem as a PETSc matrix, and its solver."""

    mat: Any
    """The PETSc matrix."""

    @abstractmethod
    def configure(self, ksp) -> None:
        """Make the KSP solve with it."""

    @abstractmethod
    def options_are_set(self, ksp) -> None:
        """The caller's options have reached the KSP."""

    @abstractmethod
    def fill(self, shift: float, s: float, vector: np.ndarray) -> None:
        """Take the Jacobian at a time and a vector of the problem, a tensor if vectors are shared."""

    def leave(self) -> None:  # noqa: B027 (most hold little)
        """Newton's iteration goes on to another state, so that this Jacobian will hardly be needed again."""

    mended = 0
    """Jacobians so far that took differences where derivatives were not finite."""

    failures = 0
    """Solves in which the KSP has failed so far."""

    last_failure = ""
    """Of the KSP in any solve so far; steps are cut after those."""

    @property
    def failure(self) -> str:
        """Why the KSP failed and what to try, if it did and that can happen."""
        return ""

    @abstractmethod
    def destroy(self) -> None:
        """Let go of what PETSc holds."""
