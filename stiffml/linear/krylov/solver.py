"""A Krylov method of PETSc on the operator a·M − b·J, with a preconditioner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stiffml.linear.inverse import ApproximateInverse
from stiffml.linear.krylov.inverses import OwnInverse
from stiffml.linear.krylov.matrix_free import JacobianOf, MatrixFree
from stiffml.linear.krylov.newton_matrix import KrylovMatrix
from stiffml.linear.krylov.recorded import RecordedSystems
from stiffml.linear.operator import ShiftedOperator
from stiffml.linear.settings import GMRES, Krylov
from stiffml.petsc.formulation import Formulation
from stiffml.petsc.library import PETSc
from stiffml.petsc.matrix import PETScSolver, ShiftedMatrix
from stiffml.petsc.options import ScopedOptions
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.graph import Array
from stiffml.system.derivatives.linearization import JacobianAt, Linearization
from stiffml.system.mass import Mass

MakeInverse = Callable[[str], ApproximateInverse]
"""(prefix of its options) -> a preconditioner at work."""

_SET_BY_LINEAR = {"ksp_type", "ksp_rtol", "ksp_atol", "ksp_max_it", "ksp_gmres_restart", "pc_type"}

NOT_KRYLOV = {"", "none", "preonly", "python", "hpddm", "qcg", "nash", "stcg", "gltr"} | {
    *("pipelcg", "pipecgrr", "eksm", "fetidp", "tsirm", "lsqr", "cgls"),
}
"""PETSc's names of KSPs that do not iterate, that solve least squares only (whose residual is another one),
or that are missing in this PETSc."""

PASSED_ON = ("ksp_", "pc_", "mg_", "sub_", "redundant_", "telescope_", "mat_")
"""Beginnings of options that solves at recorded states get too."""

CONTRACTION = 1e-3
"""The relative residual to which Newton's updates are solved for where recorded steps are taken again."""


