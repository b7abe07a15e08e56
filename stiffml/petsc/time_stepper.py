"""Set-up of a PETSc TS with its vectors, matrix, options and callbacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from stiffml.petsc.callbacks import Callbacks
from stiffml.petsc.convergence import SNESTest
from stiffml.petsc.formulation import Formulation, TimeAsState
from stiffml.petsc.library import MAX_REJECTIONS, PETSc
from stiffml.petsc.matrix import PETScSolver, ShiftedMatrix
from stiffml.petsc.options import ScopedOptions
from stiffml.petsc.rounding import rounding_of_updates
from stiffml.petsc.sharing import vector_type
from stiffml.petsc.stiffness import StiffnessTest
from stiffml.run.controller import REPEATED
from stiffml.run.kept_jacobian import MOST_KEPT, KeptJacobian, may_keep
from stiffml.run.stepping import Task
from stiffml.settings import Tolerances


class TimeStepper:
    """A TS that integrates M du/ds = f(s, u), or f + g.

    Attributes
    ----------
    ts, u : TS, Vec
        ``u`` holds the state after the last accepted step.
    problem : Formulation
        The form in which PETSc solves the equations.
    callbacks : Callbacks
    matrix : ShiftedMatrix or None
        None for explicit methods.
    guards : bool
        Whether steps are explicit and adaptive. PETSc may not restore the state after such a step is
        rejected, so each attempt starts from a copy.
    stiffness : StiffnessTest or None
        Set if an explicit method should detect stiffness.
    tolerances : Tolerances or None
        Error tolerances of the following steps; None for steps known in advance.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        system, method = task.system, task.method
        assert task.solver is None or isinstance(task.solver, PETScSolver)
        self.solver: PETScSolver | None = task.solver
        keeps_graphs = self.solver is not None and self.solver.keeps_graphs
        self.problem = (TimeAsState if method.time_is_state else Formulation)(system, keeps_graphs)
        self.guards = not method.implicit and task.tolerances is not None
        self.stiffness: StiffnessTest | None = None
        if self.guards and task.watches_stiffness:
            self.stiffness = StiffnessTest(method, system.space, self.problem.eps)
        self.callbacks = Callbacks(task, self.problem, self.guards, self.stiffness)
        self.tolerances = task.tolerances
        self.matrix: ShiftedMatrix | None = None
        self._test: SNESTest | None = None
        self.ts: Any = None
        self.options = options_of(task, self.guards)
        try:
            self.create(task.s0, task.u0)
        except BaseException:
            self.close()
            raise

    def create(self, s0: float, u0: np.ndarray) -> None:
        """Make a new TS that starts from time ``s0`` and state ``u0`` (size,)."""
        task, problem, shares = self._task, self.problem, self.callbacks.shares_vectors
        space, method = task.system.space, task.method
        comm = space.communicator or PETSc.COMM_SELF
        if space.is_distributed:
            PETSc.garbage_cleanup(comm)  # frees distributed objects of earlier solves
        self.u = PETSc.Vec().create(comm=comm)
        self.u.setSizes((problem.size, None))
        self.u.setType(vector_type(task.system.layout.device) if shares else PETSc.Vec.Type.STANDARD)
        self.u.setArray(problem.enter(s0, u0))
        work = self.u.duplicate()
        ts = self.ts = new_ts(comm, self.options.prefix, s0)
        if self.tolerances:
            self.set_tolerances(self.tolerances)
        ts.setSolution(self.u)
        if method.implicit:
            self._set_implicit(ts, work)
        if not method.implicit or task.system.g is not None:
            ts.setRHSFunction(self.callbacks.rhsfunction, work.duplicate())
        ts.setFromOptions()
        if self.matrix is not None:
            self.matrix.options_are_set(ts.getSNES().getKSP())

    def _set_implicit(self, ts, work) -> None:
        task, callbacks = self._task, self.callbacks
        assert self.solver is not None
        matrix = self.matrix = self.solver.matrix(self.problem, self.options.prefix)
        ts.setIFunction(callbacks.ifunction, work)
        ts.setIJacobian(callbacks.ijacobian, matrix.mat, matrix.mat)
        snes = ts.getSNES()
        test = self._test = None
        if task.method.newton:
            space = task.system.space
            searches = self.options.get("snes_linesearch_type") != "basic"
            may = task.tolerances is not None and matrix.can_keep and not searches
            lags = may and any(name.lstrip("-").startswith("snes_lag") for name in task.options)
            matrix.keeps = may and not lags and may_keep(task)
            test = self._test = SNESTest(
                task.newton,
                space,
                space.sum(self.problem.size),
                self._rounding_of_updates,
                callbacks.shares_vectors,
                searches=searches,
                keeping=KeptJacobian() if matrix.keeps else None,
            )
            snes.setConvergenceTest(test)
        callbacks.use(matrix, test)
        snes.getKSP().setType(PETSc.KSP.Type.PREONLY)
        matrix.configure(snes.getKSP())

    def _rounding_of_updates(self) -> np.ndarray:
        assert self.matrix is not None
        linearised, shares = self.callbacks.linearised, self.callbacks.shares_vectors
        return rounding_of_updates(self.ts.getSNES(), self.problem, self.matrix, linearised, shares)

    def set_tolerances(self, tolerances: Tolerances) -> None:
        """Set the error tolerances of the following steps."""
        self.tolerances = tolerances
        set_tolerances(self.ts, self.u, self.problem.tolerances(tolerances))

    def release(self) -> None:
        """Free the TS and its matrix; :meth:`create` makes new ones."""
        if self.ts is not None:
            self.ts.destroy()
        if self.matrix is not None:
            self.matrix.close()
        if self._test is not None:
            self._test.release()

    def close(self) -> None:
        """Free the TS and its matrix, and remove the options. Calling it again has no effect."""
        self.options.remove()
        self.release()


