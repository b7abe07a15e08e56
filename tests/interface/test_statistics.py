"""Counts say what was done: no Newton iterations of Rosenbrock methods, no Krylov iterations of LU."""

from __future__ import annotations

import pytest
import torch
from small_problems import decay

import stiffml
from stiffml import GMRES, METHODS, SolveError
from stiffml.stats import Stats

T = torch.linspace(0, 1, 4, dtype=torch.float64)
Y0 = torch.ones(2, dtype=torch.float64)


@pytest.mark.parametrize("method", ["bdf", "rosw-ra34pw2", "sdirk3", "arkimex-3", "dopri5"])
@pytest.mark.parametrize("compile", [False, True])
def test_what_is_counted(method: str, compile: bool) -> None:
    for linear in ("auto", *([GMRES()] if METHODS[method].implicit else [])):
        if compile and not isinstance(linear, str):
            continue
        stats = stiffml.solve(decay, Y0, T, method=method, linear=linear, compile=compile).stats
        newton, rosenbrock = METHODS[method].newton, method.startswith("rosw")
        assert (stats.newton_iterations > 0) == newton
        assert (stats.linear_solves > 0) == rosenbrock
        if rosenbrock:  # four stages a step
            assert stats.linear_solves == 4 * (stats.accepted + stats.rejected)
        assert (stats.krylov_iterations > 0) == isinstance(linear, GMRES)
        names = [name for name, _ in stats.rows()]
        assert ("Newton iterations" in names) == newton
        assert ("Krylov iterations" in names) == isinstance(linear, GMRES)


def test_samples_with_times_of_their_own() -> None:
    t = T.expand(3, 4)
    y0 = torch.ones(3, 2, dtype=torch.float64)
    stats = stiffml.solve(decay, y0, t, method="rosw-ra34pw2", batch_dims=1).stats
    assert stats.newton_iterations == 0


def test_pieces_and_failures_are_counted_alike() -> None:
    breaks = torch.tensor([0.5], dtype=torch.float64)
    stats = stiffml.solve(decay, Y0, T, method="rosw-ra34pw2", breakpoints=breaks).stats
    assert stats.linear_solves == 4 * (stats.accepted + stats.rejected)
    with pytest.raises(SolveError) as caught:
        stiffml.solve(decay, Y0, T, method="rosw-ra34pw2", steps=stiffml.Adaptive(max_steps=2))
    assert caught.value.solution.stats.newton_iterations == 0


def test_rows_leave_out_what_was_not() -> None:
    assert [name for name, _ in Stats(accepted=3).rows()] == [
        "steps accepted, rejected",
        "evaluations of f, Jacobians",
        "wall time",
    ]
