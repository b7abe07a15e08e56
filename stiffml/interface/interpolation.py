"""Interpolating in a run that has ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import times
from stiffml.discretization.interpolation import Reading
from stiffml.gradients.adjoint import longest_segment
from stiffml.gradients.autograd import Integrate, Outputs, Record
from stiffml.interface.solution import Piece
from stiffml.run.dense_output import reader_for, with_outputs
from stiffml.run.events import moved_with_end
from stiffml.system.state import State


def interpolate(pieces: Sequence[Piece], t: Tensor) -> State:
    """The states at the times t (n,), differentiable; see :meth:`stiffml.Solution.interpolate`."""
    t = times("t", t)
    # The last may have failed in its first step.
    pieces = [piece for piece in pieces if piece.record.replay.trajectory.n_steps > 0]
    if not pieces:
        raise ValueError("interpolate: the solution took no steps, and there is nothing to read between")
    system = pieces[0].record.replay.system
    s = system.direction * t.detach().double().cpu().numpy()
    spans = [piece.record.replay.trajectory.times[[0, -1]] for piece in pieces]
    begin, end = spans[0][0], spans[-1][1]
    slack = 1e-12 * abs(end - begin)
    outside = ~((begin - slack <= s) & (s <= end + slack))
    if outside.any():
        at = int(np.argmax(outside))
        low, high = sorted(system.direction * np.array([begin, end]))
        raise ValueError(f"t[{at}] = {float(t[at]):.17g} lies outside the span [{low:.17g}, {high:.17g}]")
    # At a breakpoint the pieces meet. An output there is the end of the first; algebraic variables may jump.
    which = np.clip(np.searchsorted([span[0] for span in spans], s, side="left") - 1, 0, None)
    rows: list[Tensor] = []
    order: list[int] = []
    for number in np.unique(which):
        mine = np.flatnonzero(which == number)
        rows.append(_interpolate_piece(pieces[number], t[torch.from_numpy(mine)], s[mine]))
        order += mine.tolist()
    return system.layout.unflatten(torch.cat(rows)[torch.from_numpy(np.argsort(order))])


def _interpolate_piece(piece: Piece, t: Tensor, s: np.ndarray) -> Tensor:
    record = piece.record
    found: list[Outputs] = []

    @torch.inference_mode(False)
    @torch.no_grad()
    def compute() -> tuple[Outputs, np.ndarray]:
        with record.at_work():
            if _needs_func(record):
                record.require_same_func()
            readings = _readings(record, s)
        found.append(Outputs(record, with_outputs(record.replay, readings), readings))
        return found[0], np.stack([reading.value for reading in readings])

    t_ends, u0, *parameters = piece.inputs
    u = Integrate.apply(compute, t_ends, t, u0, *parameters)
    if piece.event is None:
        return u
    with record.at_work():
        return moved_with_end(u, piece.event, found[0].replay, record.run.checkpoints, found[0].readings)


def _needs_func(record: Record) -> bool:
    """Whether states between steps, or steps that were not kept, come from func."""
    replay = record.replay
    has_own = replay.method.dense(replay.system.form) is not None
    return has_own or record.run.checkpoints.takes_again


def _readings(record: Record, s: np.ndarray) -> list[Reading]:
    replay = record.replay
    reader = reader_for(s, replay)
    reader.read(0, record.run.checkpoints.start.copy())
    last, longest = replay.trajectory.n_steps, longest_segment(replay)
    for segment in record.run.checkpoints.forwards(replay, last, longest):
        for state in range(segment.first + 1, segment.last + 1):
            stages = None if segment.stages is None else segment.stages[state - 1 - segment.first]
            reader.read(state, segment.states[state - segment.origin].copy(), stages)
    return reader.finish()