def new_ts(comm: Any, prefix: str, s0: float) -> Any:
    """A TS that starts at time ``s0`` and takes its options by ``prefix``."""
    ts = PETSc.TS().create(comm=comm)
    ts.setOptionsPrefix(prefix)
    ts.setProblemType(PETSc.TS.ProblemType.NONLINEAR)
    ts.setTime(s0)
    ts.setMaxSteps(2**31 - 2)  # the largest number; 2**31 - 1 would mean "not set"
    ts.setErrorIfStepFails(False)
    return ts


def set_tolerances(ts: Any, u: Any, measured: Tolerances) -> None:
    """Set the error tolerances of a TS for vectors like ``u``."""
    ts.setTolerances(*(_as_petsc_takes_it(values, u) for values in (measured.rtol, measured.atol)))


def _as_petsc_takes_it(values: float | np.ndarray, u: Any) -> Any:
    """A number, or a vector like ``u`` of numbers by component."""
    if np.ndim(values) == 0:
        return float(values)
    vector = u.duplicate()
    vector.setArray(values)
    return vector


def options_of(task: Task, guards: bool) -> ScopedOptions:
    """The options of a TS for a task."""
    system, method, options = task.system, task.method, task.options
    managed = {
        **method.petsc_options(),
        "ts_adapt_type": "basic" if task.tolerances else "none",
        "ts_adapt_scale_solve_failed": task.shrink,
        MAX_REJECTIONS: 0 if guards else task.max_cuts,
        # After a failed solve PETSc's Rosenbrock methods keep an old Jacobian and never renew it.
        "ts_max_snes_failures": "unlimited" if method.newton else 1,
        "ts_exact_final_time": "stepover",
    }
    if task.tolerances:
        # With a positive minimum PETSc would accept a step of that size whatever its error.
        managed |= {"ts_adapt_dt_min": 0.0, "ts_adapt_dt_max": task.largest}
    suggested = dict(task.solver.suggested_options) if isinstance(task.solver, PETScSolver) else {}
    if task.tolerances:
        suggested["ts_adapt_safety"] = safety = method.safety(task.tolerances.rtol)
        # Of a step that was rejected twice PETSc takes the product of both.
        suggested["ts_adapt_reject_safety"] = min(1.0, REPEATED / safety)
    if system.constant_jacobian:
        managed["snes_type"] = "ksponly"  # one linear solve, without a convergence test
    elif method.newton:
        # Those with a kept Jacobian do not count: SNESTest ends the iteration before.
        kept = MOST_KEPT if task.tolerances is not None and may_keep(task) else 0
        managed["snes_max_it"] = task.newton.max_iterations + kept
        if options.get("snes_linesearch_type", options.get("-snes_linesearch_type", "basic")) == "basic":
            # Where f is not finite at a new iterate, PETSc compares the norm of an earlier update with this
            # tolerance, and may accept the previous iterate as converged. Line searches shorten the update
            # instead, so they keep the default, which ends them well at the level of rounding error.
            managed["snes_stol"] = 0.0
        # Full Newton steps: for networks in training they took half the iterations of PETSc's default line
        # search, which also fails at the level of rounding error. A step that diverges is cut.
        suggested["snes_linesearch_type"] = "basic"
    return ScopedOptions(managed, suggested, options)
