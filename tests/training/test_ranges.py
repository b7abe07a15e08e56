"""In whose units errors are told."""

from __future__ import annotations

import numpy as np

from stiffml.training.asked import scale_of
from stiffml.training.data import Run, Runs
from stiffml.training.data.ranges import ranges_of


def test_rounding_is_no_range() -> None:
    """A range; none but rounding; a constant; nothing; not observed."""
    values = np.array([[1.0, 0.745, 3.0, 0.0, np.nan], [4.0, 0.745 + 1e-15, 3.0, 0.0, np.nan]])
    assert ranges_of(values).tolist() == [3.0, 0.745 + 1e-15, 3.0, 1.0, 1.0]
    runs = Runs([Run("a", [0.0, 1.0], values[:, :2])], ["A", "N2"])
    assert scale_of(None, runs)[0].tolist() == [3.0, 0.745 + 1e-15]


def test_gaps_count_for_nothing() -> None:
    assert ranges_of(np.array([[np.nan], [2.0], [7.0]])).tolist() == [5.0]
