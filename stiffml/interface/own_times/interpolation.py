"""Interpolation between the steps of a solve in which every sample has steps of its own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import times_of_samples
from stiffml.discretization.trajectory import Trajectories
from stiffml.gradients.autograd import Integrate
from stiffml.gradients.tape import Tape
from stiffml.interface.own_times.readings import readings_between
from stiffml.interface.piece import Piece
from stiffml.run.stored import InMemory
from stiffml.system.state import Layout, State


def interpolate(piece: Piece, layout: Layout, t: Tensor) -> State:
    """The states at the times t (\\*batch, m) of each sample, or (m,) of all: (m, \\*y0.shape)."""
    t = times_of_samples("t", t)
    if t.shape[:-1] not in ((), layout.batch):
        raise ValueError(
            f"t must have shape (m,), for all samples, or ({', '.join(map(str, layout.batch))}, m), not "
            f"{tuple(t.shape)}"
        )
    t = t.expand(*layout.batch, t.shape[-1]).reshape(layout.samples, -1)
    trajectories = piece.tape.replay.trajectory
    assert isinstance(trajectories, Trajectories)
    direction = piece.tape.replay.system.direction
    s = direction * t.detach().double().cpu().numpy()
    for i, (own, part) in enumerate(zip(s, trajectories.parts, strict=True)):
        _require_inside(own, part.times, direction, list(map(int, np.unravel_index(i, layout.batch))))

    @torch.inference_mode(False)
    @torch.no_grad()
    def compute() -> tuple[Tape, np.ndarray]:
        tape = piece.tape
        with tape.at_work():
            if tape.replay.method.dense(tape.replay.system.form) is not None:
                tape.require_same_func()
            assert isinstance(tape.checkpoints, InMemory)
            readings = readings_between(tape.replay, tape.checkpoints, list(s))
        return tape.with_readings(readings), np.stack([reading.value for reading in readings])

    t_ends, u0, *parameters = piece.inputs
    u = Integrate.apply(compute, t_ends, t.reshape(-1), u0, *parameters)
    rows = u.reshape(layout.samples, t.shape[1], layout.width).transpose(0, 1)
    return layout.unflatten(rows.reshape(t.shape[1], layout.size))


def _require_inside(s: np.ndarray, times: np.ndarray, direction: int, sample: list[int]) -> None:
    if len(times) < 2:
        raise ValueError(f"interpolate: sample {sample} took no steps, and there is nothing to read between")
    begin, end = times[[0, -1]]
    slack = 1e-12 * abs(end - begin)
    outside = ~((begin - slack <= s) & (s <= end + slack))
    if outside.any():
        at = int(np.argmax(outside))
        low, high = sorted((direction * begin, direction * end))
        raise ValueError(
            f"t[{at}] = {direction * s[at]:.17g} lies outside the span [{low:.17g}, {high:.17g}] of sample "
            f"{sample}"
        )
