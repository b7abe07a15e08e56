"""Splits have nothing in common; windows start from what was observed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stiffml.training.data import Run, Runs

NAN = float("nan")


def some(count: int = 5, times: int = 12, missing: float = 0.2, seed: int = 0) -> Runs:
    """Runs whose observations are all different numbers, so that each can be told from the others."""
    rng = np.random.default_rng(seed)
    numbers = np.arange(count * times * 2, dtype=float).reshape(count, times, 2)
    numbers[rng.random(numbers.shape) < missing] = np.nan
    runs = [Run(f"r{i}", np.sort(rng.random(times)), values) for i, values in enumerate(numbers)]
    return Runs(runs, ["A", "B"], noise={"A": 0.1})


def observed(runs: Runs) -> list[float]:
    return runs.values[~np.isnan(runs.values)].tolist()


@settings(max_examples=50, deadline=None)
@given(
    by=st.sampled_from(["run", "time"]),
    fraction=st.floats(0.2, 0.8),
    seed=st.integers(0, 2**32),
    missing=st.floats(0, 0.5),
    length=st.integers(1, 4),
)
def test_no_observation_is_in_both(by: str, fraction: float, seed: int, missing: float, length: int) -> None:
    runs = some(seed=seed, missing=missing)
    try:
        train, validate = runs.split(by, fraction, seed=seed)
        a, b = set(observed(train)), set(observed(validate))
        assert not a & b
        assert a | b <= set(observed(runs))
        if by == "run":
            assert a | b == set(observed(runs))
        a, b = (set(observed(part.windows(length))) for part in (train, validate))
        assert not a & b
        first, second = runs.windows(length).split("run", fraction, seed=seed)
        assert not {run.source for run in first} & {run.source for run in second}
        assert not set(observed(first)) & set(observed(second))
    except ValueError:
        if by == "run" and missing < 0.1:  # else there may be a part without a complete state
            raise


def test_split_by_run() -> None:
    runs = some()
    train, validate = runs.split(validate=["r3", "r1"])
    assert (train.names, validate.names) == (("r0", "r2", "r4"), ("r1", "r3"))
    train, validate = runs.split(fraction=0.6, seed=3)
    assert (len(train), len(validate)) == (3, 2)
    assert runs.split(fraction=0.6, seed=3)[0].names == train.names
    chosen = {runs.split(fraction=0.6, seed=seed)[0].names for seed in range(10)}
    assert len(chosen) > 3
    for arguments, message in (
        ({"validate": ["r7"]}, "validate: there is no 'r7'; did you mean r"),
        ({"validate": list(runs.names)}, "leaves one part empty"),
        ({"fraction": 0.95}, "fraction = 0.95 of 5 runs leaves one part empty"),
        ({"fraction": 0.5, "validate": ["r1"]}, "fraction and validate exclude each other"),
        ({"at": 0.5}, 'at is for by="time"'),
        ({"by": "time", "validate": ["r1"]}, 'validate is for by="run"'),
        ({"by": "times"}, 'by must be "run" or "time"'),
        ({"by": "time", "at": 5.0}, r"at = 5 leaves one part empty"),
    ):
        with pytest.raises(ValueError, match=message):
            runs.split(**arguments)


def test_split_by_time() -> None:
    values = [[1.0, 2.0], [3.0, 4.0], [5.0, NAN], [7.0, 8.0], [9.0, 10.0]]
    runs = Runs(
        [Run("a", [0, 1, 2, 3, 4], values), Run("short", [0, 1], values[:2])], ["A", "B"], noise={"A": 0.1}
    )
    train, validate = runs.split("time", at=2.0)
    assert (train.names, validate.names) == (("a", "short"), ("a",))
    np.testing.assert_array_equal(train["a"].times, [0, 1])
    np.testing.assert_array_equal(validate["a"].times, [3, 4])  # the state at 2 is incomplete
    np.testing.assert_array_equal(validate["a"].y0, [7, 8])
    np.testing.assert_array_equal(validate["a"].y0_noise, [0.1, 0])
    train, validate = runs[:1].split("time", fraction=0.4)
    np.testing.assert_array_equal(train.times, [0, 1])
    with pytest.raises(ValueError, match="windows overlap"):
        runs.windows(1).split("time", at=2.0)


def test_windows_start_from_complete_states() -> None:
    values = [[1.0, NAN], [3.0, 4.0], [NAN, 6.0], [NAN, 8.0], [9.0, 10.0], [11.0, NAN]]
    run = Run("a", range(6), values, weights=np.arange(12.0).reshape(6, 2))
    runs = Runs([run, Run("short", [0], [[1.0, 2.0]])], ["A", "B"], noise={"A": 0.1, "B": 0.2})
    cut = runs.windows(1)
    assert cut.names == ("a[1:3]", "a[4:6]")
    assert {window.source for window in cut} == {"a"}
    np.testing.assert_array_equal(cut[1].times, [4, 5])
    np.testing.assert_array_equal(cut[1].values, values[4:])
    np.testing.assert_array_equal(cut[1].weights, [[8, 9], [10, 11]])
    np.testing.assert_array_equal(cut[1].y0, [9, 10])
    np.testing.assert_array_equal(cut[1].y0_noise, [0.1, 0.2])
    started = runs.with_initial({"A": "known", "B": 2.5}).windows(1)
    assert started.names == ("a[0:2]", "a[1:3]", "a[4:6]")
    np.testing.assert_array_equal(started[0].y0, [1, 2.5])
    np.testing.assert_array_equal(started[0].y0_noise, [0, 0])
    with pytest.raises(ValueError, match=r"length = 6: no run has 7 times .*; the longest run has 6"):
        runs.windows(6)


def test_windows_of_complete_runs() -> None:
    runs = some(count=1, times=11, missing=0)
    cut = runs.windows(2, stride=3)
    assert cut.names == ("r0[0:3]", "r0[3:6]", "r0[6:9]")
    np.testing.assert_array_equal(cut.values, runs.values[:9])
    assert len(runs.windows(10)) == 1


def test_hidden_components_do_not_hinder_windows() -> None:
    runs = Runs([Run("a", [0, 1, 2], [[1, NAN], [2, NAN], [3, NAN]])], ["A", "hidden"])
    last = runs.windows(1)[-1]
    np.testing.assert_array_equal(last.y0, [2, 0])
    np.testing.assert_array_equal(last.y0_noise, [0, np.inf])