class KrylovSolver(PETScSolver):
    """A Krylov method with a preconditioner.

    Parameters
    ----------
    setting : Krylov
    rtol : float
        Of forward solves.
    dynamics : Dynamics
        The right-hand side, or its implicit part.
    mass : Mass or None
    jacobian_of : callable
        (dynamics, s, u) -> J there.
    make_inverse : callable or None
        (prefix of its options) -> the preconditioner at work. Forward and backward solves have one each.
    description : str or callable
        A function of no arguments where it depends on the run.
    options : mapping
        The caller's PETSc options, those of the KSP and the PC among them.
    suggested : mapping
        Further ones; the caller's take precedence.
    shares_vectors : bool
        Whether PETSc's vectors are shared with torch, on the device of ``func``.
    """

    is_krylov = True

    def __init__(
        self,
        setting: Krylov,
        rtol: float,
        dynamics: Dynamics,
        mass: Mass | None,
        jacobian_of: JacobianOf,
        make_inverse: MakeInverse | None,
        description: str | Callable[[], str],
        options: Mapping[str, object],
        suggested: Mapping[str, object],
        shares_vectors: bool = False,
    ) -> None:
        self._setting, self._dynamics, self._mass = setting, dynamics, mass
        # Products of a function of single precision are known no better.
        known = 100 * torch.finfo(dynamics.layout.dtype).eps
        self._rtol, self._adjoint_rtol = max(rtol, known), max(setting.adjoint_rtol, known)
        self.contraction = max(CONTRACTION, self._adjoint_rtol)
        # The gradient is known to adjoint_rtol only.
        self.enough = 0.1 * self._adjoint_rtol
        self._jacobian_of, self._make_inverse = jacobian_of, make_inverse
        self._description = description
        self.keeps_graphs, self.shares_vectors = isinstance(jacobian_of, MatrixFree), shares_vectors
        clashes = sorted({name.lstrip("-") for name in options} & _SET_BY_LINEAR)
        if clashes:
            raise ValueError(f"options: {', '.join(clashes)} is set by linear=; use its arguments")
        self.suggested_options = suggested
        self._options = {
            name: value
            for name, value in options.items()
            if name.lstrip("-").startswith(PASSED_ON) and "tol" not in name and "monitor" not in name
        }
        self._recorded: RecordedSystems | None = None
        self._iterations = 0  # with those that are closed

    @property
    def description(self) -> str:
        return self._description if isinstance(self._description, str) else self._description()

    @property
    def numbers_per_jacobian(self) -> int:
        return 1  # at one state at a time

    @property
    def krylov_iterations(self) -> int:
        return self._iterations + (0 if self._recorded is None else self._recorded.iterations)

    def _operator(self, prefix: str, with_time: bool = False) -> ShiftedOperator:
        inverse = None if self._make_inverse is None else self._make_inverse(prefix)
        communicator = self._dynamics.space.communicator
        own = isinstance(inverse, OwnInverse)  # which is told of every point
        layout, shares = self._dynamics.layout, self.shares_vectors
        return ShiftedOperator(layout, self._mass, inverse, communicator, with_time, own, shares)

    def _set_up(self, ksp, operator: ShiftedOperator, rtol: float) -> None:
        """Let a KSP solve with an operator."""
        setting = self._setting
        types = vars(PETSc.KSP.Type).items()
        known = sorted({value for name, value in types if not name.startswith("_")} - NOT_KRYLOV)
        if setting.method not in known:
            raise ValueError(f"linear: PETSc has no {setting.method!r} here; it knows {', '.join(known)}")
        ksp.setType(setting.method)
        ksp.setTolerances(rtol=rtol, atol=1e-300, max_it=setting.max_iterations)
        if isinstance(setting, GMRES):
            ksp.setGMRESRestart(setting.restart)
        ksp.setConvergenceHistory(setting.max_iterations + 2, reset=True)
        operator.configure(ksp)

    def matrix(self, problem: Formulation, prefix: str) -> ShiftedMatrix:
        operator = self._operator(prefix, problem.time_is_state)
        return KrylovMatrix(
            operator,
            problem,
            self._dynamics,
            self._jacobian_of,
            lambda ksp: self._set_up(ksp, operator, self._rtol),
        )

    def evaluate(self, dynamics: Dynamics, s: Tensor, u: Tensor) -> Tensor:
        if not self.keeps_graphs or len(s) > 1:
            return dynamics.evaluate_many(s, u)
        return dynamics.evaluate_with_graph(float(s[0]), self._placed(u[0].numpy())).cpu()[None]

    def linearize(
        self, dynamics: Dynamics, s: Tensor, u: Tensor, mass: Mass | None, constant: bool = False
    ) -> Linearization:
        assert dynamics is self._dynamics
        return _KrylovLinearization(self, s.numpy(), u.numpy(), constant)

    def jacobian(self, s: float, u: np.ndarray) -> JacobianAt:
        """J at a recorded state."""
        return self._jacobian_of(self._dynamics, s, self._placed(u))

    def _placed(self, u: np.ndarray) -> Array:
        """A state where PETSc's vectors are."""
        return torch.from_numpy(u).to(self._dynamics.layout.device) if self.shares_vectors else u

    def release_jacobian(self) -> None:
        if self._recorded is not None:
            self._recorded.renew = None
            self._recorded.operator.release_jacobian()

    def release(self) -> None:
        if self._recorded is not None:
            self._iterations += self._recorded.iterations
            self._recorded.close()
            self._recorded = None

    @property
    def recorded(self) -> RecordedSystems:
        """What solves at recorded states; made when it is first needed, and after a failure."""
        if self._recorded is not None and self._recorded.is_closed:
            self.release()
        if self._recorded is None:
            # Some preconditioners read their options when they are made, not when they are set up.
            options = ScopedOptions({}, self.suggested_options, self._options)
            try:
                operator = self._operator(options.prefix)
            except BaseException:
                options.remove()
                raise
            self._recorded = RecordedSystems(
                operator,
                options,
                lambda ksp: self._set_up(ksp, operator, self._adjoint_rtol),
                self._dynamics,
                self._adjoint_rtol,
                self.shares_vectors,
            )
        return self._recorded


class _KrylovLinearization(Linearization):
    """J at K states, of which one at a time is held."""

    def __init__(self, solver: KrylovSolver, s: np.ndarray, u: np.ndarray, constant: bool) -> None:
        self._solver, self._s, self._u, self._constant = solver, s, u, constant
        self._held: tuple[int, JacobianAt] | None = None

    def _at(self, k: int) -> JacobianAt:
        k = 0 if self._constant else k
        if self._held is None or self._held[0] != k:
            self._solver.recorded.renew = None
            self._solver.recorded.operator.release_jacobian()
            self._held = None
            self._held = k, self._solver.jacobian(float(self._s[k]), self._u[k])
        return self._held[1]

    def apply(self, k: int, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        jacobian = self._at(k)
        if v.ndim == 1:
            return jacobian.apply(v, transpose)
        return np.stack([jacobian.apply(row, transpose) for row in v])

    def solve(self, k: int, a: float, b: float, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        recorded, s = self._systems_at(k, a, b), float(self._s[k])
        if v.ndim == 1:
            return recorded.solve(v, transpose, s)
        return np.stack([recorded.solve(row, transpose, s) for row in v])

    def correct(self, k: int, a: float, b: float, residual: np.ndarray, rtol: float) -> np.ndarray:
        return self._systems_at(k, a, b).correct(residual, float(self._s[k]), rtol)

    def solve_next(self, k: int, a: float, b: float, v: np.ndarray, row: int) -> np.ndarray:
        return self._systems_at(k, a, b).solve_next(v, float(self._s[k]), row)

    def _systems_at(self, k: int, a: float, b: float) -> RecordedSystems:
        recorded = self._solver.recorded
        given = a, b, float(self._s[k]), self._u[k], self._at(k)
        recorded.operator.set(*given)
        recorded.renew = partial(recorded.operator.set, *given)
        return recorded
