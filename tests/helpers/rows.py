"""Solves by the rows of their methods, and how two of them are compared."""

from __future__ import annotations

from forms import Case, forms
from methods import EXPONENTIAL
from torch import Tensor

from stiffml import METHODS, Solution

RUNS = [(name, form) for name in METHODS if name not in EXPONENTIAL for form in forms(name)]
"""Every method that is rows, in every form that it takes."""


def off(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def require_same(case: Case, found: Solution, expected: Solution, what: str) -> None:
    """The same values and gradients. ``what``: where they are from, and what to look at."""
    assert off(found.y, expected.y) <= 1e-10, f"{what}: {off(found.y, expected.y):.1e}"
    wanted, gradients = case.gradients(expected), case.gradients(found)
    for name, group in wanted.items():
        for one, other in zip(gradients[name], group, strict=True):
            assert off(one, other) <= 1e-8, f"{what}: dL/d{name} is off by {off(one, other):.1e}"
