"""Several trajectories, each with steps of its own, in the equations that serve one: reversed, and along."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from methods import WITH_RAGGED_TIMES
from torch import Tensor, nn

import stiffml
from stiffml import METHODS, Adaptive, Fixed, Grid, Split
from stiffml.discretization.interpolation import Reading
from stiffml.discretization.trajectory import Trajectories
from stiffml.gradients import adjoint
from stiffml.gradients.adjoint import reverse
from stiffml.gradients.directions import Along
from stiffml.gradients.tangent import TangentSweep
from stiffml.gradients.tape import Tape
from stiffml.native.replay import Replay
from stiffml.run.stored import InMemory
from stiffml.settings import Discrete

D = torch.float64


class Rates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor([2.0, 0.7], dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b = y.unbind(-1)
        return torch.stack([-self.k[0] * a * b + torch.sin(t), self.k[1] * a - b**2], -1)


STARTS = (([0.9, 0.2], 1.0), ([0.3, 1.1], 0.4), ([1.5, 0.6], 2.0))
"""Initial states, and how long each is followed: the numbers of steps differ."""


def runs(method: str, checkpoints: str, steps) -> list:
    """The tapeed runs of the starts, all by one func."""
    func, tapes = Rates(), []
    whole = func if METHODS[method].whole else Split(func, lambda t, y: 0 * y)
    for start, end in STARTS:
        y0 = torch.tensor(start, dtype=D, requires_grad=True)
        t = torch.tensor([0.0, 0.4 * end, end], dtype=D, requires_grad=True)
        how = {"steps": steps, "outputs": "steps", "adjoint": Discrete(checkpoints)}
        solution = stiffml.solve(whole, y0, t, method=method, **how)
        tapes.append(solution.pieces[0].tape)
    return tapes


def together(parts: list[InMemory]) -> InMemory:
    """The states of several runs, and after the stages of each run a row for its last state."""
    stages = None
    if all(part._stages is not None for part in parts):
        padding = np.zeros((1, *parts[0]._stages.rows.shape[1:]))
        stages = np.concatenate([rows for part in parts for rows in (part._stages.rows, padding)])
    return InMemory.of(np.concatenate([part.states for part in parts]), stages)


def joined(tapes: list[Tape]) -> Tape:
    """One tape of all of them, whose outputs are the state in the middle and the last one of each."""
    trajectories = Trajectories([tape.run.trajectory for tape in tapes])
    run = dataclasses.replace(tapes[0].run, checkpoints=together([tape.checkpoints for tape in tapes]))
    first = tapes[0].replay
    replay = Replay(trajectories, first.method, first.system, first.solver if first.method.implicit else None)
    return Tape(run, replay, ends(tapes), tapes[0].stats)


def ends(tapes: list[Tape]) -> list[Reading]:
    """Of each run its state in the middle and the last one, by the numbers they have together."""
    readings, before = [], 0
    for tape in tapes:
        marks = tape.run.trajectory.output_steps
        readings += [Reading.of_state(before + state) for state in marks[1:]]
        before += tape.run.trajectory.n_steps + 1
    return readings


@pytest.mark.parametrize("checkpoints", ["stages", "solutions"])
@pytest.mark.parametrize("steps", [Adaptive(), Grid(5), Fixed(0.07)], ids=["adaptive", "grid", "fixed"])
@pytest.mark.parametrize("method", WITH_RAGGED_TIMES)
def test_reversed_together_or_one_by_one(method: str, steps, checkpoints: str) -> None:
    if isinstance(steps, Adaptive) and not METHODS[method].adaptive:
        steps = Fixed(0.05)
    tapes = runs(method, checkpoints, steps)
    counts = {tape.run.trajectory.n_steps for tape in tapes}
    assert len(counts) > 1 or isinstance(steps, Grid), f"{counts}: the runs should have steps of their own"
    cotangents = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 2)))
    # Times of Rosenbrock's rows enter through ∂f/∂s as well.
    together = reverse(joined(tapes), cotangents, wrt_time=True)
    alone = [
        reverse(dataclasses.replace(tape, readings=ends([tape])), part, wrt_time=True)
        for tape, part in zip(tapes, cotangents.split(2), strict=True)
    ]
    what = f"{method}: look at which, starts_of and half_at in trajectory.py, at blocks in methods/, then at"
    expected = torch.cat([one.u0 for one in alone])
    assert torch.allclose(together.u0, expected, rtol=1e-9, atol=1e-12), f"{what} Pending in sweep.py"
    for n, total in enumerate(together.parameters):
        expected = sum(one.parameters[n] for one in alone)
        assert torch.allclose(total, expected, rtol=1e-9, atol=1e-12), f"{what} Nodes in equations.py"
    times = np.concatenate([one.times for one in alone])
    assert np.allclose(together.times, times, rtol=1e-8, atol=1e-11), f"{what} gradients/times.py"


@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-ra34pw2"])
def test_in_segments(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few steps each, which end within trajectories, between them, and on the number that is no step."""
    tapes = runs(method, "solutions", Fixed(0.07))
    cotangents = torch.from_numpy(np.random.default_rng(2).normal(size=(6, 2)))
    expected = reverse(joined(tapes), cotangents)
    for steps in (1, 3, 8):
        monkeypatch.setattr(adjoint, "longest_segment", lambda *_, steps=steps: steps)
        found = reverse(joined(tapes), cotangents)
        off = float((found.u0 - expected.u0).abs().max())
        assert off <= 1e-12, f"{method}, segments of {steps}: off by {off:.1e}; look at Segment.which"


@pytest.mark.parametrize("method", WITH_RAGGED_TIMES)
def test_tangents_together_or_one_by_one(method: str) -> None:
    tapes = runs(method, "solutions", Fixed(0.07))
    random = np.random.default_rng(1)
    along = [torch.from_numpy(random.normal(size=2))]
    u0 = random.normal(size=(1, 6))
    tape = joined(tapes)
    replay, checkpoints = tape.replay, tape.checkpoints
    sweep = TangentSweep(replay, u0, Along([along]))
    sweep.run(checkpoints, replay.trajectory.n_steps)
    before = 0
    for number, tape in enumerate(tapes):
        last = tape.run.trajectory.n_steps
        one = TangentSweep(tape.replay, u0[:, 2 * number : 2 * number + 2], Along([along]))
        one.run(tape.run.checkpoints, last)
        assert np.allclose(sweep.states[before + last], one.states[last], rtol=1e-9, atol=1e-12), (
            f"{method}, trajectory {number}: look at TangentSweep.states, then at Block.which"
        )
        before += last + 1


def test_segments_may_end_anywhere() -> None:
    """In the middle of one trajectory, or where another begins."""
    tapes = runs("bdf3", "solutions", Fixed(0.07))
    tape = joined(tapes)
    replay, checkpoints = tape.replay, tape.checkpoints
    total = replay.trajectory.n_steps
    for longest in (1, 2, 7, total):
        which = [n for s in checkpoints.segments(replay, total, longest) for n in s.which.tolist()]
        expected = [tape.run.trajectory.n_steps for tape in tapes]
        assert len(which) == sum(expected), f"segments of {longest}: look at Segment.which"
        for segment in checkpoints.segments(replay, total, longest):
            for block in replay.blocks(segment):
                assert (block.known[:, -1] == block.which).all(), "look at blocks in methods/bdf.py"
                assert (block.which + 1 < replay.trajectory.n_steps + 1).all()
