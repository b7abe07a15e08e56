"""Known steps solved all at once are those that are taken one by one, and so are their gradients."""

from __future__ import annotations

import pytest
import torch
from forms import Case
from rows import RUNS, off, require_same
from small_problems import forced, known, logistic, times
from torch import Tensor, nn

import stiffml
from stiffml import Discrete, Disk, Fixed, Grid, Newton, solve
from stiffml.all_at_once import stepper

D = torch.float64
OUTPUTS = times(0.1, 0.25, 0.3, 0.8)
LOOK_AT = "look at structure.py and newton.py in all_at_once/, then at the method's pattern"
A_FEW = ["cn", "bdf3", "rosw-ra34pw2", "arkimex-3", "dirk-es325sal", "sdirk3"]


@pytest.mark.parametrize(("method", "form"), RUNS)
def test_same_states_and_gradients(method: str, form: str) -> None:
    case, steps = Case(form, OUTPUTS), Grid(3)
    expected = case.solve(method, steps, stepping="sequential")
    found = case.solve(method, steps, stepping="all-at-once")
    assert found.stats.at_once > 0, f"{method}, {form}: no step was found; {LOOK_AT}"
    require_same(case, found, expected, f"{method}, {form}; {LOOK_AT}")


@pytest.mark.parametrize("checkpoints", ["stages", "solutions", 3, "disk"])
@pytest.mark.parametrize("method", A_FEW)
def test_whatever_is_kept(method: str, checkpoints, tmp_path) -> None:
    case = Case("ode", OUTPUTS)
    adjoint = Discrete(Disk(tmp_path) if checkpoints == "disk" else checkpoints)
    solutions = [
        case.solve(method, Fixed(0.03), stepping=stepping, adjoint=adjoint)
        for stepping in ("sequential", "all-at-once")
    ]
    wanted, found = (case.gradients(solution) for solution in solutions)
    for name, group in wanted.items():
        for one, other in zip(found[name], group, strict=True):
            assert off(one, other) <= 1e-8, f"{method}: dL/d{name}; look at _take in all_at_once/stepper.py"


@pytest.mark.parametrize("samples", [1, 3, 20])
@pytest.mark.parametrize("method", A_FEW)
def test_batches(method: str, samples: int) -> None:
    """Of few samples each has a band matrix; of many, blocks are solved with together."""
    case = Case("ode", OUTPUTS)
    y0 = torch.linspace(0.3, 1.2, 2 * samples, dtype=D).reshape(samples, 2)
    found = []
    for stepping in ("sequential", "all-at-once"):
        start = y0.clone().requires_grad_()
        solution = solve(
            case.func, start, OUTPUTS, method=method, steps=Grid(3), batch_dims=1, stepping=stepping
        )
        (gradient,) = torch.autograd.grad((solution.y**2).sum(), start)
        found.append((solution.y, gradient))
    for one, other in zip(*found, strict=True):
        assert off(one, other) <= 1e-8, f"{method}: look at {'Band' if samples < 8 else 'Substitution'}"


