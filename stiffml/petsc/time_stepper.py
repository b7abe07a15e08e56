"""One PETSc TS: its set-up, and the functions that it calls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from stiffml.errors import Status
from stiffml.methods import Method
from stiffml.petsc.convergence import NewtonTest
from stiffml.petsc.formulation import Formulation, TimeAsState
from stiffml.petsc.library import PETSc
from stiffml.petsc.matrix import PETScSolver, ShiftedMatrix
from stiffml.petsc.options import ScopedOptions
from stiffml.petsc.sharing import shared, vector_type, written
from stiffml.petsc.stages import read_stages
from stiffml.petsc.stiffness import StiffnessTest
from stiffml.settings import NewtonLimits, Tolerances
from stiffml.system.bounds import Limits
from stiffml.system.derivatives.jacobian import NARROW
from stiffml.system.finite import is_finite
from stiffml.system.system import System

_HUGE = 1e100
_LONGER = 100.0


class TimeStepper:
    """A TS that integrates du/ds = f(s, u), with the vectors, the matrix and the options that it needs.

    Parameters
    ----------
    system : System
    method : Method
    s0, u0 : float, ndarray
        Initial time and state.
    tolerances : Tolerances or None
        None for steps known beforehand: then only a Newton failure cuts a step, in halves.
    newton : NewtonLimits
    largest : float
        Largest step size the error estimate may suggest.
    last : float
        Where the run ends.
    options : mapping
        The caller's PETSc options.
    max_cuts : int
        Cuts of one step in a row before the step has failed.
    limits : Limits or None
        Where steps may end.
    solver : PETScSolver or None
        For the linear systems of an implicit method.
    watches_stiffness : bool
        Whether an adaptive explicit method is to notice that the problem is stiff.

    Attributes
    ----------
    half : tuple of float and ndarray, or None
        Time and state of the half step with which PETSc's BDF starts, once the first step is taken.
    met_non_finite : bool
        Whether ``func`` returned a non-finite or enormous value in the last step of an explicit method.
    bad_slope : ndarray or None
        What ``func`` returned when it was last not finite, first in that step.
    """

    def __init__(
        self,
        system: System,
        method: Method,
        s0: float,
        u0: np.ndarray,
        *,
        tolerances: Tolerances | None,
        newton: NewtonLimits,
        largest: float,
        last: float,
        options: Mapping[str, object],
        max_cuts: int,
        limits: Limits | None = None,
        watches_stiffness: bool = False,
        solver: PETScSolver | None = None,
    ) -> None:
        self._system, self._method, self._solver = system, method, solver
        keeps_graphs = solver is not None and solver.keeps_graphs
        self._problem = (TimeAsState if method.time_is_state else Formulation)(system, keeps_graphs)
        self._kept = method.kept_stages(system.form)
        self._failure: BaseException | None = None
        self._guard = not method.implicit and tolerances is not None
        self._stiffness: StiffnessTest | None = None
        if self._guard and watches_stiffness:
            unit = float(torch.finfo(system.layout.dtype).eps)
            self._stiffness = StiffnessTest(method, system.space, unit)
        self.half: tuple[float, np.ndarray] | None = None
        self._wants_half = method.starts_with_half_step
        self._finds_start_slope = method.explicit_first_stage and system.g is None
        wants_both = system.layout.width <= NARROW or keeps_graphs
        self._shares_vectors = solver is not None and solver.shares_vectors
        self._wants_both = wants_both and not system.constant_jacobian
        self.met_non_finite = False
        self.bad_slope: np.ndarray | None = None
        self._first_bad: np.ndarray | None = None
        self.cut_by: Status | None = None
        self.detail = ""
        self._limits = limits
        self._replaced = 0
        self._matrix: ShiftedMatrix | None = None
        self._linearised = s0, 0.0  # time and shift of the last Jacobian
        self._unit = float(torch.finfo(system.layout.dtype).eps)
        self._earlier = 0, ""  # linear failures of matrices before, and the last of them
        self._earlier_mended = 0
        self._ts: Any = None
        self._max_cuts = max_cuts
        self._newton, self._tolerances = newton, tolerances
        self._failed_solves = 0
        self._undone = self._noted = False
        # One-step methods whose step PETSc may leave half done.
        # Where a step does not know f at its end, it may end where no other can begin.
        forgets = system.f.is_large or system.space.is_distributed or self._shares_vectors
        self._looks_ahead, self._last = not method.evaluates_end(system.form) and not forgets, last
        self._recreates = method.implicit and (not method.newton or system.g is not None)
        self._earlier_iterations = 0, 0  # Newton's and Krylov's, with TS objects before
        self._solves_at_start, self._taken = 0, math.inf

        managed = {
            **method.petsc_options(),
            "ts_adapt_type": "basic" if tolerances else "none",
            "ts_adapt_scale_solve_failed": self._shrink,
            "ts_max_step_rejections": 0 if self._guard else max_cuts,
            # A failed solve leaves PETSc's Rosenbrock methods with a Jacobian they never renew.
            "ts_max_snes_failures": "unlimited" if method.newton else 1,
            "ts_exact_final_time": "stepover",
        }
        if tolerances:
            # With a smallest size PETSc would accept a step of that size whatever its error.
            managed |= {"ts_adapt_dt_min": 0.0, "ts_adapt_dt_max": largest}
        suggested = {} if solver is None else dict(solver.suggested_options)
        if system.constant_jacobian:
            managed["snes_type"] = "ksponly"  # one solve, without a look at what it leaves
        elif method.newton:
            managed["snes_max_it"] = newton.max_iterations
            if options.get("snes_linesearch_type", options.get("-snes_linesearch_type", "basic")) == "basic":
                # Where f is not finite at a new iterate, PETSc compares norms of an earlier update with this,
                # and may take the solve for converged at the iterate before. Line searches shorten the update
                # instead, and where that is rounding this ends them well.
                managed["snes_stol"] = 0.0
            # Full Newton steps: for networks under training they took half the iterations of PETSc's
            # default line search, which fails at the level of rounding besides. A step that diverges is cut.
            suggested["snes_linesearch_type"] = "basic"
        self._options = ScopedOptions(managed, suggested, options)
        self._options_checked = not options
        try:
            self._create(s0, u0)
        except BaseException:
            self.close()
            raise

    @property
    def _shrink(self) -> float:
        """By what a step is cut when it cannot be solved for."""
        return 0.25 if self._tolerances else 0.5

    def _create(self, s0: float, u0: np.ndarray) -> None:
        problem, comm = self._problem, self._system.space.communicator or PETSc.COMM_SELF
        if self._system.space.is_distributed:
            PETSc.garbage_cleanup(comm)  # of what earlier solves have left behind
        self._u = PETSc.Vec().create(comm=comm)
        self._u.setSizes((problem.size, None))
        self._u.setType(
            vector_type(self._system.layout.device) if self._shares_vectors else PETSc.Vec.Type.STANDARD
        )
        self._u.setArray(problem.enter(s0, u0))
        self._work = self._u.duplicate()
        ts = self._ts = PETSc.TS().create(comm=comm)
        ts.setOptionsPrefix(self._options.prefix)
        ts.setProblemType(PETSc.TS.ProblemType.NONLINEAR)
        ts.setTime(s0)
        ts.setMaxSteps(2**31 - 2)  # one more means: not set
        ts.setErrorIfStepFails(False)
        if self._tolerances:
            self.set_tolerances(self._tolerances)
        ts.setSolution(self._u)
        if self._method.implicit:
            self._set_implicit(ts)
        if not self._method.implicit or self._system.g is not None:
            ts.setRHSFunction(self._rhsfunction, self._work.duplicate())
        ts.setFromOptions()
        if self._matrix is not None:
            self._matrix.options_are_set(ts.getSNES().getKSP())

    def _set_implicit(self, ts) -> None:
        assert self._solver is not None
        matrix = self._matrix = self._solver.matrix(self._problem, self._options.prefix)
        ts.setIFunction(self._ifunction, self._work)
        ts.setIJacobian(self._ijacobian, matrix.mat, matrix.mat)
        snes = ts.getSNES()
        if self._method.newton:
            space = self._system.space
            count = space.sum(self._problem.size)
            self._test = NewtonTest(
                self._newton,
                space,
                count,
                self._rounding_of_updates,
                self._shares_vectors,
                searches=self._options.get("snes_linesearch_type") != "basic",
            )
            snes.setConvergenceTest(self._test)
        snes.getKSP().setType(PETSc.KSP.Type.PREONLY)
        matrix.configure(snes.getKSP())

    def set_tolerances(self, tolerances: Tolerances) -> None:
        """Those of the steps to come."""
        self._tolerances = tolerances
        measured = self._problem.tolerances(tolerances)
        self._ts.setTolerances(measured.rtol, self._tolerance_vector(measured.atol))

    def _tolerance_vector(self, atol: float | np.ndarray):
        if np.ndim(atol) == 0:
            return float(atol)
        vector = self._u.duplicate()
        vector.setArray(atol)
        return vector

    @property
    def time(self) -> float:
        return self._ts.getTime()

    @property
    def state(self) -> np.ndarray:
        """The state after the last accepted step; a view that the next step overwrites."""
        return self._problem.leave(self._u.array_r)

    @property
    def stages(self) -> np.ndarray | None:
        """The stages of the last step, (stages, size); None where they follow from the states."""
        return read_stages(self._ts, self._kept, self._problem.size) if self._kept else None

    def close(self) -> None:
        """Free the TS and take the options back; may be called again."""
        self._options.remove()
        if self._ts is not None:
            self._ts.destroy()
        if self._matrix is not None:
            self._matrix.close()

    def _ifunction(self, ts, s: float, u, udot, residual) -> None:
        try:
            s = self._right_time(ts, s)
            if self._wants_half and s < ts.getTime() + 0.75 * ts.getTimeStep():
                # The last of these evaluations is at the converged half step.
                self.half = (s, u.array_r.copy())
            if self._method.newton and self._matrix is not None:
                self._matrix.release_jacobian()
            with_jacobian = self._wants_both and self._expects_jacobian(s, ts)
            if self._shares_vectors:
                with written(residual) as into:
                    change, state = shared(udot), shared(u)
                    values = self._system.f.evaluate_shared(s, state, with_jacobian)
                    if not bool(torch.isfinite(values).all()):
                        self._note(values.cpu().numpy())
                    torch.sub(change, values, out=into)
            else:
                slope = self._problem.slope(s, u.array_r, with_jacobian)
                if not is_finite(slope):
                    self._note(slope)
                np.subtract(self._problem.weigh(udot.array_r), slope, out=residual.array_w)
        except BaseException as error:
            self._failure = error
            raise

    def _right_time(self, ts, s: float) -> float:
        # For the slope with which methods of an explicit first stage start, PETSc solves at a time that was
        # never set.
        starting = self._finds_start_slope and self._test.solves == self._solves_at_start
        return ts.getTime() if starting else s

    def _renew_start_slope(self, size: float) -> None:
        """Before a much longer step, solve for the slope it begins with instead of taking the last stage's.

        That is a difference of states divided by the size of the last step, so its rounding grows with the
        ratio of the sizes.
        """
        if self._finds_start_slope and size > _LONGER * self._taken:
            self._ts.restartStep()
            self._solves_at_start = self._test.solves

    def _expects_jacobian(self, s: float, ts) -> bool:
        # A Rosenbrock step takes its Jacobian at its start.
        return self._test.expects_jacobian if self._method.newton else s == ts.getTime()

    def _ijacobian(self, ts, s: float, u, udot, shift: float, mat, pmat) -> None:
        try:
            assert self._matrix is not None
            s = self._right_time(ts, s)
            vector: Any = shared(u) if self._shares_vectors else u.array_r
            self._linearised = s, shift
            self._matrix.fill(shift, s, vector)
        except BaseException as error:
            self._failure = error
            raise

    def _note(self, slope: np.ndarray) -> None:
        self._noted = True
        if self._first_bad is None:
            whole = slope.size == self._problem.size  # and not of g, which knows nothing of time
            self.bad_slope = self._first_bad = (self._problem.leave(slope) if whole else slope).copy()

    def _rounding_of_updates(self) -> np.ndarray:
        """(size,) what rounding of the equations makes of Newton's updates: about |W⁻¹| times that of a row.

        The rounding of a row is seen by moving the state by its own, and its sum over the columns of W⁻¹
        by giving the rows random signs. For stalled iterations only: it takes a few calls of ``func``.
        """
        s, shift = self._linearised
        snes = self._ts.getSNES()
        x = snes.getSolution()
        u = shared(x).cpu().numpy() if self._shares_vectors else x.array_r.copy()
        signs = np.random.default_rng(0)

        def sign() -> np.ndarray:
            return signs.choice((-1.0, 1.0), u.size)

        slope = self._problem.slope(s, u, False)
        moves = [self._problem.slope(s, u * (1 + self._unit * sign()), False) - slope for _ in range(2)]
        rows = np.abs(shift * self._problem.weigh(np.abs(u))) + np.abs(slope)
        rows = np.finfo(float).eps * rows + np.max(np.abs(moves), axis=0)
        return self._solved_with(snes.getKSP(), [rows * sign() for _ in range(2)])

    def _solved_with(self, ksp, sides: list[np.ndarray]) -> np.ndarray:
        """The largest |W⁻¹ v|, by component."""
        matrix, b, x = self._matrix, self._u.duplicate(), self._u.duplicate()
        assert matrix is not None
        failures = matrix.failures, matrix.last_failure
        found = np.zeros(self._problem.size)
        for side in sides:
            b.setArray(side)
            ksp.solve(b, x)
            np.maximum(found, np.abs(x.array_r), out=found)
        matrix.failures, matrix.last_failure = failures
        b.destroy()
        x.destroy()
        return found

    def _rhsfunction(self, ts, s: float, u, slope) -> None:
        try:
            part = self._system.f if self._system.g is None else self._system.g
            if self._shares_vectors:
                with written(slope) as into:
                    into.copy_(part.evaluate_shared(s, shared(u)))
                return
            state = u.array_r
            values = part.evaluate(s, state)
            if not is_finite(values):
                self._note(values)
            if self._stiffness is not None:
                self._stiffness.evaluated(state, values)
            if self._guard and not np.abs(values).max() <= _HUGE:
                # An infinite error norm, or one whose square overflows, would end the run; an enormous
                # one cuts the step. No two stages get the same: in the error estimate, whose weights
                # add up to zero, equal ones would cancel.
                self.met_non_finite = True
                self._replaced += 1
                huge = _HUGE / (1 + self._replaced % 7)
                values = np.clip(np.nan_to_num(values, nan=huge), -huge, huge)
            slope.setArray(values)
        except BaseException as error:
            self._failure = error
            raise
