"""Interpolation between the steps of a solve that has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import times
from stiffml.discretization.interpolation import Reading, StateReadings
from stiffml.gradients.autograd import Integrate
from stiffml.gradients.events import moved_with_end
from stiffml.gradients.linearized import longest_segment
from stiffml.gradients.tape import Tape
from stiffml.interface.few_steps import warn_of_few_steps
from stiffml.interface.piece import Piece
from stiffml.run.between import states_between
from stiffml.run.dense_output import reader_for
from stiffml.system.state import State


def interpolate(pieces: Sequence[Piece], t: Tensor) -> State:
    """The states at the times t (n,), differentiable; see :meth:`stiffml.Solution.interpolate`."""
    t = times("t", t)
    # The last run may have failed in its first step.
    pieces = [piece for piece in pieces if piece.tape.replay.trajectory.n_steps > 0]
    if not pieces:
        raise ValueError("interpolate: the solution took no steps, and there is nothing to read between")
    system = pieces[0].tape.replay.system
    s = system.direction * t.detach().double().cpu().numpy()
    spans = [piece.tape.replay.trajectory.times[[0, -1]] for piece in pieces]
    begin, end = spans[0][0], spans[-1][1]
    slack = 1e-12 * abs(end - begin)
    outside = ~((begin - slack <= s) & (s <= end + slack))
    if outside.any():
        at = int(np.argmax(outside))
        low, high = sorted(system.direction * np.array([begin, end]))
        raise ValueError(f"t[{at}] = {float(t[at]):.17g} lies outside the span [{low:.17g}, {high:.17g}]")
    # Two pieces meet at a breakpoint. A time there belongs to the first, since algebraic variables may jump.
    which = np.clip(np.searchsorted([span[0] for span in spans], s, side="left") - 1, 0, None)
    if not which.any():
        return system.layout.unflatten(interpolated_piece(pieces[0], t, s))
    rows: list[Tensor] = []
    order: list[np.ndarray] = []
    for number in np.unique(which):
        mine = np.flatnonzero(which == number)
        rows.append(interpolated_piece(pieces[number], t[torch.from_numpy(mine)], s[mine]))
        order.append(mine)
    return system.layout.unflatten(torch.cat(rows)[torch.from_numpy(np.argsort(np.concatenate(order)))])


def step_times(pieces: Sequence[Piece]) -> Tensor:
    """The start of a solve and the ends of its steps, (steps + 1,), in the order of time."""
    system = pieces[0].tape.replay.system
    times = [piece.tape.run.trajectory.times[first:] for first, piece in _own_starts(pieces)]
    return torch.from_numpy(system.direction * np.concatenate(times)).to(system.layout.device)


def step_states(pieces: Sequence[Piece]) -> State:
    """The states at these times, differentiable; see :meth:`stiffml.Solution.step_states`."""
    rows = []
    for first, piece in _own_starts(pieces):
        count = piece.tape.run.trajectory.n_steps
        t_ends, u0, *_ = piece.inputs
        found = _of_piece(piece, t_ends[:0], _all_states) if count else u0[None]
        rows.append(found[first:])
    return pieces[0].tape.replay.system.layout.unflatten(torch.cat(rows))


def _own_starts(pieces: Sequence[Piece]) -> list[tuple[int, Piece]]:
    """For each run, from which of its states on they count: its start may be the end of the run before."""
    return [(int(number > 0 and not piece.follows_jump), piece) for number, piece in enumerate(pieces)]


def read_values(tape: Tape, s: np.ndarray) -> np.ndarray:
    """The states (n, size) of one run at the times s (n,) in solver time."""
    with tape.at_work():
        return _states(tape, s)


def _all_states(tape: Tape) -> tuple[Tape, np.ndarray]:
    replay, last = tape.replay, tape.replay.trajectory.n_steps
    parts = [tape.checkpoints.start[None].copy()]
    for segment in tape.checkpoints.forwards(replay, last, longest_segment(replay)):
        begin = segment.first - segment.origin
        parts.append(segment.states[begin + 1 : begin + 1 + segment.last - segment.first].copy())
    return tape.with_readings(StateReadings(np.arange(last + 1))), np.concatenate(parts)


def interpolated_piece(piece: Piece, t: Tensor, s: np.ndarray) -> Tensor:
    """The states (n, size) of one run at the times t (n,), which are ``s`` in solver time."""
    warn_of_few_steps(piece.tape.replay, piece.tape.replay.single.times, s)

    def read(tape: Tape) -> tuple[Tape, np.ndarray]:
        return tape.read_later(partial(_readings, tape, s)), _states(tape, s)

    return _of_piece(piece, t, read)


def _of_piece(piece: Piece, t: Tensor, read: Callable[[Tape], tuple[Tape, np.ndarray]]) -> Tensor:
    """What is read from a run (n, size), with gradients. ``t`` are the times of readings between steps.

    ``read`` takes the tape of the run, and returns that with the readings and their values.
    """
    tapes: list[Tape] = []

    @torch.inference_mode(False)
    @torch.no_grad()
    def compute() -> tuple[Tape, np.ndarray]:
        with piece.tape.at_work():
            if _needs_func(piece.tape):
                piece.tape.require_same_func()
            tape, values = read(piece.tape)
        tapes.append(tape)
        return tape, values

    t_ends, u0, *parameters = piece.inputs
    u = Integrate.apply(compute, t_ends, t, u0, *parameters)
    if piece.event is None:
        return u
    (tape,) = tapes
    with tape.at_work():
        return moved_with_end(u, piece.event, tape)


def _needs_func(tape: Tape) -> bool:
    """Whether func is called: for states between steps, or for steps that were not kept."""
    has_own = tape.replay.method.dense(tape.replay.system.form) is not None
    return has_own or tape.checkpoints.takes_again


def _states(tape: Tape, s: np.ndarray) -> np.ndarray:
    return states_between(s, tape.replay, tape.checkpoints, longest_segment(tape.replay))


@torch.inference_mode(False)
@torch.no_grad()
def _readings(tape: Tape, s: np.ndarray) -> list[Reading]:
    """For derivatives of these states."""
    with tape.at_work():
        return _read(tape, s)


def _read(tape: Tape, s: np.ndarray) -> list[Reading]:
    replay, checkpoints = tape.replay, tape.checkpoints
    reader = reader_for(s, replay)
    reader.read(0, checkpoints.start.copy())
    last, longest = replay.trajectory.n_steps, longest_segment(replay)
    for segment in checkpoints.forwards(replay, last, longest):
        for state in range(segment.first + 1, segment.last + 1):
            stages = None if segment.stages is None else segment.stages[state - 1 - segment.first]
            reader.read(state, segment.states[state - segment.origin].copy(), stages)
    return reader.finish()
