"""Steps as fractions of output intervals, and the starting ramp."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stiffml import Fixed, Grid, Recorded, solve
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


@pytest.mark.parametrize(
    ("ends", "error", "message"),
    [
        ([[0.25, 0.5]], ValueError, "interval 0, entry 1 is 0.5, but the last must be 1"),
        ([[0.5, 1.5]], ValueError, "interval 0, entry 1 is 1.5, which is beyond 1"),
        ([[1.0], [0.5, 0.2, 1.0]], ValueError, "interval 1, entry 1 is 0.2.*more than the 0.5 before"),
        ([[1.0], [0.5, 0.5, 1.0]], ValueError, "interval 1, entry 1 is 0.5.*more than the 0.5 before"),
        ([[1.0], []], ValueError, "interval 1 is empty"),
        ([[0.5, math.nan, 1.0]], ValueError, "interval 0, entry 1 is nan"),
        ([[0.5, math.nan]], ValueError, "interval 0, entry 1 is nan"),
        ([[0.5, math.inf]], ValueError, "interval 0, entry 1 is inf, which is beyond 1"),
        ([[0.0, 1.0]], ValueError, "interval 0, entry 0 is 0, but must be more than 0"),
        ([[-0.5, 1.0]], ValueError, "interval 0, entry 0 is -0.5, but must be more than 0"),
        (np.array([0.5, 1.0]), TypeError, "interval 0 must be a one-dimensional array"),
        ([[[0.5, 1.0]]], TypeError, "interval 0 must be a one-dimensional array"),
        ([np.array([0.5, 1.0], dtype=complex)], TypeError, "interval 0 must be a one-dimensional array"),
        ([["0.5", "1"]], TypeError, "interval 0 must be a one-dimensional array"),
        ([[True]], TypeError, "interval 0 must be a one-dimensional array"),
        ([None], TypeError, "interval 0 must be a one-dimensional array"),
        (None, TypeError, "ends must be a sequence"),
        ({0: [1.0]}, TypeError, "ends must be a sequence"),
    ],
)
def test_recorded_steps_are_checked(ends, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^Recorded: {message}"):
        Recorded(ends)


def test_recorded_steps_of_any_kind_of_numbers() -> None:
    for ends in (
        [[0.5, 1]],
        (np.array([0.5, 1], dtype=np.float32),),
        [torch.tensor([0.5, 1.0])],
        iter([[0.5, 1]]),
    ):
        (found,) = Recorded(ends).ends
        assert found.dtype == np.float64
        assert found.tolist() == [0.5, 1]


Y0 = torch.ones(1, dtype=torch.float64)


def decay(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -y


@given(
    st.lists(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), min_size=1, max_size=4), st.booleans()
)
@settings(max_examples=30, deadline=None)
def test_recorded_steps_are_those_taken(sizes: list[list[float]], backwards: bool) -> None:
    """Backward Euler says which: y is the product of 1/(1 + h)."""
    ends = [np.cumsum(s) / np.sum(s) for s in sizes]
    for end in ends:
        end[-1] = 1
    t = torch.arange(len(ends) + 1, dtype=torch.float64)
    func = (lambda t, y: y) if backwards else decay
    solution = solve(func, Y0, -t if backwards else t, method="beuler", steps=Recorded(ends))
    factors = [np.prod(1 / (1 + np.diff(e, prepend=0))) for e in ends]
    np.testing.assert_allclose(solution.y[1:, 0], np.cumprod(factors), rtol=1e-9)
    again = solve(func, Y0, -t if backwards else t, method="beuler", steps=solution.steps)
    assert torch.allclose(again.y, solution.y, rtol=1e-9)


def test_steps_that_were_written_to_are_checked_again() -> None:
    steps = Recorded([[0.5, 1.0]])
    steps.ends[0][1] = 0.75
    with pytest.raises(ValueError, match=r"interval 0, entry 1 is 0\.75, but the last must be 1"):
        solve(decay, Y0, torch.tensor([0.0, 1.0], dtype=torch.float64), method="cn", steps=steps)


@pytest.mark.parametrize("breakpoints", [None, [0.15], [0.2, 0.3]])
def test_steps_of_a_run_that_ended_early(breakpoints: list[float] | None) -> None:
    """They belong to the outputs that it reached; with other times they are refused before the solve."""
    t = torch.tensor([0, 0.1, 0.2, 0.4, 10], dtype=torch.float64)
    calls = 0

    def explodes(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return y**2

    part = solve(explodes, 2 * Y0, t, throw=False, breakpoints=breakpoints)
    assert not part.success
    assert part.t.tolist() == [0, 0.1, 0.2, 0.4]
    calls = 0
    with pytest.raises(ValueError, match=r"^steps: Recorded holds \d (intervals|output)"):
        solve(explodes, 2 * Y0, t, steps=part.steps, breakpoints=breakpoints)
    assert calls <= 5, "it was solved for before the steps were looked at"
    again = solve(explodes, 2 * Y0, part.t, steps=part.steps, breakpoints=breakpoints)
    torch.testing.assert_close(again.y, part.y, rtol=1e-6, atol=0)
    for fewer in (part.steps.ends[:-1], (*part.steps.ends, np.ones(1))):
        with pytest.raises(ValueError, match=r"^steps: Recorded holds"):
            solve(explodes, 2 * Y0, part.t, steps=Recorded(fewer), breakpoints=breakpoints)


def test_a_run_may_leave_steps_that_cannot_be_taken_again() -> None:
    """Too short for their ends to differ as fractions: an error where they are taken again, not before."""
    steps = Recorded.of_run(lambda: (np.array([0.5, 0.5, 1.0]),))
    with pytest.raises(ValueError, match=r"interval 0, entry 1 is 0\.5"):
        solve(decay, Y0, torch.tensor([0.0, 1.0], dtype=torch.float64), method="cn", steps=steps)


def test_steps_of_a_run_can_be_stored_and_copied() -> None:
    """They are found when first asked for, and keep nothing else of the run alive afterwards."""
    ends = (np.array([0.5, 1.0]), np.array([1.0]))
    asked: list[int] = []

    def find() -> tuple[np.ndarray, ...]:
        asked.append(1)
        return ends

    steps = Recorded.of_run(find)
    assert not asked
    for again in (pickle.loads(pickle.dumps(steps)), copy.deepcopy(steps), steps):
        assert list(map(list, again.ends)) == list(map(list, ends))
        assert vars(again).keys() == {"ends"}
    assert asked == [1]
    with pytest.raises(AttributeError, match="Recorded has no attribute 'sizes'"):
        steps.sizes  # noqa: B018
