"""The roles of a linear solver in PETSc's Newton iteration: the matrix shift·M − J and solves with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from stiffml.petsc.formulation import Formulation
from stiffml.system.derivatives.graph import Array
from stiffml.system.linear_solver import LinearSolver


class ShiftedMatrix(ABC):
    """The matrix shift·M − J of a problem as a PETSc matrix, with its linear solver."""

    mat: Any
    """The PETSc matrix."""

    mended = 0
    """How many Jacobians so far needed finite differences where derivatives were not finite."""

    failures = 0
    """How many linear solves have failed so far."""

    last_failure = ""
    """Why a linear solve last failed; empty if none has. The step is cut after such a failure."""

    @property
    def failure(self) -> str:
        """Why the KSP failed in the last solve; empty if it did not."""
        return ""

    @abstractmethod
    def configure(self, ksp) -> None:
        """Make the KSP solve with this matrix."""

    def options_are_set(self, ksp) -> None:  # noqa: B027 (few depend on them)
        """Called after the caller's options have been applied to the KSP."""

    @abstractmethod
    def fill(self, shift: float, s: float, vector: Array) -> None:
        """Set the matrix to shift·M − J at time ``s`` and ``vector``, a tensor if vectors are shared."""

    can_keep = False
    """Whether this kind of matrix has :meth:`follow`."""

    keeps = False
    """Whether J is kept for :meth:`follow`."""

    def follow(self, shift: float) -> None:
        """Set the matrix to shift·M − J with the last J."""
        raise NotImplementedError

    def release_jacobian(self) -> None:  # noqa: B027 (most hold little)
        """Free the Jacobian if it is large; called before Newton's iteration evaluates f at another state."""

    @abstractmethod
    def close(self) -> None:
        """Free the PETSc objects."""


class PETScSolver(LinearSolver):
    """A linear solver that can also be used in the Newton iteration of a TS."""

    keeps_graphs = False
    """Whether products with J use the autograd graph of f, which the evaluation of f can keep."""

    shares_vectors = False
    """Whether PETSc's vectors are shared with torch, on the device of ``func``."""

    suggested_options: Mapping[str, object] = {}
    """PETSc options that this solver sets; the caller's options take precedence."""

    @abstractmethod
    def matrix(self, problem: Formulation, prefix: str) -> ShiftedMatrix:
        """A new matrix for a TS whose options have the ``prefix``."""
