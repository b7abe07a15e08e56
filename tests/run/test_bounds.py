"""Bounds on the state: steps that leave them are cut, and gradients belong to the steps kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from methods import ADAPTIVE_WHOLE, WHOLE
from small_problems import times
from torch import Tensor, nn

import problems
from stiffml import (
    Adaptive,
    Fixed,
    Grid,
    ODEBlock,
    Solution,
    SolveError,
    Split,
    Status,
    check_gradients,
    odeint,
    sensitivities,
    solve,
)

POSITIVE = (0, None)

A = torch.tensor([[1, 0.8, 1.3], [1.3, 1, 0.8], [0.8, 1.3, 1]], dtype=torch.float64)
N0 = torch.tensor([0.6, 0.6, 0.1], dtype=torch.float64)


def competing(t: Tensor, n: Tensor) -> Tensor:
    """Three species in cyclic competition (May & Leonard 1975): each in turn is nearly alone, ever longer.

    The others are then so few that no tolerance sees them, and a long step makes them fewer than none. From
    there the equations lead away, to −5 and 7.5 for good.
    """
    return n * (1 - n @ A.T)


def ends(solution: Solution) -> Tensor:
    """The states that steps ended on, (steps + 1, size)."""
    found = []
    for piece in solution.pieces:
        tape = piece.tape
        last = tape.run.trajectory.n_steps
        (segment,) = tape.checkpoints.segments(tape.replay, last, last)
        found.append(torch.from_numpy(segment.states))
    return torch.cat(found)


@pytest.mark.parametrize("tolerances", [{}, {"rtol": 1e-3, "atol": 1e-5}], ids=["default", "loose"])
@pytest.mark.parametrize("method", ["bdf", "rosw-ra34pw2", "arkimex-5", "dopri5"])
def test_competing_species_for_a_long_time(method: str, tolerances: dict) -> None:
    solution = solve(competing, N0, times(0, 20, 1500), method=method, bounds=POSITIVE, **tolerances)
    assert ends(solution).min() > -1e-6, "a population is negative"
    assert 0.9 < float(solution.y[-1].sum()) < 1.02


def test_without_bounds_they_become_negative() -> None:
    """Else the test above shows nothing."""
    assert float(solve(competing, N0, times(0, 3000)).y.min()) < -1


@pytest.mark.parametrize("method", ADAPTIVE_WHOLE)
def test_every_adaptive_method_keeps_within(method: str) -> None:
    """A fast decay, by steps far too long for it, is never below zero where plain steps are."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-60 * y[0] ** 2 - 5 * y[0], -y[1]])

    y0 = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    arguments = {"method": method, "rtol": 1e-2, "atol": 1e-6, "steps": Adaptive(initial=3.0)}
    solution = solve(func, y0, times(0, 8), bounds=(0, 1), **arguments)
    assert ends(solution).min() >= -1e-6
    assert ends(solution).max() <= 1 + 1e-6
    assert float(solution.y[-1, 1]) == pytest.approx(math.exp(-8), abs=0.03)


@pytest.mark.parametrize("method", WHOLE)
def test_a_step_asked_for_is_halved(method: str) -> None:
    """y' = −8 y by steps of 1: wherever a method goes below zero, its steps are halved until it does not."""
    y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
    arguments = {"method": method, "steps": Fixed(1.0)}
    plain = solve(lambda t, y: -8 * y, y0, times(0, 3), **arguments)
    leaves = bool(ends(plain).min() < -1e-9)
    solution = solve(lambda t, y: -8 * y, y0, times(0, 3), bounds=POSITIVE, **arguments)
    assert ends(solution).min() >= -1e-9
    assert (solution.stats.accepted > plain.stats.accepted) == leaves
    assert (solution.stats.rejected > plain.stats.rejected) == leaves
    sizes = np.diff(solution.steps.ends[0], prepend=0) * 3
    assert np.log2(sizes) == pytest.approx(np.round(np.log2(sizes)), abs=1e-6) or plain.stats.ramp_steps


