"""Solves in which every sample has times of its own: integrated side by side, differentiated together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stiffml.all_at_once.samples import taken_at_once
from stiffml.discretization.interpolation import Reading, StateReadings
from stiffml.errors import SolveError, Status, explain
from stiffml.gradients.autograd import Integrate
from stiffml.gradients.initial_values import MakeConsistent
from stiffml.gradients.tape import Tape
from stiffml.interface.arguments import Arguments
from stiffml.interface.own_times.checking import OwnRequest, check
from stiffml.interface.own_times.interpolation import interpolate
from stiffml.interface.own_times.readings import readings_between
from stiffml.interface.piece import Piece, SampleOutputs
from stiffml.interface.solution import Solution
from stiffml.native.compiled_run.qualifying import obstacle
from stiffml.native.compiled_run.samples import taken_in_c
from stiffml.native.constraints import Constraints
from stiffml.native.replay import Replay
from stiffml.native.side_by_side.drive import Drive
from stiffml.native.side_by_side.work import Taken, Work
from stiffml.run.record import Failure, Run
from stiffml.run.same_function import Values
from stiffml.run.stored import InMemory
from stiffml.stats import Stats, named_solves, spend
from stiffml.system.finite import first_not_finite
from stiffml.system.space import Space, solving_on
from stiffml.system.unnamed_parameters import require_none_at_end


def solved_by_sample(arguments: Arguments) -> tuple[Solution, SolveError | None]:
    """The solution, and the error if a sample stopped early; see :func:`stiffml.solve`."""
    with solving_on(Space()):
        request = check(arguments)
        u0 = _initial(request, arguments)
        return _solve(request, u0)


def _initial(request: OwnRequest, arguments: Arguments) -> Tensor:
    """(samples, width) the initial states, which satisfy the algebraic equations if there are any."""
    system, layout = request.system, request.layout
    u0 = layout.flatten(arguments.y0).reshape(layout.samples, layout.width)
    if system.mass is None or not system.mass.singular:
        if request.make_consistent:
            raise ValueError("make_consistent has no effect without a singular mass matrix; leave it out")
        return u0
    assert request.solver is not None, "only implicit methods take a singular mass matrix"
    found = []
    for i, own in enumerate(request.times.distinct):
        constraints = Constraints(system, float(own[0]), request.solver)
        if request.make_consistent:
            found.append(MakeConsistent.apply(constraints, request.times.t[i, 0], u0[i], *system.parameters))
            continue
        with torch.inference_mode(False), torch.no_grad():
            tolerances = request.tolerances_of(i)
            try:
                constraints.check(u0[i].detach().double().cpu().numpy(), tolerances)
            except ValueError as error:
                raise ValueError(f"for sample {request.where(i)}: {error}") from None
    return torch.stack(found) if found else u0


def _solve(request: OwnRequest, u0: Tensor) -> tuple[Solution, SolveError | None]:
    system, times, layout = request.system, request.times, request.layout
    stats, made = Stats(), list[tuple[Tape, Taken, SampleOutputs]]()

    # Jacobians need autograd, which inference mode forbids.
    @torch.inference_mode(False)
    @torch.no_grad()
    def compute() -> tuple[Tape, np.ndarray]:
        taken, run = _integrated(request, u0.detach().double().cpu().numpy())
        tape = Tape(run, Replay(taken.trajectories, request.method, system, request.solver), (), stats)
        readings, values, found = _outputs(request, taken, tape)
        index = torch.from_numpy(np.ascontiguousarray(found.T)).to(u0.device)
        made.append((tape, taken, SampleOutputs(layout, readings, index)))
        return tape.with_readings(readings), values

    t_ends, t_between = _chosen_times(request)
    u = Integrate.apply(compute, t_ends, t_between, u0.reshape(-1), *system.parameters)
    ((tape, taken, outputs),) = made
    if torch.is_grad_enabled() and not u.requires_grad:
        last = np.cumsum([len(part.times) for part in taken.trajectories.parts]) - 1
        for part, state in zip(taken.trajectories.parts, taken.states[last], strict=True):
            require_none_at_end(system, float(part.times[-1]), state)
    _count(request, tape, taken)
    error = _error(request, taken.failures)
    pieces = (Piece(tape, (t_ends, u0.reshape(-1), *system.parameters), by_sample=outputs),)
    solution = Solution(
        t=times.t.reshape(*layout.batch, -1),
        y=layout.unflatten(outputs.arranged(u)),
        status=Status.SUCCESS if error is None else error.status,
        message="every sample reached its last output time" if error is None else str(error),
        stats=stats,
        steps=tuple(part.recorded() for part in taken.trajectories.parts),
        event=None,
        interpolant=partial(interpolate, pieces[0], layout),
        pieces=pieces,
    )
    return solution, error


def _integrated(request: OwnRequest, start: np.ndarray) -> tuple[Taken, Run]:
    began, system = time.perf_counter(), request.system
    s0 = float(request.outputs[0][0])
    slopes = [part.evaluate(s0, start[0]) for part in system.parts]
    work = Work(
        system,
        request.method,
        request.solver,
        request.outputs,
        start,
        request.steps,
        request.tolerances,
        request.newton,
    )
    taken, kept = (
        (taken_at_once(work, _side_by_side, request.near))
        if request.together
        else (_side_by_side(work), None)
    )
    checkpoints = InMemory.of(taken.states, taken.stages if request.keeps_stages else None)
    run = Run(taken.trajectories.parts[0], checkpoints, np.ones(1, dtype=bool))
    run.kept = kept
    run.before = Values.at(s0, "began", slopes, system)
    if system.used is not None and all(first_not_finite(slope) is None for slope in slopes):
        end = float(taken.trajectories.times[-1])
        run.after = Values.at(
            end, "ended", [part.evaluate_anew(end, taken.states[-1]) for part in system.parts], system
        )
    for part in system.parts:
        part.release()
    if request.solver is not None:
        request.solver.release()
    run.wall_s = time.perf_counter() - began
    return taken, run


def _side_by_side(work: Work) -> Taken:
    """The steps of samples, taken one after the other."""
    return Drive(work).run() if obstacle(work) else taken_in_c(work)


def _outputs(
    request: OwnRequest, taken: Taken, tape: Tape
) -> tuple[Sequence[Reading], np.ndarray, np.ndarray]:
    """The readings, their values (outputs, width), and (samples, n) which of them an entry of t is, or −1."""
    starts, parts = taken.trajectories.starts.tolist(), taken.trajectories.parts
    numbers: list[int] = []
    positions = []
    for start, part, own, chosen in zip(starts, parts, request.times.distinct, request.on_steps, strict=True):
        position = np.full(len(own), -1)
        reached = np.flatnonzero(chosen)[: len(part.output_steps)]
        position[reached] = len(numbers) + np.arange(len(reached))
        numbers += [start + n for n in part.output_steps]
        positions.append(position)
    readings: Sequence[Reading] = StateReadings(np.array(numbers, dtype=int))
    values = [taken.states[numbers]]
    asked = []
    for part, own, chosen in zip(parts, request.times.distinct, request.on_steps, strict=True):
        inside = own[~chosen]
        asked.append(inside[inside <= part.times[-1]] if part.n_steps else inside[:0])
    if any(map(len, asked)):
        assert isinstance(tape.checkpoints, InMemory)
        between = readings_between(tape.replay, tape.checkpoints, asked)
        number = len(readings)
        for position, chosen, s in zip(positions, request.on_steps, asked, strict=True):
            position[np.flatnonzero(~chosen)[: len(s)]] = number + np.arange(len(s))
            number += len(s)
        readings = [*readings, *between]
        values.append(np.stack([reading.value for reading in between]))
    which = request.times.which
    index = np.stack([position[row] for position, row in zip(positions, which, strict=True)])
    return readings, np.concatenate(values), index


def _chosen_times(request: OwnRequest) -> tuple[Tensor, Tensor]:
    """The times on which steps end, and the others, sample by sample, differentiable."""
    times, on_steps = request.times, request.on_steps
    known: dict[
        int, tuple[np.ndarray, np.ndarray]
    ] = {}  # of samples with the same times, which are one array
    found = []
    for i, chosen in enumerate(on_steps):
        if id(chosen) not in known:
            known[id(chosen)] = times.firsts(i, chosen), times.firsts(i, ~chosen)
        found.append(known[id(chosen)])
    ends, between = (_at(times.t, [pair[k] for pair in found]) for k in (0, 1))
    return ends, between


def _at(t: Tensor, places: list[np.ndarray]) -> Tensor:
    """Of each row of t (samples, n) the numbers at some places (k,), one after the other."""
    rows = np.repeat(np.arange(len(places)), list(map(len, places)))
    return t[tuple(torch.from_numpy(index).to(t.device) for index in (rows, np.concatenate(places)))]


def _count(request: OwnRequest, tape: Tape, taken: Taken) -> None:
    system, counts = request.system, taken.counts
    if request.solver is not None:
        tape.stats.linear = request.solver.description
    steps = sum(part.n_steps for part in taken.trajectories.parts)
    tape.stats.count(
        accepted=steps,
        rejected=counts.rejected,
        ramp_steps=request.ramp_steps,
        **named_solves({"newton_iterations": counts.newton_iterations}, request.method.newton, False),
        mended_jacobians=counts.mended_jacobians,
        in_c=counts.in_c,
        at_once=counts.at_once,
        rhs_evals=system.rhs_evals,
        jacobians=system.f.jacobians,
        wall_s=tape.run.wall_s,
    )
    spend(
        accepted=steps,
        rejected=counts.rejected,
        rhs_evals=system.rhs_evals,
        jacobians=system.f.jacobians,
    )


def _error(request: OwnRequest, failures: dict[int, Failure]) -> SolveError | None:
    """What stopped the first sample that failed, and how many did."""
    if not failures:
        return None
    sample = min(failures)
    failure = failures[sample]
    reason, hint = explain(failure.status, request.method.implicit)
    others = f", and for {len(failures) - 1} other samples" if len(failures) > 1 else ""
    component = None
    if failure.component is not None:
        component = request.layout.component(sample * request.layout.width + failure.component)
    return SolveError(
        failure.status,
        f"for sample {request.where(sample)}{others} {reason}"
        + (f": {failure.detail}" if failure.detail else ""),
        hint,
        t=request.system.direction * failure.s,
        h=request.system.direction * failure.size,
        component=component,
    )
