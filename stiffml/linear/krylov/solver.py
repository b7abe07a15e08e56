"""Solving iteratively: Krylov methods of PETSc on a matrix of which only products are known."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stiffml.errors import LINEAR_HINT, LinearSolveError
from stiffml.linear.krylov.inverses import Approximate, OwnInverse
from stiffml.linear.krylov.matrix_free import JacobianOf, Released
from stiffml.linear.krylov.operator import Shell
from stiffml.linear.non_finite import MendedProducts
from stiffml.linear.settings import GMRES, Krylov
from stiffml.linear.solver import LinearSolver, ShiftedMatrix
from stiffml.petsc.library import PETSc
from stiffml.petsc.options import ScopedOptions
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.graph import Array
from stiffml.system.derivatives.linearization import JacobianAt, Linearization
from stiffml.system.finite import is_finite
from stiffml.system.mass import Mass

if TYPE_CHECKING:
    from stiffml.petsc.formulation import Formulation

MakeApproximate = Callable[[str], Approximate]

_ERR_SUP = 56  # PETSC_ERR_SUP: not supported

_ELSEWHERE = {"ksp_type", "ksp_rtol", "ksp_atol", "ksp_max_it", "ksp_gmres_restart", "pc_type"}

OTHERS = {"", "none", "preonly", "python", "hpddm", "qcg", "nash", "stcg", "gltr"} | {
    *("pipelcg", "pipecgrr", "eksm", "fetidp", "tsirm", "lsqr", "cgls"),
}
"""Of PETSc's names those that are no iteration for linear systems (but for least squares, whose residual is
another), or not there."""

PASSED_ON = ("ksp_", "pc_", "mg_", "sub_", "redundant_", "telescope_", "mat_")
"""How options begin that the solves with the transpose get too."""

CONTRACTION = 1e-3
"""To what Newton's updates are solved for where recorded steps are taken again."""

DIVERGED, DIVERGED_FROM_GUESS = 1e5, 1e30
"""How many times the right-hand side a residual may become. What a guess leaves is no sign of divergence: the
cotangents of steps change by orders of magnitude where the sizes of steps or the outputs do."""

SHOWN = 5
"""How many of the last residuals an error shows."""