@pytest.mark.parametrize(
    "method", ["beuler", "cn", "bdf3", "rosw-ra34pw2", "arkimex-3", "dirk-s212", "dopri5"]
)
def test_a_func_that_leads_out_is_an_error(method: str) -> None:
    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([torch.ones_like(y[0]), -torch.ones_like(y[0])])

    y0 = torch.tensor([0.0, 0.5], dtype=torch.float64)
    with pytest.raises(SolveError, match=r"leave its bounds.* is below its lower bound 0 .*Try: ") as caught:
        solve(func, y0, times(0, 0.25, 2), method=method, bounds=(0, 2))
    error = caught.value
    assert error.status is Status.OUT_OF_BOUNDS
    assert error.component == (1,)
    assert error.t == pytest.approx(0.5, abs=1e-6)
    assert error.solution is not None
    assert len(error.solution.t) == 2
    with pytest.raises(SolveError, match=r"above its upper bound 0\.25") as caught:
        solve(func, y0 * 0, times(0, 0.125, 2), method=method, bounds=(-3, 0.25), steps=Grid(8))
    assert caught.value.status is Status.OUT_OF_BOUNDS
    assert caught.value.component == (0,)
    assert caught.value.t == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-ra34pw2", "arkimex-3", "dirk-s212", "dopri5"])
def test_an_event_at_a_bound_is_found(method: str) -> None:
    def func(t: Tensor, y: Tensor) -> Tensor:
        return -torch.ones_like(y)

    y0 = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    solution = solve(func, y0, times(0, 2), method=method, bounds=POSITIVE, event=lambda t, y: y[0])
    assert solution.status is Status.EVENT
    assert float(solution.event.t) == pytest.approx(0.5, rel=1e-6)
    (gradient,) = torch.autograd.grad(solution.event.t, y0)
    assert float(gradient) == pytest.approx(1.0, rel=1e-6)


