"""Known steps of samples with times of their own, solved all at once: each sample is its own solve."""

from __future__ import annotations

import pytest
import torch
from forms import NEWTON, Case, forms
from methods import EXPONENTIAL
from own_times import Kinetics, gradients, starts, times
from torch import Tensor

import stiffml
from stiffml import METHODS, Fixed, Grid, Newton, Solution, SolveError, solve
from stiffml.all_at_once import samples as all_at_once
from stiffml.all_at_once import stepper

D = torch.float64
ABLE = [name for name in METHODS if METHODS[name].within_step and name not in EXPONENTIAL]
ABLE = [(name, form) for name in ABLE for form in forms(name)]
A_FEW = ["cn", "bdf3", "rosw-ra34pw2", "arkimex-3", "dirk-es325sal", "sdirk3"]
LOOK_AT = "look at all_at_once/samples.py"


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max())


def batch_of(case: Case) -> tuple[Tensor, Tensor]:
    """Four initial states (4, width) and times (4, n) that need gradients."""
    y0 = case.y0.detach() * torch.linspace(0.7, 1.2, 4, dtype=D)[:, None]
    return y0.requires_grad_(), times().requires_grad_()


def compared(method: str, form: str, **arguments) -> Solution:
    """Values and all gradients against the ordinary path, sample by sample and step by step."""
    case = Case(form, times()[0])
    y0, t = batch_of(case)
    options = {"method": method, "steps": Grid(4), **case.options}
    options |= {"newton": NEWTON} if METHODS[method].newton else {}
    found = solve(case.func, y0, t, batch_dims=1, stepping="all-at-once", **options, **arguments)
    each = [
        solve(case.func, u, own, stepping="sequential", **options).y for u, own in zip(y0, t, strict=True)
    ]
    expected = torch.stack(each, 1)
    where = f"{method}, {form}; {LOOK_AT}"
    assert found.stats.at_once == found.stats.accepted > 0, where
    assert off(found.y, expected) <= 1e-10, f"{where}: {off(found.y, expected):.1e}"
    weights = torch.linspace(0.5, 1.5, expected.numel(), dtype=D).reshape(expected.shape)
    inputs = {"y0": y0, "t": t, **dict(case.func.named_parameters())}
    inputs |= {f"mass {i}": mass for i, mass in enumerate(case.mass)}
    of_found, wanted = (
        gradients((weights * (y + y**2 / 2)).sum(), *inputs.values()) for y in (found.y, expected)
    )
    for name, one, other in zip(inputs, of_found, wanted, strict=True):
        scale = max(1.0, float(other.abs().max()))
        assert off(one, other) <= 1e-8 * scale, f"{where}: dL/d{name} is off by {off(one, other):.1e}"
    return found


@pytest.mark.parametrize(("method", "form"), ABLE)
def test_each_sample_is_its_own_solve(method: str, form: str) -> None:
    compared(method, form)


