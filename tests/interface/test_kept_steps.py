"""``KeptSteps``: the same solution as on those steps otherwise, chosen anew in time, a state to resume."""

from __future__ import annotations

import pytest
import torch
from kept_oscillator import START, TOLERANCES, D, Oscillator, T, gradient, moved, same, saved, solve
from methods import ADAPTIVE
from small_problems import times
from torch import Tensor, nn

import stiffml
from stiffml import (
    METHODS,
    Adaptive,
    Discrete,
    Fixed,
    Grid,
    KeptSteps,
    Newton,
    Recorded,
    Split,
)

ACCURATE = [name for name in ADAPTIVE if METHODS[name].whole and METHODS[name].order > 2]


@pytest.mark.parametrize("method", ACCURATE)
def test_it_is_the_solution_on_those_steps(method: str) -> None:
    """And its gradient, whatever solves them, and the estimate of its errors is that of the very steps."""
    func, kept = Oscillator(), KeptSteps(renew=10, bound=50)
    tight = {"newton": Newton(rtol=1e-11, atol=1e-11)} if METHODS[method].newton else {}
    first = solve(func, kept, method, **tight)
    assert first.stats.renewed == "first"
    for k in (1, 2, 3):
        moved(func, k)
        found = solve(func, kept, method, **tight)
        assert found.stats.renewed == ""
        assert found.stats.accepted == first.stats.accepted == kept.count
        assert (found.stats.at_once > 0) == METHODS[method].newton
        plain = solve(func, first.steps, method, rtol=None, atol=None)
        torch.testing.assert_close(found.y, plain.y, rtol=0, atol=1e-9)
        torch.testing.assert_close(gradient(found, func), gradient(plain, func), rtol=1e-7, atol=1e-8)
    assert kept.renewals == {"first": 1}
    assert kept.solves == 4
    # The estimate of the same errors by a solve that adapts its steps, within the next one's.
    assert 0.01 < kept.error < 20


def test_the_guess_saves_iterations() -> None:
    func, kept = Oscillator(), KeptSteps()
    adaptive = solve(func, kept)
    moved(func, 1)
    found = solve(func, kept)
    assert found.stats.at_once == found.stats.accepted
    assert found.stats.newton_iterations <= 6 < adaptive.stats.newton_iterations
    assert found.stats.rhs_evals < adaptive.stats.rhs_evals


def test_steps_are_chosen_anew_in_time() -> None:
    """After so many solves, and before an error is too large: then the solution has the new steps."""
    func, kept = Oscillator(), KeptSteps(Adaptive(), renew=3, bound=3)
    reasons = [solve(func, kept).stats.renewed for _ in range(7)]
    assert reasons == ["first", "", "", "age", "", "", "age"]
    with torch.no_grad():
        func.p *= 2
    found = solve(func, kept)
    assert found.stats.renewed == "error"
    plain = solve(func, Adaptive())
    assert torch.equal(found.y, plain.y)
    assert found.stats.rejected >= plain.stats.rejected + 10, "the steps that were discarded"
    assert kept.renewals == {"first": 1, "age": 2, "error": 1}
    assert kept.solves == 8
    assert kept.error <= 1.01


@pytest.mark.parametrize("bound", [1.5, 3.0, 30.0])
def test_no_solution_is_worse_than_the_bound(bound: float) -> None:
    """Over a training's way; the errors are those of a solve on much finer steps."""
    func, kept, worst = Oscillator(), KeptSteps(renew=1000, bound=bound), 0.0
    for k in range(0, 36, 3):
        moved(func, k)
        found = solve(func, kept)
        own = solve(func, Adaptive())
        exact = stiffml.solve(func, START, T, method="dopri5", rtol=1e-9, atol=1e-10).y
        assert kept.error <= kept.largest_error
        off, usual = (float((each.y - exact).detach().abs().max()) for each in (found, own))
        worst = max(worst, off / usual)
    # Errors of steps add up with any signs, and each may be as large as the bound.
    assert worst < 3 * bound
    assert kept.renewals.total() < 12
    assert (kept.renewals["error"] > 0) == (bound < 30)