class KrylovSolver(LinearSolver):
    """A Krylov method with a preconditioner.

    Parameters
    ----------
    setting : Krylov
    rtol : float
        Of forward solves.
    dynamics : Dynamics
        The right-hand side, or its implicit part.
    mass : Mass or None
    jacobian : callable
        (dynamics, s, u) -> J there.
    approximate : callable or None
        (prefix of its options) -> the working preconditioner. Forwards and backwards have one each.
    description : str
    options : mapping
        The caller's PETSc options, those of the KSP and the PC among them.
    suggested : mapping
        Further ones, which the caller's take precedence of.
    """

    def __init__(
        self,
        setting: Krylov,
        rtol: float,
        dynamics: Dynamics,
        mass: Mass | None,
        jacobian: JacobianOf,
        approximate: MakeApproximate | None,
        description: str,
        options: Mapping[str, object],
        suggested: Mapping[str, object],
    ) -> None:
        self.setting, self.dynamics, self.mass = setting, dynamics, mass
        # Products of a function of single precision are known no better.
        known = 100 * torch.finfo(dynamics.layout.dtype).eps
        self.rtol, self.adjoint_rtol = max(rtol, known), max(setting.adjoint_rtol, known)
        self.contraction = max(CONTRACTION, self.adjoint_rtol)
        # The gradient is known to adjoint_rtol only.
        self.enough = 0.1 * self.adjoint_rtol
        self.jacobian = jacobian
        self._approximate, self._description = approximate, description
        clashes = sorted({name.lstrip("-") for name in options} & _ELSEWHERE)
        if clashes:
            raise ValueError(f"options: {', '.join(clashes)} is set by linear=; use its arguments")
        self.suggested_options = suggested
        self._options = {
            name: value
            for name, value in options.items()
            if name.lstrip("-").startswith(PASSED_ON) and "tol" not in name and "monitor" not in name
        }
        self._recorded: _Recorded | None = None

    @property
    def description(self) -> str:
        return self._description

    @property
    def numbers_per_jacobian(self) -> int:
        return 1  # at one state at a time

    def shell(self, prefix: str, with_time: bool = False) -> Shell:
        approximate = None if self._approximate is None else self._approximate(prefix)
        communicator = self.dynamics.space.communicator
        own = isinstance(approximate, OwnInverse)  # which is told of every point
        shares = self.dynamics.shares_vectors
        return Shell(self.dynamics.layout, self.mass, approximate, communicator, with_time, own, shares)

    def configure(self, ksp, shell: Shell, rtol: float) -> None:
        """Set up a KSP to solve with a shell."""
        setting = self.setting
        types = vars(PETSc.KSP.Type).items()
        known = sorted({value for name, value in types if not name.startswith("_")} - OTHERS)
        if setting.method not in known:
            raise ValueError(f"linear: PETSc has no {setting.method!r} here; it knows {', '.join(known)}")
        ksp.setType(setting.method)
        ksp.setTolerances(rtol=rtol, atol=1e-300, max_it=setting.max_iterations)
        if isinstance(setting, GMRES):
            ksp.setGMRESRestart(setting.restart)
        ksp.setConvergenceHistory(setting.max_iterations + 2, reset=True)
        shell.configure(ksp)

    def matrix(self, problem: Formulation, prefix: str) -> ShiftedMatrix:
        return _KrylovMatrix(self, problem, prefix)

    def linearize(
        self, dynamics: Dynamics, s: Tensor, u: Tensor, mass: Mass | None, constant: bool = False
    ) -> Linearization:
        assert dynamics is self.dynamics
        return _KrylovLinearization(self, s.numpy(), u.numpy(), constant)

    def let_go(self) -> None:
        if self._recorded is not None:
            self._recorded.shell.let_go()

    def release(self) -> None:
        if self._recorded is not None:
            self._recorded.destroy()
            self._recorded = None

    @property
    def recorded(self) -> _Recorded:
        """What solves at recorded states; made when first needed."""
        if self._recorded is None:
            self._recorded = _Recorded(self, self._options)
        return self._recorded


class _KrylovMatrix(ShiftedMatrix):
    """For the Newton iteration of a TS, whose KSP solves with it."""

    def __init__(self, solver: KrylovSolver, problem: Formulation, prefix: str) -> None:
        self._solver, self._problem = solver, problem
        self._shell = solver.shell(prefix, problem.time_is_state)
        self.mat = self._shell.mat
        self._ksp: Any = None
        self._kept: tuple[Released, np.ndarray | None] | None = None

    def configure(self, ksp) -> None:
        self._solver.configure(ksp, self._shell, self._solver.rtol)
        ksp.setPostSolve(lambda ksp, b, x: self._solved(ksp, b))
        self._ksp = ksp

    def _solved(self, ksp, b) -> None:
        self._shell.took(ksp.getIterationNumber())
        failure = describe_failure(ksp)
        # Where the right-hand side is not finite func has failed, not the method.
        if failure and self._solver.dynamics.space.every(is_finite(b.array_r)):
            self.failures += 1
            self.last_failure = failure

    def options_are_set(self, ksp) -> None:
        pass

    def fill(self, shift: float, s: float, vector: Array) -> None:
        time, u, wrt_time = self._at(s, vector)
        if not self._problem.constant or self._kept is None:
            self._shell.let_go()
            self._kept = None
            self._kept = Released(lambda: self._jacobian(time, u)), wrt_time
        self._shell.set(shift, 1.0, time, u, *self._kept)

    def _jacobian(self, time: float, u: Array) -> JacobianAt:
        jacobian = self._solver.jacobian(self._solver.dynamics, time, u)
        if isinstance(u, Tensor) or self._solver.dynamics.space.is_distributed:
            return jacobian
        return MendedProducts(jacobian, self._solver.dynamics, time, u, self._note_mended)

    def _note_mended(self) -> None:
        self.mended += 1

    def _at(self, s: float, vector: Array) -> tuple[float, Array, np.ndarray | None]:
        """Time, state, and if time is carried as one ∂f/∂s."""
        problem = self._problem
        if isinstance(vector, Tensor):
            return s, self._solver.dynamics.copied(vector), None
        time, u = problem.at(s, vector)
        return time, u, problem.wrt_time(time, u) if problem.time_is_state else None

    def leave(self) -> None:
        if self._kept is not None and self._solver.dynamics.is_large and not self._problem.constant:
            self._kept[0].let_go()

    @property
    def failure(self) -> str:
        """Why the KSP failed, if it did."""
        return "" if self._ksp is None else describe_failure(self._ksp)

    def destroy(self) -> None:
        self._kept = self._ksp = None
        self._shell.destroy()


