"""States that are complex, arrays, or nested: the same numbers as with real tensors, in the form of y0."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from small_problems import times
from torch import Tensor, nn

import stiffml
from stiffml import METHODS, Grid, Newton, solve

T = times(0, 0.5, 1.0)
A = torch.tensor([[-0.3 + 2j, 0.4], [0.1j, -40 + 1j]], dtype=torch.complex128)
START = torch.tensor([1 + 0.5j, -0.2 + 1j], dtype=torch.complex128)
TIGHT = {"rtol": 1e-6, "atol": 1e-8}


def linear(t: Tensor, y: Tensor) -> Tensor:
    return torch.mv(A, y)


@pytest.mark.parametrize("method", ["bdf", "dopri5", "rosw-ra34pw2"])
def test_a_complex_state_is_that_of_the_exponential(method: str) -> None:
    y = solve(linear, START, T, method=method, **TIGHT).y
    wanted = np.stack([expm(A.numpy() * t) @ START.numpy() for t in T.tolist()])
    np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.whole])
def test_a_complex_solve_is_that_of_its_pairs(method: str) -> None:
    """Steps, values and gradients of pairs of reals, for a function that is not holomorphic."""
    rate = torch.tensor(0.7 - 0.2j, dtype=torch.complex128, requires_grad=True)
    y0 = START.clone().requires_grad_()
    pairs = torch.view_as_real(START).clone().requires_grad_()

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.mv(A, y) + rate * y.conj() * y.abs() ** 2 / 4 + t * y.real

    def real(t: Tensor, y: Tensor) -> Tensor:
        return torch.view_as_real(func(t, torch.view_as_complex(y)))

    options: dict[str, Any] = {"method": method, "steps": Grid(20)}
    if METHODS[method].newton:
        options["newton"] = Newton(rtol=1e-12, atol=1e-13)
    found = solve(func, y0, T, **options).y
    wanted = torch.view_as_complex(solve(real, pairs, T, **options).y)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    weights = torch.tensor([1 + 2j, -0.5j], dtype=torch.complex128)
    loss = [(y[-1] * weights).sum().abs() ** 2 for y in (found, wanted)]
    of_y0, of_rate = torch.autograd.grad(loss[0], [y0, rate])
    of_pairs, wanted_rate = torch.autograd.grad(loss[1], [pairs, rate])
    torch.testing.assert_close(of_y0, torch.view_as_complex(of_pairs), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(of_rate, wanted_rate, rtol=1e-8, atol=1e-10)


def test_gradients_of_complex_states_are_torchs() -> None:
    rate = torch.tensor(0.7 - 0.2j, dtype=torch.complex128, requires_grad=True)

    def final(y0: Tensor, rate: Tensor) -> Tensor:
        func = lambda t, y: torch.mv(A / 10, y) + rate * y.conj() * y  # noqa: E731
        return solve(func, y0, T, method="cn", steps=Grid(8), params=[rate]).y[-1]

    assert torch.autograd.gradcheck(final, (START.clone().requires_grad_(), rate))
    assert torch.autograd.gradgradcheck(final, (START.clone().requires_grad_(), rate), atol=1e-4)


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


def test_results_have_the_structure_of_the_state() -> None:
    a, b, c = times(1.0, 2.0), times(0.5), torch.tensor([[1j]], dtype=torch.complex128)

    def slopes(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return -a * b, b - a.sum() * b**2, 1j * c - c * b

    def in_reals(t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        da, db, dc = slopes(y[0], y[1], torch.complex(*y[2].unbind(-1)))
        return da, db, torch.stack([dc.real, dc.imag], -1)

    plain = solve(in_reals, (a, b, torch.view_as_real(c)), T).y
    wanted = (plain[0], plain[1], torch.complex(*plain[2].unbind(-1)))

    def named(t: Tensor, y: dict[str, Any]) -> dict[str, Any]:
        da, db, dc = slopes(y["p"].a, y["p"].b, y["c"][0])
        return {"c": [dc], "p": Pair(da, db)}  # in another order

    found = solve(named, {"p": Pair(a, b), "c": [c]}, T)
    assert isinstance(found.y["p"], Pair)
    for one, other in zip((found.y["p"].a, found.y["p"].b, found.y["c"][0]), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    between = found.interpolate(times(0.25))
    assert isinstance(between["p"], Pair)
    assert between["c"][0].is_complex()


def test_an_array_gives_tensors() -> None:
    y = solve(lambda t, y: -y, np.array([1, 2]), T).y
    assert torch.equal(y, solve(lambda t, y: -y, times(1, 2), T).y)
    assert solve(lambda t, y: -y, np.ones(2, np.float32), T).y.dtype == torch.float32
    assert solve(lambda t, y: 1j * y, np.ones(2, complex), T).y.dtype == torch.complex128


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return OrderedDict(u=-self.k * y["u"], v=self.k * y["u"] - y["v"] ** 2)

    def rates(self, t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return self(t, y)


def test_events_jacobians_guesses_and_bounds_of_nested_states() -> None:
    field, y0 = Field(), OrderedDict(u=times(1.0), v=times(0.0, 0.1))
    sol = solve(field.rates, y0, T, event=lambda t, y: y["u"].sum() - 0.5)
    assert abs(sol.event.t.item() - np.log(2) / 2) < 1e-6
    assert abs(sol.event.y["u"].item() - 0.5) < 1e-9
    (of_time,) = torch.autograd.grad(sol.event.t, field.k)
    assert abs(of_time.item() + np.log(2) / 4) < 1e-5
    sol = solve(field, y0, T, bounds=(OrderedDict(u=0.0, v=-1.0), None), method="cn", steps=Grid(4))
    found = sol.jacobian(field.k)
    (wanted,) = torch.autograd.grad(sol.y["v"][1, 1], field.k)
    torch.testing.assert_close(found["v"][1, 1], wanted, rtol=1e-10, atol=0)
    again = solve(field, y0, T, method="cn", steps=Grid(4), guess=sol)
    torch.testing.assert_close(again.y["v"], sol.y["v"], rtol=1e-8, atol=1e-9)
    block = stiffml.ODEBlock(field, T)
    assert block(y0)["v"].shape == (3, 2)


def test_what_complex_states_cannot_have_is_said() -> None:
    for argument, value in {
        "bounds": (0.0, None),
        "mass": torch.eye(2, dtype=torch.float64),
        "jacobian": stiffml.Sparsity(torch.eye(2)),
    }.items():
        with pytest.raises(ValueError, match=f"{argument}: .*view_as_real"):
            solve(linear, START, T, **{argument: value})
    with pytest.raises(ValueError, match="jacobian: is of real states"):
        solve(linear, START.clone().requires_grad_(), T).jacobian(START)
    with pytest.raises(TypeError, match="func: its value must have the structure of y0"):
        solve(lambda t, y: (y["a"],), {"a": times(1.0)}, T)


def test_tolerances_by_component() -> None:
    """Each component keeps its own: one with a loose rtol costs no steps."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-y[0], 20 * torch.cos(20 * t) + 0 * y[1]])

    both = times(1.0, 0.0)
    for method in ("dopri5", "bdf", "rosw-ra34pw2", "sdirk3"):
        options = {"atol": 1e-7, "method": method}
        tight = solve(func, both, T, rtol=1e-5, **options)
        loose = solve(func, both, T, rtol=[1e-5, 1.0], **options)
        assert loose.stats.accepted < tight.stats.accepted / 1.5, method
        same = solve(func, both, T, rtol=[1e-5, 1e-5], **options)
        torch.testing.assert_close(same.y, tight.y, rtol=1e-12, atol=0)
    in_parts = solve(lambda t, y: (-y[0], y[0].sum() - y[1]), (both, times(1.0)), T, atol=(1e-8, times(1e-4)))
    named = solve(
        lambda t, y: {"a": -y["a"], "b": y["a"].sum() - y["b"]},
        {"a": both, "b": times(1.0)},
        T,
        atol={"a": 1e-8, "b": [1e-4]},
    )
    torch.testing.assert_close(named.y["a"], in_parts.y[0], rtol=1e-12, atol=1e-14)
    assert in_parts.stats.accepted == named.stats.accepted
    by_sample = solve(lambda t, y: -y, both.expand(3, 2), T.expand(3, 3), batch_dims=1, rtol=[1e-4, 1e-6])
    one = solve(lambda t, y: -y, both[None], T[None], batch_dims=1, rtol=[1e-4, 1e-6])
    torch.testing.assert_close(by_sample.y[:, 1], one.y[:, 0], rtol=1e-10, atol=1e-12)
    with pytest.raises(
        ValueError, match=r"rtol must be a number or of y0's shape \(2,\), not of shape \(3,\)"
    ):
        solve(func, both, T, rtol=[1e-3] * 3)
    with pytest.raises(ValueError, match=r"atol must be .* one for each part of y0"):
        solve(lambda t, y: y, (both, both), T, atol=(1e-3,))