@pytest.mark.parametrize("library", ["c", "python"])
@pytest.mark.parametrize("method", A_FEW)
def test_windows(method: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so many numbers that samples go in two groups, each in windows; by C and without it."""
    if library == "python":
        from stiffml.all_at_once.in_c import qualifying
        from stiffml.compiled.refusal import NotCompilableError

        monkeypatch.setattr(qualifying, "library", lambda: NotCompilableError("there is none"))
    case, counts, original = Case("ode", times()[0]), list[int](), all_at_once.solve_segment
    small = stepper.WINDOW_NUMBERS // stepper.fitting(_system(case, method), METHODS[method])

    def counted(segment, *arguments):
        counts.append(len(segment.which))
        return original(segment, *arguments)

    monkeypatch.setattr(stepper, "WINDOW_NUMBERS", 20 * small)
    monkeypatch.setattr(all_at_once, "solve_segment", counted)
    solution = compared(method, "ode")
    assert max(counts) <= 20
    assert len(counts) >= 3
    assert sum(counts) == solution.stats.accepted


def _system(case: Case, method: str):
    steps = {"method": method, "steps": Grid(1), "batch_dims": 1}
    y0, t = batch_of(case)
    return solve(case.func, y0, t, **steps).pieces[0].tape.replay.system


def test_few_iterations_serve_all_samples() -> None:
    func, y0, t = Kinetics(), starts(), times()
    arguments = {"method": "bdf3", "batch_dims": 1, "steps": Grid(20)}
    with torch.no_grad():
        found = solve(func, y0, t, **arguments)
        one_by_one = solve(func, y0, t, stepping="sequential", **arguments)
    assert one_by_one.stats.at_once == 0
    assert found.stats.at_once == found.stats.accepted == one_by_one.stats.accepted
    assert found.stats.newton_iterations <= 15 < one_by_one.stats.newton_iterations / 10


def test_auto_is_where_it_pays() -> None:
    """With a Newton iteration, and four steps at least."""
    for method, steps, is_at_once in (
        ("cn", Grid(4), True),
        ("cn", Grid(1), False),
        ("rosw-ra34pw2", Grid(4), False),
        ("dopri5", Grid(40), False),
    ):
        solution = solve(Kinetics(), starts(), times(), batch_dims=1, method=method, steps=steps)
        assert bool(solution.stats.at_once) == is_at_once, f"{method}, {steps}: interface/own_times/together"
    with pytest.raises(ValueError, match="stepping: 'all-at-once' needs steps that are known"):
        solve(Kinetics(), starts(), times(), batch_dims=1, stepping="all-at-once")
    wide = torch.ones(4, 17, dtype=D)
    with pytest.raises(ValueError, match="stepping: 'all-at-once' is for samples of up to 16"):
        solve(lambda t, y: -y, wide, times(), batch_dims=1, steps=Grid(4), stepping="all-at-once")


@pytest.mark.parametrize("method", ["cn", "bdf3", "sdirk3"])
def test_nan_in_one_sample(method: str) -> None:
    """It ends as it does step by step, with the same message; the others are solved all at once."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        left = 1.2 - t.reshape(*t.shape, *(1,) * (y.dim() - t.dim()))
        return -3 * y * y + torch.sqrt(left)

    arguments = {"method": method, "batch_dims": 1, "steps": Grid(20), "throw": False}
    arguments["newton"] = Newton(rtol=1e-13)
    y0, t = starts(), times()  # the third sample goes to t = 1.3
    one, other = (solve(func, y0, t, stepping=s, **arguments) for s in ("sequential", "auto"))
    assert one.message == other.message
    assert "sample [2]" in other.message
    assert one.y.isnan().any()
    assert torch.equal(one.y.isnan(), other.y.isnan())
    assert off(one.y.nan_to_num(), other.y.nan_to_num()) <= 1e-9
    counts = [sum(map(len, steps.ends)) for steps in other.steps]
    assert other.stats.at_once == sum(counts) - counts[2]
    assert other.stats.rejected == one.stats.rejected > 0
    with pytest.raises(SolveError, match=r"sample \[2\]"):
        solve(func, y0, t, **{**arguments, "throw": True})


def test_gradients_where_one_sample_is_left() -> None:
    """From its start Newton's iteration leads to the root of a negative number, until the step is cut."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -k * (torch.sqrt(y) - 0.1)

    k = torch.tensor(5.0, dtype=D, requires_grad=True)
    y0 = torch.tensor([[0.02], [1.0], [0.015]], dtype=D, requires_grad=True)
    t = torch.linspace(0, 10, 3, dtype=D).expand(3, -1)
    for method in ("beuler", "bdf3"):
        arguments = {"method": method, "steps": Grid(5), "batch_dims": 1, "newton": Newton(rtol=1e-13)}
        one, other = (solve(func, y0, t, stepping=s, **arguments) for s in ("sequential", "auto"))
        counts = [sum(map(len, steps.ends)) for steps in other.steps]
        assert other.stats.at_once == counts[0] + counts[2] > 0
        assert other.stats.rejected == one.stats.rejected > 0
        assert other.stats.accepted == one.stats.accepted == sum(counts)
        assert counts[1] > counts[0]
        assert off(one.y, other.y) <= 1e-10, LOOK_AT
        for a, b in zip(*(gradients(s.y.square().sum(), y0, k) for s in (one, other)), strict=True):
            assert off(a, b) <= 1e-8


def test_no_sample_can_be_solved_all_at_once() -> None:
    def explodes(t: Tensor, y: Tensor) -> Tensor:
        return y**2

    y0, t = torch.ones(2, 1, dtype=D), torch.tensor([[0.0, 1.5], [0.0, 2.0]], dtype=D)
    messages = []
    for stepping in ("sequential", "all-at-once"):
        arguments = {"method": "beuler", "steps": Grid(20), "stepping": stepping, "batch_dims": 1}
        with pytest.raises(SolveError) as raised:
            solve(explodes, y0, t, **arguments)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_exceptions_of_func() -> None:
    """One that is raised far from the solution only does no harm; one on the way passes through."""

    def far(t: Tensor, y: Tensor) -> Tensor:
        if bool((y.detach() > limit).any()):
            raise KeyError("far outside")
        return 5 * y * (1 - y)

    y0, t = torch.tensor([[1e-3], [0.5]], dtype=D), torch.linspace(0, 20, 41, dtype=D).expand(2, -1)
    arguments = {"method": "beuler", "steps": Grid(4), "batch_dims": 1}
    limit = 2.0
    one, other = (solve(far, y0, t, stepping=s, **arguments) for s in ("sequential", "auto"))
    assert off(one.y, other.y) <= 1e-9
    limit = 0.7
    with pytest.raises(KeyError, match="far outside"):
        solve(far, y0, t, **arguments)


@pytest.mark.parametrize("method", ["cn", "bdf3"])
def test_a_sample_does_not_depend_on_the_others_beyond_newtons_tolerance(method: str) -> None:
    func, y0, t = Kinetics(), starts(), times()
    arguments = {"method": method, "batch_dims": 1, "steps": Grid(10)}
    with torch.no_grad():
        y = solve(func, y0, t, **arguments).y
        for order in ([3, 1, 0, 2], [0, 0, 1, 1, 2, 3, 3], [2], [1, 3]):
            assert off(solve(func, y0[order], t[order], **arguments).y, y[:, order]) <= 1e-9


@pytest.mark.parametrize("method", ["cn", "bdf3", "sdirk3"])
def test_a_guess_changes_the_work_and_not_the_result(method: str) -> None:
    func, y0, t = Kinetics(), starts(), times()
    arguments = {"method": method, "batch_dims": 1, "steps": Grid(10), "newton": Newton(rtol=1e-12)}
    cold = solve(func, y0, t, **arguments)
    for guess in (cold, solve(func, y0, t, batch_dims=1, method="beuler", steps=Grid(40))):
        warm = solve(func, y0, t, guess=guess, **arguments)
        assert off(warm.y, cold.y) <= 1e-10
        assert warm.stats.newton_iterations < cold.stats.newton_iterations, "look at near_states"
    back = {"method": method, "batch_dims": 1, "steps": Grid(12), "newton": Newton(rtol=1e-12)}
    first = solve(lambda t, y: -y / (1 + y**2), y0, t, **back)
    ends = first.y[-1].detach()
    one, other = (
        solve(lambda t, y: -y / (1 + y**2), ends, t.flip(1), guess=g, **back) for g in (None, first)
    )
    assert off(one.y, other.y) <= 1e-10
    assert other.stats.newton_iterations < one.stats.newton_iterations, "look at signs in near_states"
    wide = torch.rand(4, 30, dtype=D, generator=torch.Generator().manual_seed(0))
    more = {"batch_dims": 1, "method": method, "steps": Grid(4)}
    first = solve(lambda t, y: -(y**2), wide, t, **more)
    assert first.stats.at_once == 0
    assert solve(lambda t, y: -(y**2), wide, t, guess=first, **more).stats.at_once > 0


def test_wrong_guesses() -> None:
    func, y0, t = Kinetics(), starts(), times()
    arguments = {"batch_dims": 1, "steps": Grid(4), "method": "cn"}
    for guess, message in (
        (solve(func, y0, t[0], **arguments), r"guess: .* \(4, n\), not \(4,\)"),
        (solve(func, y0[:3], t[:3], **arguments), r"guess: .* \(4, n\), not \(3, 4\)"),
        (solve(lambda t, y: -y, y0[:, :1], t, **arguments), "guess has samples of 1 components, y0 has 2"),
    ):
        with pytest.raises(ValueError, match=message):
            solve(func, y0, t, guess=guess, **arguments)
    with pytest.raises(TypeError, match="guess must be the Solution"):
        solve(func, y0, t, guess=y0, **arguments)


def test_newtons_tolerance_is_that_of_the_sample() -> None:
    """``atol`` by component and sample; a loose one for all but the last is met by all."""
    func, y0, t = Kinetics(), starts(), times()
    iterations = []
    for loose, tight in ((1e-2, 1e-2), (1e-2, 1e-13), (1e-13, 1e-13)):
        atol = torch.full_like(y0, loose)
        atol[3] = tight
        newton = Newton(rtol=1e-14, atol=atol)
        found = solve(func, y0, t, batch_dims=1, method="cn", steps=Grid(8), newton=newton)
        assert found.stats.at_once > 0
        iterations.append(found.stats.newton_iterations)
    assert iterations[0] < iterations[1] <= iterations[2], f"{iterations}: look at atol in solve_segment"


def test_compiled_functions() -> None:
    """By default each sample runs by itself in C, which costs less; asked for, all at once, in C too."""
    func, y0, t = Kinetics(), starts().requires_grad_(), times()
    arguments = {"batch_dims": 1, "steps": Grid(8), "newton": Newton(rtol=1e-13)}
    for method in ("cn", "bdf3", "dirk-es325sal"):
        expected = solve(func, y0, t, method=method, stepping="sequential", **arguments)
        own, together = (
            solve(func, y0, t, method=method, compile=True, stepping=stepping, **arguments)
            for stepping in ("auto", "all-at-once")
        )
        assert own.stats.in_c == own.stats.accepted == together.stats.at_once
        assert own.stats.at_once == together.stats.in_c == 0
        wanted = gradients(expected.y.square().sum(), y0, func.k)
        for solution in (own, together):
            assert off(solution.y, expected.y) <= 1e-10
            for a, b in zip(gradients(solution.y.square().sum(), y0, func.k), wanted, strict=True):
                assert off(a, b) <= 1e-8


@pytest.mark.parametrize("method", ["cn", "bdf3"])
def test_further_derivatives(method: str) -> None:
    """Second ones, and between steps: they know the run's equations, too."""
    func, y0, t = Kinetics(5.0), starts().requires_grad_(), times()
    arguments = {"method": method, "batch_dims": 1, "steps": Fixed(0.05), "newton": Newton(rtol=1e-13)}
    asked = t[:, :1] + (t[:, -1:] - t[:, :1]) * torch.linspace(0, 1, 7, dtype=D)
    found = []
    for stepping in ("sequential", "auto"):
        solution = solve(func, y0, t, stepping=stepping, **arguments)
        (first,) = torch.autograd.grad(solution.y.square().sum(), y0, create_graph=True)
        between = solution.interpolate(asked)
        found.append((between, *gradients(first.square().sum(), y0, func.k), *gradients(between.sum(), y0)))
    for one, other in zip(*found, strict=True):
        assert off(one, other) <= 1e-8 * max(1.0, float(one.detach().abs().max()))


def test_a_function_that_has_changed_is_noticed() -> None:
    class Changing(Kinetics):
        factor = 1.0

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.factor * super().forward(t, y)

    func, y0 = Changing(), starts().requires_grad_()
    solution = solve(func, y0, times(), batch_dims=1, method="cn", steps=Grid(4))
    assert solution.stats.at_once > 0
    func.factor = 1.1
    with pytest.raises(stiffml.ReplayError):
        solution.y.sum().backward()