class _Recorded:
    """A KSP of its own for solves at recorded states."""

    def __init__(self, solver: KrylovSolver, options: Mapping[str, object]) -> None:
        self._solver = solver
        # Some preconditioners look at their options when they are set up, not before.
        scope = ScopedOptions({}, solver.suggested_options, options)
        self._forget_options = weakref.finalize(self, scope.remove)
        self.shell = solver.shell(scope.prefix)
        comm = solver.dynamics.space.communicator
        ksp = self._ksp = PETSc.KSP().create(comm=PETSc.COMM_SELF if comm is None else comm)
        ksp.setOptionsPrefix(scope.prefix)
        solver.configure(ksp, self.shell, solver.adjoint_rtol)
        ksp.setFromOptions()
        self._may_guess = ksp.getType() != PETSc.KSP.Type.PREONLY
        self._x, self._b = self.shell.mat.createVecs()
        self._before: dict[int, list[np.ndarray]] = {}

    def destroy(self) -> None:
        self._forget_options()
        self.shell.destroy()
        for held in (self._ksp, self._x, self._b):
            held.destroy()

    def solve_next(self, v: np.ndarray, s: float, row: int) -> np.ndarray:
        """A transposed system, begun where the last two of this row point to.

        How near a guess is, the KSP judges in its own norm. That of the plain residual would not do: where
        rows differ in size, as those of algebraic equations and of short steps do, it passes guesses of which
        a small component is all wrong, and step after step in the same direction.
        """
        before = self._before.setdefault(row, [])
        guess = None
        if before and self._may_guess and self._solver.dynamics.space.sum(float(v @ v)) > 0:
            guess = before[-1] if len(before) == 1 else 2 * before[-1] - before[-2]
        x = self.solve(v, True, s, guess=guess)
        # What is large is remembered in half the room: as a guess it is as good.
        self._before[row] = [*before[-1:], x.astype(np.float32) if self._solver.dynamics.is_large else x]
        return x

    def correct(self, residual: np.ndarray, s: float, rtol: float) -> np.ndarray:
        """The update of a Newton iteration."""
        return self.solve(residual, False, s, rtol=max(rtol, self._solver.adjoint_rtol))

    def solve(
        self,
        v: np.ndarray,
        transpose: bool,
        s: float,
        rtol: float | None = None,
        guess: np.ndarray | None = None,
    ) -> np.ndarray:
        solver, ksp = self._solver, self._ksp
        ksp.setTolerances(
            rtol=solver.adjoint_rtol if rtol is None else rtol,
            divtol=DIVERGED if guess is None else DIVERGED_FROM_GUESS,
        )
        ksp.setInitialGuessNonzero(guess is not None)
        found = np.zeros(v.shape) if guess is None else guess.astype(float)
        if solver.dynamics.shares_vectors:
            self._b.setArray(v)
            self._x.setArray(found)
        else:  # in the arrays at hand: states may be large
            self._b.placeArray(v)
            self._x.placeArray(found)
        failure: BaseException | None = None
        try:
            (ksp.solveTranspose if transpose else ksp.solve)(self._b, self._x)
        except PETSc.Error as error:
            failure = error.__cause__ or error
        if failure is not None:
            # Outside the handler, so that the caller's exception keeps its own context.
            solver.release()  # its vectors stay locked
            if isinstance(failure, PETSc.Error) and failure.ierr == _ERR_SUP:
                raise LinearSolveError(
                    "the preconditioner has no transpose, which the backward pass needs. Try: another one; "
                    "for gamg smoothers such as options={'mg_levels_pc_type': 'jacobi'}"
                ) from failure
            raise failure
        if solver.dynamics.shares_vectors:
            found[:] = self._x.array_r
        else:
            for vector in (self._b, self._x):
                vector.resetArray()
        iterations = ksp.getIterationNumber()
        solver.krylov_iterations += iterations
        self.shell.took(iterations)
        if ksp.getConvergedReason() < 0:
            t = solver.dynamics.direction * s
            what = "a transposed system of the backward pass" if transpose else "a system of a recorded step"
            raise LinearSolveError(
                f"{what} at t = {t:.10g} could not be solved: {describe_failure(ksp)}. Try: {LINEAR_HINT}"
            )
        return found