def test_an_rtol_that_float32_does_not_resolve_is_raised(recwarn) -> None:
    y0 = times(1.0).float()
    sol = solve(lambda t, y: -y, y0, T, rtol=3e-9)
    again = solve(lambda t, y: -y, y0, T, rtol=3e-9)
    assert sum("3e-09 is below what float32 resolves" in str(w.message) for w in recwarn) == 1
    assert sol.stats.accepted == again.stats.accepted
    wanted = solve(lambda t, y: -y, y0, T, rtol=10 * torch.finfo(torch.float32).eps)
    assert sol.stats.accepted == wanted.stats.accepted


def test_explicit_methods_without_an_estimate_step_from_output_to_output() -> None:
    for method in ("rk4", "euler", "midpoint"):
        assert torch.equal(
            solve(lambda t, y: -y, times(1.0), T, method=method).y,
            solve(lambda t, y: -y, times(1.0), T, method=method, steps=Grid()).y,
        )
    assert torch.equal(
        solve(lambda t, y: -y, times(1.0), T, method=None).y, solve(lambda t, y: -y, times(1.0), T).y
    )


@pytest.mark.parametrize("method", ["bdf2", "rosw-ra34pw2", "dopri5"])
def test_events_jumps_and_callbacks_get_states_in_their_form(method: str) -> None:
    """As many real tensors give; what is found on the way has the form of y0 too."""
    seen: list[Any] = []
    nested = {"z": START, "x": torch.tensor([1.0], dtype=torch.float64)}

    def func(t: Tensor, y: dict) -> dict:
        return {"z": torch.mv(A, y["z"]), "x": -y["x"]}

    def dose(t: Tensor, y: dict) -> dict:
        return {**y, "x": y["x"] + 1}

    def below(t: Tensor, y: dict) -> Tensor:
        return y["x"][0] - 0.9

    sol = solve(
        func,
        nested,
        T,
        method=method,
        jumps=[(0.25, dose)],
        event=[stiffml.Crossing(below, terminal=False), stiffml.Crossing(below, "rising", terminal=False)],
        callback=lambda t, y, h: seen.append(y),
        **TIGHT,
    )
    assert set(seen[0]) == {"z", "x"}
    assert seen[0]["z"].is_complex()
    assert float(sol.y["x"][1, 0]) == pytest.approx(np.exp(-0.5) + np.exp(-0.25), rel=1e-4)
    assert float(sol.events[0].t[0]) == pytest.approx(-np.log(0.9), rel=1e-4)
    assert sol.events[0].y["z"].is_complex()
    assert sol.events[1].y["x"].shape == (len(sol.events[1].t), 1)
    states = sol.step_states()
    assert states["x"].shape == (len(sol.step_times), 1)
    assert states["z"].dtype == torch.complex128
    assert sol.plot() is not None
    assert len(str(sol).splitlines()) <= 25
