"""A forward run: from output times and step choice to a trajectory, one step at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch

from stiffml.discretization.trajectory import Growing, Trajectory
from stiffml.errors import Status
from stiffml.methods import Method
from stiffml.petsc import Stepper
from stiffml.petsc.matrix import PETScSolver
from stiffml.run.checkpoints import checkpoints_for
from stiffml.run.drive import Drive, Finished, Stop, scheduled
from stiffml.run.events import EventFunc
from stiffml.run.results import Failure, Run
from stiffml.run.same_function import Values
from stiffml.settings import Discrete, NewtonLimits, Tolerances
from stiffml.steps import Adaptive, Fixed, Grid, Recorded, Steps
from stiffml.system.bounds import Bounds, Limits
from stiffml.system.finite import first_not_finite
from stiffml.system.system import System


def integrate(
    system: System,
    method: Method,
    outputs: np.ndarray,
    returned: np.ndarray,
    between: np.ndarray,
    u0: np.ndarray,
    steps: Steps,
    tolerances: Tolerances,
    newton: NewtonLimits,
    options: Mapping[str, object],
    adjoint: Discrete,
    event: EventFunc | None,
    bounds: Bounds | None = None,
    solver: PETScSolver | None = None,
) -> Run:
    """Integrate M du/ds = f + g through increasing ``outputs`` from ``u0`` (size,), both float64.

    Steps end on ``outputs``, of which some are ``returned``, and within ``bounds``; at the times ``between``
    the solution is interpolated. The run ends where ``event`` has a root. Implicit methods need a ``solver``.
    """
    began = time.perf_counter()
    expected = None if isinstance(steps, Adaptive) else _expected(steps, outputs, method)
    checkpoints = checkpoints_for(adjoint, u0.size, method.history, expected)
    run = Run(Trajectory(outputs), checkpoints, Growing((u0.size,)), returned)
    checkpoints.append(u0, None)
    run.outputs.append(u0)
    if len(outputs) > 1:
        slopes = [part.evaluate(outputs[0], u0) for part in system.parts]
        _require_finite(run, outputs[0], slopes, system)
        if run.failure is None:
            run.before = Values.at(float(outputs[0]), "began", slopes, system)
            if system.constant_jacobian:
                system.require_constant_jacobian(outputs[0], outputs[1], u0)
    if len(outputs) > 1 and run.failure is None:
        adaptive = isinstance(steps, Adaptive)
        largest = outputs[-1] - outputs[0]
        if isinstance(steps, Adaptive) and steps.maximum is not None:
            largest = min(largest, steps.maximum)
        limits = None if bounds is None else Limits(bounds, tolerances, system, u0, adaptive)
        stepper = Stepper(
            system,
            method,
            float(outputs[0]),
            u0,
            tolerances=tolerances if adaptive else None,
            newton=newton,
            largest=largest,
            last=float(outputs[-1]),
            options=options,
            max_cuts=40 if adaptive else 12,
            limits=limits,
            watches_stiffness=isinstance(steps, Adaptive) and steps.stop_if_stiff,
            solver=solver,
        )
        try:
            drive = Drive(run, stepper, system, method, tolerances, u0, between, event, limits, solver)
            try:
                if isinstance(steps, Adaptive):
                    drive.adaptively(steps)
                else:
                    drive.on_schedule(steps)
            except Stop as stop:
                run.failure = stop.failure
            except Finished as finished:
                run.event = finished.s
            run.between = drive.reader.finish()
            run.counts = {
                "rejected": stepper.rejected,
                "newton_iterations": stepper.newton_iterations,
                "krylov_iterations": stepper.krylov_iterations,
                "mended_jacobians": stepper.mended_jacobians,
            }
        finally:
            stepper.close()
        run.after = _values_at_the_end(run, system)
        for part in system.parts:
            part.release()
    run.wall_s = time.perf_counter() - began
    return run


def _values_at_the_end(run: Run, system: System) -> Values | None:
    state, end = run.checkpoints.end, float(run.trajectory.times[-1])
    if state is None or system.used is None:  # nobody will differentiate it
        return None
    try:
        with torch.random.fork_rng(devices=[]):  # a value besides those of the run shall not change the next
            slopes = [part.evaluate_anew(end, state) for part in system.parts]
    except Exception:  # the solve did not need this value: where func has none, there is none to compare
        slopes = [np.full(1, np.nan)]
    return Values.at(end, "ended", slopes, system)


def _require_finite(run: Run, s: float, slopes: list[np.ndarray], system: System) -> None:
    for slope in slopes:
        worst = first_not_finite(slope)  # None where it is in the part of another process
        if not system.space.every(worst is None):
            run.failure = Failure(Status.NON_FINITE, s, 0.0, worst)


def _expected(steps: Fixed | Grid | Recorded, outputs: np.ndarray, method: Method) -> int:
    """How many steps there will be, but for those that are cut."""
    return sum(map(len, scheduled(steps, outputs, method)[0])) if len(outputs) > 1 else 0