def test_an_evaluation_changes_nothing() -> None:
    func, kept = Oscillator(), KeptSteps(renew=2)
    with torch.no_grad():
        assert solve(func, kept).stats.renewed == "first"
    assert kept.count == kept.solves == 0, "steps of an evaluation are not kept"
    solve(func, kept)
    moved(func, 1)
    last = solve(func, kept)
    before = saved(kept)
    moved(func, 2)
    for _ in range(3):
        with torch.no_grad():
            found = solve(func, kept)
        assert found.stats.renewed == "", "an evaluation takes steps of any age"
        assert found.steps.ends[0].tolist() == last.steps.ends[0].tolist()
    with torch.no_grad():
        func.p *= 2
        assert solve(func, kept).stats.renewed == "error", "its errors are bounded as well"
    assert same(before, saved(kept))
    assert solve(func, kept).stats.renewed == "age"


class Explosive(nn.Module):
    """y' = p y², which has no solution to the end for large p."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(0.1, dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.p * y**2


def test_a_solve_that_fails_is_tried_with_new_steps() -> None:
    func, kept = Explosive(), KeptSteps(Adaptive(maximum=0.2))
    solve(func, kept, method="cn")
    before = saved(kept)
    with torch.no_grad():
        func.p.fill_(5.0)
    with pytest.raises(stiffml.SolveError) as caught:
        solve(func, kept, method="cn")
    assert caught.value.solution is not None
    assert caught.value.solution.stats.renewed in ("failure", "error")
    assert same(before, saved(kept)), "only solves that reach the end are kept"
    part = solve(func, kept, method="cn", throw=False)
    assert not part.success
    with torch.no_grad():
        func.p.fill_(0.1)
    assert solve(func, kept, method="cn").stats.renewed == ""


def test_steps_that_had_to_be_cut_are_chosen_anew() -> None:
    """Where Newton's iteration fails on a kept step; the solution counts, and the next solve adapts."""
    func, kept = Oscillator(), KeptSteps(bound=1e9)
    few = Newton(max_iterations=3)
    solve(func, kept, method="cn", newton=few)
    with torch.no_grad():
        func.p[0] *= 10
    found = solve(func, kept, method="cn", newton=few, stepping="sequential")
    assert found.stats.renewed == ""
    assert found.stats.accepted > kept.count, "no step had to be cut: this shows nothing"
    assert solve(func, kept, method="cn", newton=few).stats.renewed == "cut"
    assert solve(func, kept, method="cn", newton=few).stats.renewed == ""


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"t": times(0, 0.3, 2.5)}, "t = 3 values from 0 to 2, not 3 values from 0 to 2.5"),
        ({"y0": START.expand(2, 2)}, r"y0 = .*\(2,\)"),
        ({"method": "cn"}, "method = BDF"),
        ({"rtol": 1e-5}, "rtol = 0.0001, not 1e-05"),
        ({"through": [0.1]}, r"through = \[\], not \[0.1\]"),
        ({"outputs": "interpolate"}, "outputs = steps, not interpolate"),
    ],
)
def test_other_solves_take_steps_of_their_own(changed: dict, named: str) -> None:
    func, kept = Oscillator(), KeptSteps()
    arguments = {"y0": START, "t": T, "method": "bdf3", **TOLERANCES}
    stiffml.solve(func, steps=kept, **arguments)
    before = saved(kept)
    with pytest.raises(ValueError, match=f"KeptSteps hold the steps of solves with {named}.*reset"):
        stiffml.solve(func, steps=kept, **{**arguments, **changed})
    assert same(before, saved(kept))
    kept.reset()
    assert stiffml.solve(func, steps=kept, **{**arguments, **changed}).stats.renewed == "first"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"event": lambda t, y: y[0] - 1}, "event: KeptSteps"),
        ({"adjoint": Discrete(checkpoints=3)}, "adjoint: KeptSteps keep all states"),
        ({"method": "rk4"}, "no error estimate to adapt steps with"),
        ({"method": "dirk-es213sal", "mass": torch.ones(2, dtype=D)}, "with a mass matrix, DIRK.* no error"),
    ],
)
def test_what_does_not_go_with_them(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        solve(Oscillator(), KeptSteps(), **arguments)


def test_wrong_settings_are_refused() -> None:
    func, kept = Oscillator(), KeptSteps()
    with pytest.raises(ValueError, match="guess: KeptSteps begin with their own"):
        solve(func, kept, guess=solve(func, Adaptive()))
    for wrong in (Recorded([[1.0]]), 25, "adaptive"):
        with pytest.raises(TypeError, match="KeptSteps: steps must be Adaptive, Fixed or Grid"):
            KeptSteps(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="KeptSteps: renew"):
        KeptSteps(renew=0)
    with pytest.raises(ValueError, match="KeptSteps: bound"):
        KeptSteps(bound=0.5)
    with pytest.raises(ValueError, match="rtol and atol choose adaptive steps"):
        solve(func, KeptSteps(Grid(4)))


@pytest.mark.parametrize("steps", [Grid(12), Fixed(0.05)])
def test_known_steps_keep_the_solution_as_a_guess(steps: Grid | Fixed) -> None:
    func, kept = Oscillator(), KeptSteps(steps, renew=2)
    for k in range(5):
        moved(func, k)
        found = solve(func, kept, rtol=None, atol=None)
        plain = solve(func, steps, rtol=None, atol=None)
        torch.testing.assert_close(found.y, plain.y, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradient(found, func), gradient(plain, func), rtol=1e-7, atol=1e-8)
        assert found.stats.accepted == plain.stats.accepted, "a starting ramp is not added twice"
        if k:
            assert found.stats.newton_iterations < plain.stats.newton_iterations
    assert kept.renewals == {"first": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        {"breakpoints": [0.7, 1.2]},
        {"through": [0.5]},
        {"outputs": "interpolate"},
        {"t": T.flip(0)},
        {"adjoint": Discrete(checkpoints="solutions")},
        {"stepping": "sequential"},
        {"y0": START.float(), "rtol": 1e-3, "atol": 1e-4},
        {"y0": torch.stack([START, 0.9 * START]), "batch_dims": 1},
        {"mass": torch.tensor([1.0, 0.5], dtype=D)},
        {"func": lambda t, y: (-y[0] * y[1].sum(), y[1] * torch.cos(t)), "y0": (START, START[:1])},
        {"method": "rosw-ra34pw2", "stepping": "all-at-once"},
        {"method": "arkimex-3", "func": Split(lambda t, y: -30 * y, lambda t, y: torch.cos(t) + 0.1 * y)},
    ],
    ids=lambda arguments: "-".join(arguments),
)
def test_with_other_arguments(arguments: dict) -> None:
    """Solved again with nothing changed: the same solution, from the guess."""
    kept = KeptSteps()
    given = {"func": Oscillator(), "y0": START, "t": T, "method": "bdf3", **TOLERANCES, **arguments}
    first = stiffml.solve(**given, steps=kept)
    chosen = kept.error
    again = stiffml.solve(**given, steps=kept)
    assert again.stats.renewed == ""
    assert again.stats.accepted == first.stats.accepted
    assert kept.error == pytest.approx(chosen, rel=0.05, abs=1e-3)
    parts = zip(*(each.y if isinstance(each.y, tuple) else (each.y,) for each in (first, again)), strict=True)
    for one, other in parts:
        # Both are within Newton's tolerance of the equations, a hundredth of that of a step.
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)