class Decay(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([40.0, 0.7], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.rates * y + 0.1 * y.flip(-1) ** 2


Y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
T = times(0, 0.4, 1)


@pytest.mark.parametrize(
    ("method", "steps"),
    [("cn", Grid(1)), ("euler", Grid(5)), ("rosw-ra34pw2", Grid(1)), ("bdf2", Adaptive(initial=0.4))],
)
def test_gradients_belong_to_the_steps_kept(method: str, steps) -> None:
    arguments = {"method": method, "steps": steps}
    if isinstance(steps, Adaptive):
        arguments |= {"rtol": 0.5, "atol": 0.2}
    assert ends(solve(Decay(), Y0, T, **arguments)).min() < -1e-3, "the case is meant to leave the bounds"
    arguments["bounds"] = (torch.zeros(2), 1.0)
    kept = solve(Decay(), Y0, T, **arguments)
    assert ends(kept).min() >= -1e-9
    report = check_gradients(Decay(), Y0, T, **arguments)
    assert report.ok, report
    again = solve(Decay(), Y0, T, method=method, steps=kept.steps, bounds=(0, 1))
    torch.testing.assert_close(again.y, kept.y, rtol=1e-6, atol=1e-8)


def test_every_way_to_solve_takes_them() -> None:
    func, arguments = Decay(), {"bounds": (None, [0.75, math.inf]), "method": "bdf2"}
    with pytest.raises(ValueError, match=r"bounds: y0 lies outside .* component \[0\].*upper bound 0.75"):
        solve(func, Y0, T, **arguments)
    for way in (odeint, sensitivities, check_gradients):
        with pytest.raises(ValueError, match="bounds: y0"):
            way(func, Y0, T, **arguments)
    with pytest.raises(ValueError, match="bounds: y0"):
        ODEBlock(func, T, **arguments)(Y0)
    with pytest.raises(ValueError, match="bounds: y0"):
        solve(func, Y0, T, breakpoints=[0.2], **arguments)
    inside = {"bounds": POSITIVE, "method": "bdf2"}
    expected = solve(func, Y0, T, **inside).y
    assert torch.equal(odeint(func, Y0, T, **inside), expected)
    assert torch.equal(ODEBlock(func, T, **inside)(Y0), expected)
    assert torch.equal(sensitivities(func, Y0, T, **inside).solution.y, expected)


def test_tuples_batches_and_directions() -> None:
    def pair(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return -y[0], -torch.ones_like(y[1])

    y0 = (torch.ones(2, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64))
    low = (None, torch.tensor([[-9.0, -9.0, 0.0]] * 2))
    with pytest.raises(SolveError, match="below its lower bound") as caught:
        solve(pair, y0, times(0, 2), bounds=(low, None), batch_dims=1)
    assert caught.value.component == (1, 0, 2)
    with pytest.raises(SolveError, match="above its upper bound 2") as caught:
        solve(lambda t, y: -y, Y0, times(3, 0), bounds=(0, 2))
    assert caught.value.t == pytest.approx(3 - math.log(2), abs=1e-5)
    y = solve(pair, y0, times(0, 2), bounds=(-math.inf, (None, 5))).y
    torch.testing.assert_close(y[0][-1], y0[0] * math.exp(-2), rtol=1e-4, atol=0)
    torch.testing.assert_close(y[1][-1], y0[1] - 2, rtol=1e-4, atol=0)
    whole = solve(lambda t, y: -y, Y0.expand(4, 2), times(0, 2), bounds=([0, -1], 1), batch_dims=1)
    torch.testing.assert_close(whole.y[-1], Y0.expand(4, 2) * math.exp(-2), rtol=1e-4, atol=0)


def test_split_functions_and_breakpoints() -> None:
    split = Split(lambda t, y: -50 * y, lambda t, y: -0.1 * y)
    arguments = {"bounds": POSITIVE, "steps": Fixed(1.0)}
    solution = solve(split, Y0, times(0, 4), method="arkimex-l2", breakpoints=[1.5], **arguments)
    assert ends(solution).min() >= -1e-9


def test_float32_and_interpolated_outputs() -> None:
    t = torch.linspace(0, 3, 50)
    solution = solve(lambda t, y: -30 * y, Y0.float(), t, bounds=POSITIVE, outputs="interpolate")
    assert solution.y.dtype == torch.float32
    torch.testing.assert_close(solution.y[:, 0], torch.exp(-30 * t), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("bounds", "error", "match"),
    [
        (0, TypeError, r"bounds must be \(low, high\)"),
        ((0, 1, 2), TypeError, r"bounds must be \(low, high\)"),
        (("a", None), ValueError, "bounds: low must be None, a number or of y0's shape"),
        ((torch.zeros(3), None), ValueError, r"bounds: low must be .* \(2,\), not \(3,\)"),
        ((None, torch.tensor([1, math.nan])), ValueError, r"bounds: high is NaN at component \[1\]"),
        ((1, 0), ValueError, r"bounds: low = 1 and high = 0 leave no room at component \[0\]"),
        ((2, None), ValueError, r"bounds: y0 lies outside of them, at component \[1\]: 0.5 is below"),
    ],
)
def test_wrong_bounds(bounds, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        solve(Decay(), Y0, T, bounds=bounds)


def test_no_bounds_change_nothing() -> None:
    plain = solve(Decay(), Y0, T, method="bdf3")
    for bounds in (None, (None, None), (-math.inf, math.inf), (-5, 5)):
        assert torch.equal(solve(Decay(), Y0, T, method="bdf3", bounds=bounds).y, plain.y)


@pytest.mark.parametrize("name", ["robertson", "hires", "e5"])
def test_problems_know_their_bounds(name: str) -> None:
    problem = problems.load(name)
    solution = problem.solve(bounds=True)
    report = problem.check(solution)
    assert report.excess <= float(problem.atol(1e-6).max())
    assert report.digits is not None
    # Rounding decides on the digits of e5, where differences cancel: 1.9 to 3.3 at rtol 1e-4 to 1e-7.
    assert report.digits > (1.5 if name == "e5" else 2), "bounds have made the solution worse"


def test_a_problem_without_bounds_says_so() -> None:
    problem = problems.load("vdpol") if "vdpol" in problems.names() else None
    names = [name for name in problems.names() if problems.load(name).bounds is None]
    problem = problem if problem is not None and problem.bounds is None else problems.load(names[0])
    with pytest.raises(ValueError, match=r"has no bounds; pass bounds=\(low, high\)"):
        problem.solve(bounds=True)
