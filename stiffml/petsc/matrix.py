"""What PETSc's Newton iteration needs of a linear solver: the matrix shift·M − J and how to solve with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from stiffml.petsc.formulation import Formulation
from stiffml.system.derivatives.graph import Array
from stiffml.system.linear_solver import LinearSolver


class ShiftedMatrix(ABC):
    """shift·M − J of a problem as a PETSc matrix, and its solver."""

    mat: Any
    """The PETSc matrix."""

    mended = 0
    """Jacobians so far that took differences where derivatives were not finite."""

    failures = 0
    """Solves so far in which the KSP failed."""

    last_failure = ""
    """Why the KSP last failed, in any solve so far. The step is cut after such a failure."""

    @property
    def failure(self) -> str:
        """Why the KSP failed in the last solve; empty if it did not."""
        return ""

    @abstractmethod
    def configure(self, ksp) -> None:
        """Make the KSP solve with this matrix."""

    def options_are_set(self, ksp) -> None:  # noqa: B027 (few depend on them)
        """Called once the caller's options have reached the KSP."""

    @abstractmethod
    def fill(self, shift: float, s: float, vector: Array) -> None:
        """Take the Jacobian at a time and a vector of the problem; a tensor if vectors are shared."""

    def release_jacobian(self) -> None:  # noqa: B027 (most hold little)
        """Free the Jacobian if it is large. Newton's iteration goes on to another state."""

    @abstractmethod
    def close(self) -> None:
        """Free what PETSc holds."""


class PETScSolver(LinearSolver):
    """A linear solver that also serves the Newton iteration of a TS."""

    keeps_graphs = False
    """Whether J is the graph of f, which the evaluation of f before it can leave behind."""

    shares_vectors = False
    """Whether PETSc's vectors are shared with torch, on the device of ``func``."""

    suggested_options: Mapping[str, object] = {}
    """PETSc options; the caller's own take precedence."""

    @abstractmethod
    def matrix(self, problem: Formulation, prefix: str) -> ShiftedMatrix:
        """The matrix for a TS whose options have the ``prefix``."""
