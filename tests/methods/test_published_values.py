"""Published end values are met at every tolerance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_problems import times

import problems
from stiffml import solve

ATOL = {"robertson": 1e-8, "vanderpol": 1e-2}
"""Absolute tolerances far below the components' final sizes, so that relative errors mean something."""


@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("name", ["robertson", "vanderpol"])
def test_published_end_values(name: str, rtol: float) -> None:
    problem = problems.load(name)
    reference = problem.references[0]
    t = times(problem.t_span[0], reference.t)
    atol = torch.from_numpy(problem.scale) * rtol * ATOL[name]
    with torch.no_grad():
        y = solve(problem.func(), problem.initial_state(), t, rtol=rtol, atol=atol).y
    error = np.abs(y[-1].numpy() / reference.y - 1).max()
    assert error <= 100 * rtol, f"{name}: relative error {error / rtol:.0f} rtol at t = {reference.t:g}"
