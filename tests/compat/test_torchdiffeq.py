"""The interface of torchdiffeq against torchdiffeq itself: the same numbers where the steps are the same."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from small_problems import times
from torch import Tensor, nn

from stiffml.compat import torchdiffeq as ours
from stiffml.compat.torchdiffeq.names import ADAPTIVE, FIXED, IMPLICIT, INSTEAD, REFUSED

theirs = pytest.importorskip("torchdiffeq")

ON_GRID = [name for name in FIXED if name not in (*INSTEAD, *IMPLICIT, "implicit_midpoint")]
EXPLICIT = list(ADAPTIVE)


class Field(nn.Module):
    """A forced oscillator with a nonlinear damping, for real and complex states."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.tensor([[-0.3, 2.0], [-2.0, -0.1]], dtype=dtype))
        self.unused = nn.Parameter(torch.ones(2, dtype=dtype))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.A - y * y.abs() ** 2 / 50 + torch.sin(2 * t)


class OfTuples(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.field = Field()

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        a, b = y
        return self.field(t, a), -b * a.sum()


Y0 = times(1.0, -0.5)
STATES = {
    "real": (Field(), Y0),
    "complex": (Field(torch.complex128), torch.complex(Y0, Y0.flip(0))),
    "tuple": (OfTuples(), (Y0, torch.ones(2, 1, dtype=torch.float64))),
}
TIMES = {"forwards": times(0, 0.3, 0.5, 1.0), "backwards": times(1.0, 0.62, 0.0)}


def parts(y: Any) -> tuple[Tensor, ...]:
    return y if isinstance(y, tuple) else (y,)


def compare(found: Any, wanted: Any, rtol: float, atol: float) -> None:
    assert type(found) is type(wanted)
    for one, other in zip(parts(found), parts(wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def gradients(library: Any, state: str, t: Tensor, **arguments: Any) -> tuple[Any, list[Tensor]]:
    func, y0 = STATES[state]
    starts = [part.clone().requires_grad_() for part in parts(y0)]
    t = t.clone().requires_grad_()
    y = library.odeint(func, tuple(starts) if isinstance(y0, tuple) else starts[0], t, **arguments)
    loss = sum((part.abs() ** 2 * torch.arange(1, part.numel() + 1).view_as(part)).sum() for part in parts(y))
    weights = [p for name, p in func.named_parameters() if "unused" not in name]
    return y, list(torch.autograd.grad(loss, [*starts, t, *weights]))


GRIDS = ({"step_size": 0.07}, {"step_size": 0.1, "interp": "cubic"}, {"step_size": 0.05})


@pytest.mark.parametrize("state", list(STATES))
@pytest.mark.parametrize("method", ON_GRID)
def test_values_and_gradients_on_a_grid(method: str, state: str) -> None:
    for t in TIMES.values():
        for options in (
            None,
            {"step_size": 0.07},
            {"step_size": 0.1, "interp": "cubic"},
            {"step_size": 0.05},
        ):
            found, of_ours = gradients(ours, state, t, method=method, options=options)
            wanted, of_theirs = gradients(theirs, state, t, method=method, options=options)
            compare(found, wanted, 1e-12, 1e-13)
            for one, other in zip(of_ours, of_theirs, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_grid_of_ones_own() -> None:
    def constructor(func: Any, y0: Tensor, t: Tensor) -> Tensor:
        assert y0.shape == (2,)
        return torch.cat([t[:1], t[:1] + 0.37 * (t[-1] - t[0]), t[-1:]])

    for t in TIMES.values():
        options = {"grid_constructor": constructor}
        found, of_ours = gradients(ours, "real", t, method="heun3", options=options)
        wanted, of_theirs = gradients(theirs, "real", t, method="heun3", options=options)
        compare(found, wanted, 1e-12, 1e-13)
        torch.testing.assert_close(of_ours[-1], of_theirs[-1], rtol=1e-9, atol=1e-10)
    with pytest.raises(ValueError, match="exclude one another"):
        ours.odeint(Field(), Y0, t, method="rk4", options={**options, "step_size": 0.1})
    with pytest.raises(ValueError, match="from t\\[0\\] to t\\[-1\\]"):
        ours.odeint(Field(), Y0, t, method="rk4", options={"grid_constructor": lambda f, y, t: t[:-1]})


class Watched(Field):
    """Notes what its callbacks are called with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, float, float, Tensor]] = []
        for name in ("step", "accept_step", "reject_step", "step_adjoint", "accept_step_adjoint"):
            setattr(self, f"callback_{name}", self._noting(name))

    def _noting(self, name: str) -> Any:
        return lambda t0, y0, dt: self.seen.append((name, float(t0), float(dt), y0))


OF_CONTROLLER: list[dict[str, Any]] = [
    {},
    {"norm": lambda y: y.abs().max()},
    {"safety": 0.7, "ifactor": 2.0, "dfactor": 0.5},
    {"first_step": 0.2},
    {"max_step": 0.11},
    {"min_step": 0.15},
    {"step_t": times(0.33, 0.7)},
    {"jump_t": times(0.5)},
]


@pytest.mark.parametrize("options", OF_CONTROLLER, ids=lambda options: ",".join(options) or "none")
@pytest.mark.parametrize("method", ["dopri8", "dopri5", "bosh3", "fehlberg2"])
def test_steps_and_callbacks_are_torchdiffeqs(method: str, options: dict[str, Any]) -> None:
    for t in TIMES.values():
        steps = []
        for library in (ours, theirs):
            func = Watched()
            library.odeint(func, Y0, t, method=method, rtol=1e-3, atol=1e-5, options=options)
            steps.append(func.seen)
        mine, other = steps
        # The last steps differ: those here end on the last time, those there go beyond.
        span = abs(float(t[-1] - t[0]))
        beyond = [abs(at - float(t[0])) + size >= span for _, at, size, _ in mine]
        last = beyond.index(True)
        assert last > 0
        assert [step[0] for step in mine[:last]] == [step[0] for step in other[:last]]
        for one, two in zip(mine[:last], other[:last], strict=True):
            # torchdiffeq takes the slope of the last stage for that at the end, which it is for two of them.
            rel = 1e-9 if method != "fehlberg2" else 2e-3
            assert one[1:3] == pytest.approx(two[1:3], rel=rel)
            torch.testing.assert_close(one[3], two[3], rtol=10 * rel, atol=rel)


@pytest.mark.parametrize("method", EXPLICIT)
def test_adaptive_solves_keep_their_tolerances(method: str) -> None:
    for state in STATES:
        for t in TIMES.values():
            wanted, of_theirs = gradients(theirs, state, t, rtol=1e-7, atol=1e-8)
            for options in (None, {"norm": lambda y: max(part.abs().max() for part in parts(y))}):
                rtol = 1e-3 if method == "adaptive_heun" else 1e-5
                loose: dict[str, Any] = {"rtol": rtol, "atol": rtol / 10, "options": options}
                found, of_ours = gradients(ours, state, t, method=method, **loose)
                compare(found, wanted, 1e-2, 1e-2)
                for one, other in zip(of_ours, of_theirs, strict=True):
                    torch.testing.assert_close(one, other, rtol=0.05, atol=0.2)


def test_jumps_are_stepped_to() -> None:
    calls = []

    def func(t: Tensor, y: Tensor) -> Tensor:
        calls.append(float(t))
        return -y if t < 0.5 else y

    for options in (
        {"jump_t": times(0.5)},
        {"grid_points": times(0.5), "eps": 1e-6},
        {"jump_t": times(0.5), "norm": lambda y: y.abs().max()},
    ):
        calls.clear()
        y = ours.odeint(func, Y0.abs(), times(0, 1), options=options, method="bosh3", rtol=1e-4)
        torch.testing.assert_close(y[-1], Y0.abs(), rtol=1e-3, atol=0)
        # func is called on both sides, and not on the jump, but where a norm chooses steps that end on it.
        assert "norm" in options or 0.5 not in calls
        assert min(abs(t - 0.5) for t in calls) < 1e-9
    calls.clear()
    y = ours.odeint(func, Y0, times(0, 1), options={"step_size": 0.1, "perturb": True}, method="euler")
    assert not {0.0, 0.5}.intersection(calls)
    torch.testing.assert_close(y[-1], Y0 * 0.9**5 * 1.1**5, rtol=1e-12, atol=0)


@pytest.mark.parametrize("library", [theirs, ours], ids=["theirs", "ours"])
@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
def test_events(library: Any, interface: str) -> None:
    """A ball that falls: the time of the impact √(2h/g), and its derivatives."""
    g = torch.tensor(9.81, dtype=torch.float64, requires_grad=True)
    height = times(2.0).requires_grad_()

    class Fall(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.g = nn.Parameter(g.detach().clone())

        def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return y[1], -self.g.expand(1)

    func, t0 = Fall(), torch.tensor(0.25, dtype=torch.float64)
    for method, options in (("dopri5", None), ("rk4", {"step_size": 0.01, "interp": "cubic"})):
        t, (y, v) = library.odeint_event(
            func,
            (height, 0 * height),
            t0,
            event_fn=lambda t, y: torch.stack([y[0].sum(), 10 - t]),
            odeint_interface=getattr(library, interface),
            method=method,
            options=options,
            atol=1e-8,
            rtol=1e-8,
        )
        assert y.shape == v.shape == (2, 1)
        assert t.item() - 0.25 == pytest.approx(math.sqrt(4 / 9.81), rel=1e-6)
        assert v[-1].item() == pytest.approx(-math.sqrt(4 * 9.81), rel=1e-6)
        of_height, of_g = torch.autograd.grad(t, [height, func.g], retain_graph=True)
        assert of_height.item() == pytest.approx(math.sqrt(4 / 9.81) / 4, rel=1e-5)
        assert of_g.item() == pytest.approx(-math.sqrt(4 / 9.81) / 2 / 9.81, rel=1e-5)
        (of_height,) = torch.autograd.grad(v[-1].sum(), [height])
        assert of_height.item() == pytest.approx(-math.sqrt(9.81 / 4), rel=1e-5)


def test_events_backwards_far_away_and_at_the_start() -> None:
    t, y = ours.odeint_event(
        lambda t, y: torch.ones_like(y),
        times(5.0),
        times(0.0)[0],
        event_fn=lambda t, y: y.sum() + 995,
        reverse_time=True,
    )
    assert t.item() == pytest.approx(-1000)
    assert y.flatten().tolist() == pytest.approx([5, -995])
    t, y = ours.odeint(lambda t, y: -y, times(0.0), times(3.0, 4.0), event_fn=lambda t, y: y.sum())
    assert (t.item(), y.flatten().tolist()) == (3.0, [0.0, 0.0])
    with pytest.raises(ValueError, match="step_size must be given with event_fn"):
        ours.odeint(lambda t, y: -y, Y0, times(0, 1), method="rk4", event_fn=lambda t, y: y[0] - 1.5)
    with pytest.raises(ValueError, match="t must have two times with event_fn"):
        ours.odeint(lambda t, y: -y, Y0, times(0, 1, 2), event_fn=lambda t, y: y[0] - 1.5)


def test_the_adjoint_has_zeros_and_callbacks() -> None:
    for method, options in (("dopri5", {}), ("midpoint", {"step_size": 0.25})):
        func = Watched()
        if method == "midpoint":
            del func.callback_accept_step
            del func.callback_reject_step
        other = torch.ones(3, requires_grad=True)
        y = ours.odeint_adjoint(
            func, Y0, times(0, 1), method=method, options=options, adjoint_params=(*func.parameters(), other)
        )
        forwards = list(func.seen)
        func.seen.clear()
        y.sum().backward()
        assert torch.equal(func.unused.grad, torch.zeros(2, dtype=torch.float64))
        assert torch.equal(other.grad, torch.zeros(3))
        begins = [(t, dt) for name, t, dt, _ in forwards if name == "step"]
        if options:
            assert begins == [(0.0, 0.25), (0.25, 0.25), (0.5, 0.25), (0.75, 0.25)]
        accepted = [(t, dt) for name, t, dt, _ in forwards if name == "accept_step"] or begins
        ends = [(t + dt, dt) for t, dt in reversed(accepted)]
        found = [(t, dt) for name, t, dt, _ in func.seen if name == "step_adjoint"]
        assert [x for pair in found for x in pair] == pytest.approx([x for pair in ends for x in pair])
        torch.testing.assert_close(func.seen[0][3], y[-1].detach(), rtol=1e-9, atol=1e-9)
    with pytest.warns(UserWarning, match="adjoint_atol, adjoint_options without effect"):
        ours.odeint_adjoint(Field(), Y0, times(0, 1), adjoint_options={"norm": "seminorm"}, adjoint_atol=1e-3)


@pytest.mark.parametrize("solver", ["RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA"])
def test_scipy_solvers(solver: str) -> None:
    for t in TIMES.values():
        arguments: dict[str, Any] = {"method": "scipy_solver", "options": {"solver": solver, "max_step": 0.3}}
        for state in ("real", "tuple"):
            func, y0 = STATES[state]
            wanted = theirs.odeint(func, y0, times(*sorted(t.tolist())), **arguments)
            if t[-1] > t[0]:
                compare(ours.odeint(func, y0, t, **arguments), wanted, 2e-5, 1e-6)
            near = ours.odeint(func, y0, t, rtol=1e-10)
            found = parts(ours.odeint(func, y0, t, **arguments))
            compare(found, tuple(map(Tensor.detach, parts(near))), 1e-3, 1e-4)


def test_dense_outputs() -> None:
    dense = ours.odeint_dense(Field(), Y0, times(0)[0], times(1)[0])
    at = times(0.1, 0.5, 0.9)
    wanted = ours.odeint(Field(), Y0, times(0, 0.1, 0.5, 0.9))[1:]
    torch.testing.assert_close(dense(at.view(3, 1))[:, 0], wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="method must have adaptive steps"):
        ours.odeint_dense(Field(), Y0, times(0)[0], times(1)[0], method="rk4")


def test_every_name_is_taken_or_says_what_to_use() -> None:
    for name in (*ADAPTIVE, *FIXED, "bdf", "scipy_solver"):
        with warnings.catch_warnings(record=True):
            y = ours.odeint(Field(), Y0, times(0, 0.01, 0.02), method=name)
        torch.testing.assert_close(y, theirs.odeint(Field(), Y0, times(0, 0.01, 0.02)), rtol=2e-3, atol=2e-3)
    for name, advice in REFUSED.items():
        with pytest.raises(ValueError, match=f"method: stiffml does not have {name}; use {advice}"):
            ours.odeint(Field(), Y0, times(0, 1), method=name)
    with pytest.raises(ValueError, match=r"'doprri5'\. Did you mean 'dopri5'\? Known are dopri8, dopri5"):
        ours.odeint(Field(), Y0, times(0, 1), method="doprri5")
    with pytest.raises(ValueError, match=r"'RK45'\. The nearest here is 'dopri5'"):
        ours.odeint(Field(), Y0, times(0, 1), method="RK45")
    with pytest.warns(UserWarning, match="options: step_size have no effect with dopri5, which knows"):
        ours.odeint(Field(), Y0, times(0, 1), options={"step_size": 0.1})
    func = Field()
    func.callback_reject_step = print
    with pytest.warns(UserWarning, match="func: rk4 does not call callback_reject_step"):
        ours.odeint(func, Y0, times(0, 1), method="rk4")
    with pytest.raises(ValueError, match=r"norm, .* are for explicit methods"):
        ours.odeint(Field(), Y0, times(0, 1), method="bdf", options={"norm": lambda y: y.abs().max()})
    with pytest.raises(RuntimeError, match="max_num_steps = 3"):
        ours.odeint(Field(), Y0, times(0, 1), options={"norm": torch.amax, "max_num_steps": 3})
    with pytest.raises(ValueError, match="interp must be one of linear, cubic"):
        ours.odeint(Field(), Y0, times(0, 1), method="rk4", options={"interp": "quintic"})


def test_one_time_is_the_initial_state() -> None:
    for name in (*EXPLICIT, "rk4", "scipy_solver"):
        for func, y0 in STATES.values():
            compare(
                ours.odeint(func, y0, times(0.5), method=name),
                theirs.odeint(func, y0, times(0.5), method="rk4"),
                0,
                0,
            )