class _KrylovLinearization(Linearization):
    """J at K states, of which one at a time is held."""

    def __init__(self, solver: KrylovSolver, s: np.ndarray, u: np.ndarray, constant: bool) -> None:
        self._solver, self._s, self._u, self._constant = solver, s, u, constant
        self._held: tuple[int, JacobianAt] | None = None

    def _at(self, k: int) -> JacobianAt:
        k = 0 if self._constant else k
        if self._held is None or self._held[0] != k:
            self._solver.recorded.shell.let_go()
            self._held = None
            self._held = k, self._solver.jacobian(self._solver.dynamics, float(self._s[k]), self._u[k])
        return self._held[1]

    def apply(self, k: int, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        jacobian = self._at(k)
        if v.ndim == 1:
            return jacobian.apply(v, transpose)
        return np.stack([jacobian.apply(row, transpose) for row in v])

    def solve(self, k: int, a: float, b: float, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        recorded, s = self._solver_at(k, a, b), float(self._s[k])
        if v.ndim == 1:
            return recorded.solve(v, transpose, s)
        return np.stack([recorded.solve(row, transpose, s) for row in v])

    def correct(self, k: int, a: float, b: float, residual: np.ndarray, rtol: float) -> np.ndarray:
        return self._solver_at(k, a, b).correct(residual, float(self._s[k]), rtol)

    def solve_next(self, k: int, a: float, b: float, v: np.ndarray, row: int) -> np.ndarray:
        return self._solver_at(k, a, b).solve_next(v, float(self._s[k]), row)

    def _solver_at(self, k: int, a: float, b: float) -> _Recorded:
        recorded = self._solver.recorded
        recorded.shell.set(a, b, float(self._s[k]), self._u[k], self._at(k))
        return recorded


def describe_failure(ksp) -> str:
    """Why a Krylov method failed, with its last residuals; empty if it did not."""
    reason = ksp.getConvergedReason()
    if reason >= 0:
        return ""
    names = {
        value: name for name, value in vars(PETSc.KSP.ConvergedReason).items() if not name.startswith("_")
    }
    why = {
        PETSc.KSP.ConvergedReason.DIVERGED_MAX_IT: "too many iterations",
        PETSc.KSP.ConvergedReason.DIVERGED_DTOL: "its residual grew",
        PETSc.KSP.ConvergedReason.DIVERGED_NANORINF: "a residual is infinite or NaN",
        PETSc.KSP.ConvergedReason.DIVERGED_PCSETUP_FAILED: "the preconditioner could not be set up",
        PETSc.KSP.ConvergedReason.DIVERGED_BREAKDOWN: "it broke down",
        PETSc.KSP.ConvergedReason.DIVERGED_INDEFINITE_PC: "it needs a definite preconditioner",
        PETSc.KSP.ConvergedReason.DIVERGED_INDEFINITE_MAT: "it needs a definite matrix",
    }.get(reason, names.get(reason, str(reason)).lower().replace("_", " "))
    residuals = ksp.getConvergenceHistory()
    residuals = residuals[residuals > 0][-SHOWN:]
    last = ", ".join(f"{r:.2e}" for r in residuals) or "none"
    return (
        f"{ksp.getType()} stopped after {ksp.getIterationNumber()} iterations ({why}); last residuals: {last}"
    )