def test_what_the_drive_does_with_steps_it_does_with_these() -> None:
    """Events, bounds, outputs between steps, decreasing times, tuples, breakpoints."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], -y[0] - 0.1 * y[1]])

    y0, t = torch.tensor([1.0, 0.0], dtype=D), times(0, 1, 4)
    variants = {
        "event": {"event": lambda t, y: y[0] - 0.2},
        "interpolated": {"outputs": "interpolate"},
        "through": {"through": [0.33, 2.2]},
        "breakpoints": {"breakpoints": [0.5]},
        "bounds": {"bounds": (-2.0, 2.0)},
    }
    for what, arguments in variants.items():
        for method in ("cn", "bdf3"):
            one, other = (
                solve(func, y0, t, method=method, steps=Fixed(0.05), stepping=stepping, **arguments)
                for stepping in ("sequential", "all-at-once")
            )
            assert other.stats.at_once > 0, f"{what}, {method}: no step was found"
            assert one.status == other.status
            assert off(other.y, one.y) <= 1e-9, f"{what}, {method}: look at all_at_once/stepper.py"
            if one.event is not None and other.event is not None:
                assert abs(float(one.event.t - other.event.t)) <= 1e-9
    back = solve(func, y0, t.flip(0), method="bdf3", steps=Grid(20))
    again = solve(func, y0, t.flip(0), method="bdf3", steps=Grid(20), stepping="sequential")
    assert back.stats.at_once > 0
    assert off(back.y, again.y) <= 1e-9
    pair = solve(lambda t, y: (y[1], -y[0]), (y0[:1], y0[1:]), t, method="cn", steps=Grid(20))
    assert pair.stats.at_once == 40


def test_a_guess_changes_the_work_and_not_the_result() -> None:
    problem = Case("ode", times(*[0.02 * n for n in range(51)]))
    cold = problem.solve("bdf3", Grid(2))
    warm = problem.solve("bdf3", Grid(2), guess=cold)
    other = problem.solve("bdf3", Grid(2), guess=problem.solve("cn", Grid(1)))
    assert warm.stats.newton_iterations < cold.stats.newton_iterations, "look at _states_at in planning.py"
    for solution in (warm, other):
        assert off(solution.y, cold.y) <= 1e-10
        assert solution.stats.at_once == cold.stats.at_once


def test_where_it_does_not_converge() -> None:
    """A long way from an unstable state, by a constant guess; NaN, or an exception, far from the solution."""
    y0, t = torch.tensor([1e-3], dtype=D), times(*[0.5 * n for n in range(41)])

    def raising(t: Tensor, y: Tensor) -> Tensor:
        if bool((y.detach() > 2).any()):
            raise ValueError("far outside")
        return 5 * y * (1 - y)

    for func in (logistic, raising):
        one = solve(func, y0, t, method="beuler", steps=Grid(4), stepping="sequential")
        other = solve(func, y0, t, method="beuler", steps=Grid(4))
        assert off(other.y, one.y) <= 1e-9, "look at _find in all_at_once/stepper.py"
        assert other.stats.accepted == one.stats.accepted


@pytest.mark.parametrize(("method", "count"), [("bdf2", 8), ("arkimex-4", 4), ("dirk-759a", 4)])
def test_equations_with_several_solutions(method: str, count: int) -> None:
    """y = (sin t, cos t) exp(sin t). By long steps, an iteration on all of them ends at solutions 20 away."""
    y0, t = known(times(0)[0]), times(0, 1, 2)
    one, other = (
        solve(forced, y0, t, method=method, steps=Fixed(2 / count), stepping=stepping)
        for stepping in ("sequential", "auto")
    )
    assert off(other.y, one.y) <= 1e-9, f"{method}: look at steps_lead_to in all_at_once/newton.py"


def test_a_step_that_does_not_exist_fails_as_it_does_one_by_one() -> None:
    def explodes(t: Tensor, y: Tensor) -> Tensor:
        return y**2

    y0, t = torch.tensor([1.0], dtype=D), times(0, 2)
    for stepping in ("sequential", "all-at-once"):
        with pytest.raises(stiffml.SolveError, match="Newton"):
            solve(explodes, y0, t, method="beuler", steps=Grid(20), stepping=stepping)


def test_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long run is solved window by window, each with no more numbers than are allowed."""
    case = Case("ode", times(0, 1))
    for method in ("bdf3", "dirk-es325sal"):
        whole = case.solve(method, Grid(100))
        monkeypatch.setattr(stepper, "WINDOW_NUMBERS", 10_000)
        parts = case.solve(method, Grid(100))
        monkeypatch.undo()
        assert parts.stats.at_once == parts.stats.accepted == whole.stats.at_once
        assert parts.stats.newton_iterations > whole.stats.newton_iterations, "look at _fitting"
        assert off(parts.y, whole.y) <= 1e-11, "look at _solve_window in all_at_once/stepper.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stepping": "both"}, "stepping must be one of auto, sequential, all-at-once"),
        ({"stepping": 1}, "stepping must be one of"),
        ({"stepping": "all-at-once", "steps": None}, "stepping: 'all-at-once' needs steps that are known"),
        ({"stepping": "all-at-once", "linear": stiffml.GMRES()}, "needs a dense Jacobian"),
        ({"stepping": "all-at-once", "options": {"snes_linesearch_type": "basic"}}, "does not take options"),
    ],
)
def test_refused(arguments: dict, message: str) -> None:
    y0 = torch.ones(2, dtype=D)
    with pytest.raises(ValueError, match=message):
        solve(lambda t, y: -y, y0, times(0, 1), method="cn", **{"steps": Grid(9), **arguments})
    with pytest.raises(TypeError, match="guess must be the Solution"):
        solve(lambda t, y: -y, y0, times(0, 1), method="cn", steps=Grid(9), guess=y0)
    wide = torch.ones(17, dtype=D)
    with pytest.raises(ValueError, match="up to 16 components, not 17"):
        solve(lambda t, y: -y, wide, times(0, 1), method="cn", steps=Grid(9), stepping="all-at-once")
    assert solve(lambda t, y: -y, wide, times(0, 1), method="cn", steps=Grid(9)).stats.at_once == 0
    one = solve(lambda t, y: -y, y0[:1], times(0, 1), method="cn", steps=Grid(9))
    with pytest.raises(ValueError, match="guess has states of 1 components, y0 has 2"):
        solve(lambda t, y: -y, y0, times(0, 1), method="cn", steps=Grid(9), guess=one)


class Decay(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor([3.0]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.k * y


def test_single_precision() -> None:
    func, y0, t = Decay(), torch.tensor([1.0, 2.0]), torch.linspace(0, 1, 11)
    one, other = (
        solve(func, y0, t, method="dirk-es325sal", steps=Grid(2), stepping=stepping)
        for stepping in ("sequential", "all-at-once")
    )
    assert other.y.dtype == torch.float32
    assert off(other.y, one.y) <= 1e-5
    assert other.stats.at_once == 20


def test_newtons_tolerance_is_that_of_the_solve() -> None:
    case = Case("ode", OUTPUTS)
    iterations = []
    for rtol in (1e-4, 1e-12):
        newton = Newton(rtol=rtol)
        solution = solve(case.func, case.y0, case.t, method="cn", steps=Grid(8), newton=newton)
        iterations.append(solution.stats.newton_iterations)
    assert iterations[0] < iterations[1], f"{iterations}: look at solve in all_at_once/newton.py"
