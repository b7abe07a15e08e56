"""A training on kept steps, by the benchmark at a small size: as exact as adaptive steps, for fewer calls."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import kept_steps


@pytest.mark.parametrize("renew", [10, 1000])
def test_a_training_on_kept_steps(renew: int) -> None:
    course = kept_steps.train(25, 8, "bdf3", renew=renew, bound=3)
    assert len(course.ratios) == 8
    assert max(course.ratios) < 3, "a solution is that much worse than adaptive steps' own"
    assert max(course.estimate) <= 3
    anew = [i for i, reason in enumerate(course.renewed) if reason]
    assert anew == ([0, 10, 20] if renew == 10 else [0])
    on_kept = [n for n, reason in zip(course.rhs_evals, course.renewed, strict=True) if not reason]
    # The Newton iterations of a step are shared by all steps, and begin near the solution.
    assert max(on_kept) < min(course.adaptive_rhs_evals)
    assert course.loss[-1] < 0.5 * course.loss[0]


def test_the_benchmark_runs(tmp_path: Path) -> None:
    course = kept_steps.train(3, 2, "bdf3")
    summary = course.summary()
    case = {"method": "bdf3", "course": vars(course)}
    kept_steps.draw({"cases": [case]}, tmp_path / "kept.png")
    assert (tmp_path / "kept.png").read_bytes().startswith(b"\x89PNG")
    assert summary["iterations"] == 3
    assert summary["times_chosen"] == 1
