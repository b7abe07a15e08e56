"""Forward runs: integrates a checked request from its initial state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from stiffml.discretization.trajectory import Trajectory
from stiffml.errors import Status
from stiffml.run.drive import Drive
from stiffml.run.endings import Finished, Stop
from stiffml.run.record import Failure, Run
from stiffml.run.request import Request
from stiffml.run.same_function import KEPT, Values
from stiffml.run.schedule import expected_steps
from stiffml.run.solvers import Solvers
from stiffml.run.stepping import Task
from stiffml.run.stored import checkpoints_for
from stiffml.run.watching import Stopped, Watch
from stiffml.steps import Adaptive, Steps
from stiffml.system.bounds import Limits
from stiffml.system.derivatives.joint import KeptGraphs
from stiffml.system.finite import first_not_finite
from stiffml.system.system import System


def integrate(
    request: Request, u0: np.ndarray, solvers: Solvers, watch: Watch | None = None
) -> tuple[Run, np.ndarray]:
    """Integrate M du/ds = f + g through the times of a request, from ``u0`` (size,).

    ``watch`` looks at the steps. Returns the run and its outputs (n, size), in the order of ``run.readings``.
    """
    began = time.perf_counter()
    system, steps, outputs = request.system, request.steps, request.outputs
    expected = None
    if request.plan is not None:
        expected = len(request.plan.ends)
    elif not isinstance(steps, Adaptive):
        expected = expected_steps(steps, outputs, request.method)
    checkpoints = checkpoints_for(request.adjoint, u0.size, request.method.history, expected)
    run = Run(Trajectory(outputs), checkpoints, request.returned)
    checkpoints.append(u0, None)
    on_steps = u0[None]
    if len(outputs) > 1:
        slopes = [part.evaluate(outputs[0], u0) for part in system.parts]
        _require_finite(run, outputs[0], slopes, system)
        if run.failure is None:
            run.before = Values.at(float(outputs[0]), "began", slopes, system)
            if system.constant_jacobian and system.trials is None:
                system.require_constant_jacobian(outputs[0], outputs[1], u0)
            if request.method.exponential:
                system.require_steady_part(outputs[1], u0, slopes[0])
    if len(outputs) > 1 and run.failure is None:
        if watch is not None:
            watch.begin()
        task = _task(request, u0, watch, slopes)
        drive = Drive(run, task, solvers, request.between, request.tolerances, request.events)
        on_steps = _driven(drive, run, steps)
        _note_values_at_the_end(run, system, drive)
        if system.constant_jacobian and system.trials is not None and not _seems_linear(run, request, u0):
            system.require_constant_jacobian(outputs[0], outputs[1], u0)
        for part in system.parts:
            part.release()
    run.wall_s = time.perf_counter() - began
    return run, run.in_order(on_steps)


def _task(request: Request, u0: np.ndarray, watch: Watch | None, slopes: Sequence[np.ndarray]) -> Task:
    """What the stepper of this request is to do."""
    steps, method, outputs, bounds = request.steps, request.method, request.outputs, request.bounds
    adaptive = isinstance(steps, Adaptive)
    largest = outputs[-1] - outputs[0]
    if isinstance(steps, Adaptive) and steps.maximum is not None:
        largest = min(largest, steps.maximum)
    keeps_stages, graphs = (False, 0.0) if method.implicit else request.kept
    limits = None if bounds is None else Limits(bounds, request.tolerances, request.system, u0, adaptive)
    return Task(
        request.system,
        method,
        request.solver,
        float(outputs[0]),
        u0,
        tolerances=request.tolerances if adaptive else None,
        newton=request.newton,
        largest=largest,
        last=float(outputs[-1]),
        max_cuts=40 if adaptive else 12,
        options=request.options,
        limits=limits,
        watches_stiffness=isinstance(steps, Adaptive) and steps.stop_if_stiff and not method.implicit,
        plan=request.plan,
        watch=watch,
        slopes=() if method.implicit else slopes,  # which steps of other methods would hold for nothing
        keeps_stages=keeps_stages,
        graphs=graphs,
    )


def _driven(drive: Drive, run: Run, steps: Steps) -> np.ndarray:
    """Take all steps and note in ``run`` how they ended; return the outputs (n, size) at step ends."""
    try:
        try:
            if isinstance(steps, Adaptive):
                drive.adaptively(steps)
            else:
                drive.on_schedule(steps)
        except Stop as stop:
            run.failure = stop.failure
        except Finished as finished:
            run.event, run.event_number = finished.s, finished.number
        except Stopped:
            run.stopped = True
        run.between, run.ramp_steps = drive.reader.finish(), drive.ramp_steps
        run.counts = dict(vars(drive.counts))
        if run.event is None and not run.counts["in_c"]:
            run.kept = drive.stepper.kept
    finally:
        drive.close()
    return drive.outputs.rows


def _note_values_at_the_end(run: Run, system: System, drive: Drive) -> None:
    state, end = run.checkpoints.end, float(run.trajectory.times[-1])
    if state is None or system.used is None:  # the run will not be differentiated
        return
    is_kept = run.failure is None or run.failure.status is not Status.NO_ROOM
    if run.event is None and not run.counts["in_c"] and is_kept and drive.stepper.slopes is not None:
        run.after = Values.at(end, "ended", drive.stepper.slopes, system)
    elif isinstance(run.kept, KeptGraphs) and len(run.kept) == run.trajectory.n_steps:
        pass  # the reverse sweep evaluates nothing again, or compares the ends of all steps
    elif system.f.is_compiled and all(p.is_compiled and not p.extrapolates(end) for p in system.parts):
        run.find_after = partial(_known_values, end, state, system)  # its numbers stay as they are
    else:
        run.after = _known_values(end, state, system) or _values_anew(end, state, system)


def _known_values(end: float, state: np.ndarray, system: System) -> Values | None:
    known: list[np.ndarray] = []
    for part in system.parts:
        slope = part.known_slope(end, state)
        if slope is None:
            return None
        known.append(slope)
    return Values.at(end, "ended", known, system)


def _values_anew(end: float, state: np.ndarray, system: System) -> Values | None:
    try:
        with torch.random.fork_rng(devices=[]):  # this call must not change the caller's random numbers
            slopes = [part.evaluate_anew(end, state) for part in system.parts]
    except Exception:  # the solve did not need this value, so a func that fails here does not fail the solve
        slopes = [np.full(1, np.nan)]
    return Values.at(end, "ended", slopes, system)


def _seems_linear(run: Run, request: Request, u0: np.ndarray) -> bool:
    """Whether f has changed over a run as its constant Jacobian says; True if that is not known."""
    before, after, end, system = run.before, run.after, run.checkpoints.end, request.system
    if before is None or after is None or end is None or system.f.largest > KEPT or request.solver is None:
        return True
    s, u = torch.tensor([before.s], dtype=torch.float64), torch.from_numpy(u0)[None]
    by_jacobian = request.solver.linearize(system.f, s, u, system.mass, constant=True).apply(0, end - u0)
    off = after.kept[0] - before.kept[0] - by_jacobian
    sizes = [np.abs(v).max() for v in (off, before.kept[0], after.kept[0])]
    return bool(sizes[0] <= 1e4 * system.f.eps * (sizes[1] + sizes[2]))


def _require_finite(run: Run, s: float, slopes: list[np.ndarray], system: System) -> None:
    for slope in slopes:
        worst = first_not_finite(slope)  # None if the component lies in another process
        if not system.space.every(worst is None):
            run.failure = Failure(Status.NON_FINITE, s, 0.0, worst)
