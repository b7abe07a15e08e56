"""Steps as fractions of output intervals, and the starting ramp."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stiffml import Fixed, Grid, Recorded
from stiffml.steps import GROWTH, ends_of_steps, with_ramps

gaps = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8)


@given(gaps, st.floats(1e-2, 1e2))
def test_fixed_steps_are_even_and_no_longer_than_asked(gaps: list[float], h: float) -> None:
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    h = max(h, max(gaps) / 1000)
    for ends, length in zip(Fixed(h).fractions(times), np.diff(times), strict=True):
        sizes = np.diff(ends, prepend=0) * length
        assert ends[-1] == 1
        assert sizes.max() <= h * (1 + 1e-6)
        assert len(ends) == 1 or length / (len(ends) - 1) > h, "fewer steps would have done"


def test_rounding_does_not_add_a_step() -> None:
    assert [len(ends) for ends in Fixed(0.1).fractions(np.array([0, 0.3, 1.0]))] == [3, 7]


even_gaps = st.lists(st.floats(0.2, 1.9), min_size=1, max_size=8)


@given(even_gaps, st.integers(1, 12), st.integers(3, 5))
def test_ramp_starts_small_grows_slowly_and_ends(gaps: list[float], substeps: int, order: int) -> None:
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    asked = Grid(substeps).fractions(times)
    ramped = with_ramps(asked, times, order)
    count = substeps * len(gaps)
    sizes = [np.diff(ends, prepend=0) * length for ends, length in zip(ramped, gaps, strict=True)]
    assert sizes[0][0] <= gaps[0] / substeps * count ** (1 - order / 2) / 2 * (1 + 1e-9)
    changed = [new is not old for new, old in zip(ramped, asked, strict=True)]
    assert changed == sorted(changed, reverse=True), "the ramp comes first and does not come back"
    flat = np.concatenate([s for s, c in zip(sizes, changed, strict=True) if c])
    assert (flat[1:] <= GROWTH * flat[:-1] * (1 + 1e-9)).all()
    assert all((np.diff(ends) > 0).all() and ends[-1] == 1 for ends in ramped)


@given(st.floats(1e-14, 1e-3), st.integers(1, 4), st.floats(1.05, 1.2))
def test_steps_grow_slowly_after_close_outputs(gap: float, substeps: int, growth: float) -> None:
    times = np.array([0.0, 1.0, 1.0 + gap, 2.0])
    ramped = with_ramps(Grid(substeps).fractions(times), times, 0, growth)
    sizes = np.concatenate([np.diff(e, prepend=0) * d for e, d in zip(ramped, np.diff(times), strict=True)])
    assert len(ramped[0]) == len(ramped[1]) == substeps, "only what comes after them is refined"
    after = sizes[2 * substeps - 1 :]
    assert (after[1:] <= 1.2 * growth * after[:-1]).all(), "the last step of a ramp may be a little longer"


def test_long_ramps_do_not_overflow() -> None:
    with np.errstate(all="raise"):
        (ends,) = with_ramps(Grid(2000).fractions(np.array([0.0, 1.0])), np.array([0.0, 1.0]), 3)
    assert len(ends) < 2050


def test_recorded_steps_belong_to_their_intervals() -> None:
    with pytest.raises(ValueError, match="2 output intervals, but t has 1"):
        Recorded((np.ones(1), np.ones(1))).fractions(np.array([0.0, 1.0]))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.1, 0.4, 0.7], [1, 1, 1]),
        ([0.1, 0.4, 0.4 + 1e-12, 0.7], [1, 0, 1, 1]),
        ([0.4, 0.4 + 1e-12, 0.7], [1, 0, 1]),
        ([0.1, 0.7 - 1e-12, 0.7], [1, 0, 1]),
        ([0.1, 0.4, 0.4 + 1e-12, 0.4 + 2e-12, 0.7], [1, 0, 0, 1, 1]),
        ([-0.7, -0.4 - 1e-12, -0.4, -0.1], [1, 0, 1, 1]),
        ([0.4, 0.4 + 1e-12], [1, 1]),
        ([0.0, 1e-12, 1e-11, 1.0], [1, 1, 1, 1]),
        ([1.7e9, 1.7e9 + 1, 1.7e9 + 2], [1, 1, 1]),
        ([0.3], [1]),
    ],
)
def test_steps_end_on_outputs_but_close_ones(times: list[float], expected: list[int]) -> None:
    assert ends_of_steps(np.array(times), interpolated=False).astype(int).tolist() == expected
    alone = [int(k in (0, len(times) - 1)) for k in range(len(times))]
    assert ends_of_steps(np.array(times), interpolated=True).astype(int).tolist() == alone
