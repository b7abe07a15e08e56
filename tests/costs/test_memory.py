"""Memory that checkpoints take: the growth of a process of its own, in states."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import pytest
from checkpoint_memory import EACH, EXTRA, measure

pytestmark = pytest.mark.alone

SIZE, STEPS = 500_000, 10
ELSE = 6
"""States, of 4 MB each, for code that is loaded on the way. The benchmark's larger size needs none."""


def test_few_checkpoints_take_little_memory() -> None:
    few, more = (measure("cn", str(kept), SIZE, STEPS) for kept in (4, 8))
    assert few.peak_states <= 4 + EXTRA + ELSE, f"{few}: look at what _reverse_segment and Replay.step hold"
    assert more.forward_states - few.forward_states <= 4 * EACH + 1, f"{few}, {more}: look at Thinned"
    for cost in (few, more):  # the reversal needs little besides what is kept
        assert cost.peak_states - cost.forward_states <= 2, (
            f"{cost}: look for views that keep a whole segment alive, and cycles that keep the run"
        )
    assert more.gradient == pytest.approx(few.gradient, rel=1e-10)


def test_a_file_takes_the_states() -> None:
    disk, stages = (measure("cn", kept, SIZE, STEPS) for kept in ("disk", "stages"))
    assert disk.peak_states <= stages.peak_states - STEPS + 3
    assert disk.gradient == pytest.approx(stages.gradient, rel=1e-10)
