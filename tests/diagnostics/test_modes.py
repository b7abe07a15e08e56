"""Gradients taken apart by modes and steps: closed forms on linear problems, and sums on all kinds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from daes import CONSISTENT, DIAGONAL, SmallDAE, newton
from methods import EVERY_KIND_AND_ORDER_1, as_taken
from small_problems import SmallNetwork, times
from torch import Tensor

from stiffml import METHODS, Discrete, Fixed, Grid, Newton, Solution, Split, solve
from stiffml.diagnostics import describe_gradient, gradient_by_mode, plot_gradient_by_mode

D = torch.float64
V = torch.tensor([[1.0, 1.0], [1.0, -2.0]], dtype=D)
INVERSE = torch.linalg.inv(V)
START, WEIGHTS = times(1.0, 0.3), times(0.7, -0.2)
H, STEPS = 0.05, 8
KINDS = [name for name in EVERY_KIND_AND_ORDER_1 if METHODS[name].whole]
ONE_STEP = [*(name for name in KINDS if "bdf" not in name), "sdirk3", "theta", "midpoint"]


def linear(method: str, rates: Tensor, forcing: Tensor | None = None) -> Solution:
    """y' = V (λ ∘ V⁻¹y + c), whose modes are known, over 8 steps of 0.05."""
    pushed = torch.zeros(2, dtype=D) if forcing is None else forcing

    def func(t: Tensor, y: Tensor) -> Tensor:
        return V @ (rates * (INVERSE @ y) + pushed)

    t = times(0, STEPS * H)
    params = [rates] if forcing is None else [forcing]
    return solve(func, START, t, method=method, steps=Fixed(H), params=params, **newton(method))


def loss(y: Tensor) -> Tensor:
    return (WEIGHTS * y[-1]).sum()


def trainable(*values: float) -> Tensor:
    return times(*values).requires_grad_()


@pytest.mark.parametrize("fast", [-0.5, -30.0, -2000.0])
@pytest.mark.parametrize("method", ONE_STEP)
def test_closed_form_by_rates(method: str, fast: float) -> None:
    """y = Σ R(hλ)ᴺ c v: to the derivative by λ of its mode each step adds ŵ c R^(N−1) h R', no more."""
    if not METHODS[method].implicit and fast == -2000:
        return  # unstable
    found = gradient_by_mode(linear(method, trainable(-1.0, fast)), loss)
    order = [1, 0] if fast < -1 else [0, 1]  # parameters in the order of modes, the fastest first
    part = found["contribution"].values[:, :, order]
    R, slope = _signed(found, "amplification"), _signed(found, "rate_sensitivity")
    z = H * np.array(sorted([-1.0, fast]))
    exact = _function(method, z)
    np.testing.assert_allclose(np.abs(R), np.abs(exact[0])[None].repeat(STEPS, 0), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(np.abs(slope), np.abs(exact[1])[None].repeat(STEPS, 0), rtol=1e-8, atol=1e-14)
    c, w = (INVERSE @ START).numpy()[order], (WEIGHTS @ V).numpy()[order]
    expected = w * c * exact[0] ** (STEPS - 1) * H * exact[1]
    largest = np.abs(expected).max()
    for step in range(STEPS):
        np.testing.assert_allclose(np.diag(part[step]), expected, rtol=1e-7, atol=1e-13 * largest)
    assert np.abs(part[:, 0, 1]).max() <= 1e-13 * largest
    assert np.abs(part[:, 1, 0]).max() <= 1e-13 * largest
    np.testing.assert_allclose(found["exact"][0], np.exp(z), rtol=1e-12)


def _signed(found, name: str) -> np.ndarray:
    return found[name].values


def _function(method: str, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R and R' by one step of the method itself, solved and differentiated."""
    values = []
    for one in z:
        rate = torch.tensor(one / H, dtype=D, requires_grad=True)
        y0 = torch.ones(1, dtype=D)
        sol = solve(
            lambda t, y, rate=rate: rate * y,
            y0,
            times(0, H),
            method=method,
            steps=Grid(),
            params=[rate],
            **newton(method),
        )
        (slope,) = torch.autograd.grad(sol.y[-1].sum(), rate)
        values.append((float(sol.y[-1]), float(slope) / H))
    return tuple(np.array(values).T)


@pytest.mark.parametrize("method", ["beuler", "cn", "bdf3", "rosw-ra34pw2", "sdirk3"])
def test_a_forcing_is_kept_where_rates_are_lost(method: str) -> None:
    """Of a mode that steps skip the response to a forcing remains, −1/λ, as of the exact flow."""
    fast = -1e5
    found = gradient_by_mode(linear(method, times(-1.0, fast), trainable(0.0, 0.0)), loss)
    total = float(found["gradient"][1])
    exact = float((WEIGHTS @ V)[1]) * (np.exp(fast * H * STEPS) - 1) / fast
    # cn ends at an even number of steps where it started, 1 − R⁸ = 0.
    expected = exact * (1 - float(found["amplification"][-1, 0]) ** STEPS if method == "cn" else 1)
    assert total == pytest.approx(expected, rel=2e-2, abs=1e-3 * abs(exact))
    assert float(found["contribution"][:, 0, 1].sum()) == pytest.approx(total, rel=1e-9)
    assert float(found["rate_sensitivity"].values[-1, 0]) < 1e-3
    last = float(found["forced"].values[-1, 0])
    assert last == pytest.approx(2 if method == "cn" else 1, rel=0.02)


class Stiff(torch.nn.Module):
    """Robertson's reaction, with logarithms as parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = torch.nn.Parameter(times(0.04, 3e7, 1e4).log())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        k = self.logs.exp()
        first, second, third = k[0] * a, k[1] * b * b, k[2] * b * c
        return torch.stack([-first + third, first - second - third, second], dim=-1)


@pytest.mark.parametrize("method", [*KINDS, "sdirk3"])
def test_parts_add_up_to_the_gradient(method: str) -> None:
    func = Stiff() if METHODS[method].implicit else SmallNetwork()
    y0 = times(1, 0, 0) if METHODS[method].implicit else times(1, 0.5, -0.3)
    scale = times(1, 4e4, 1)

    def squares(y: Tensor) -> Tensor:
        return (scale * y[1:]).square().sum()

    sol = (
        solve(func, y0, times(0, 0.01, 1, 10), method=method, rtol=1e-4, atol=1e-8)
        if METHODS[method].adaptive
        else solve(func, y0, times(0, 0.1, 1), method=method, steps=Grid(20))
    )
    gradients = torch.autograd.grad(squares(sol.y), list(func.parameters()), retain_graph=True)
    total = np.concatenate([g.flatten().numpy() for g in gradients])
    found = gradient_by_mode(sol, squares)
    assert found.sizes["step"] == sol.stats.accepted
    sums = found["contribution"].sum(["step", "mode"])
    if found.sizes["parameter"] == len(total):
        np.testing.assert_allclose(found["gradient"], total, rtol=1e-9, atol=1e-12 * np.abs(total).max())
    size = float(np.abs(found["contribution"]).max())
    np.testing.assert_allclose(sums, found["gradient"], rtol=1e-6, atol=1e-9 * size)
    if METHODS[method].implicit:
        assert list(found["parameter"].values) == ["logs[0]", "logs[1]", "logs[2]"]


def test_kinds_of_losses_agree() -> None:
    sol = linear("cn", trainable(-1.0, -30.0))
    by_function = gradient_by_mode(sol, loss)
    cotangent = torch.zeros_like(sol.y)
    cotangent[-1] = WEIGHTS
    for given in (loss(sol.y), cotangent):
        assert by_function.identical(gradient_by_mode(sol, given))


def test_outputs_between_steps() -> None:
    rates, t = trainable(-1.0, -30.0), times(0, 0.13, 0.21, 0.4)
    sol = solve(
        lambda t, y: V @ (rates * (INVERSE @ y)),
        START,
        t,
        method="cn",
        steps=Grid(9),
        outputs="interpolate",
        params=[rates],
    )
    found = gradient_by_mode(sol, lambda y: (y**2).sum())
    (gradient,) = torch.autograd.grad((sol.y**2).sum(), rates)
    np.testing.assert_allclose(found["contribution"].sum(["step", "mode"]), gradient, rtol=1e-10)


@pytest.mark.parametrize("method", ["bdf3", "cn", "rosw-rodas3", "dirk-es213sal"])
def test_a_dae(method: str) -> None:
    func = SmallDAE()
    t = times(0, 0.3, 0.5)
    sol = solve(func, CONSISTENT, t, method=method, mass=DIAGONAL, steps=Grid(4), **newton(method))
    found = gradient_by_mode(sol, lambda y: (y**2).sum())
    gradients = torch.autograd.grad((sol.y**2).sum(), list(func.parameters()))
    total = np.concatenate([g.flatten().numpy() for g in gradients])
    np.testing.assert_allclose(found["contribution"].sum(["step", "mode"]), total, rtol=1e-8, atol=1e-11)
    assert np.isnan(found["amplification"].values[:, 2]).all()
    assert np.abs(found["contribution"].values[:, 2]).max() > 0
    assert "algebraic" in describe_gradient(found)


def test_a_batch() -> None:
    network = SmallNetwork()
    y0 = torch.stack([times(1, 0.5, -0.3), times(0.2, -0.5, 0.1)])
    given = {"method": "rosw-ra34pw2", "steps": Grid(5)}
    sol = solve(network, y0, times(0, 1), batch_dims=1, **given)
    found = gradient_by_mode(sol, lambda y: (y[-1] ** 2).sum())
    assert found["contribution"].dims == ("step", "sample", "mode", "parameter")
    np.testing.assert_allclose(
        found["contribution"].sum(["step", "sample", "mode"]), found["gradient"], rtol=1e-9
    )
    alone = gradient_by_mode(solve(network, y0[1], times(0, 1), **given), lambda y: (y[-1] ** 2).sum())
    np.testing.assert_allclose(found["re"][:, 1], alone["re"], rtol=1e-9)
    np.testing.assert_allclose(found["amplification"][:, 1], alone["amplification"], rtol=1e-9)


def test_many_numbers_are_taken_by_tensor() -> None:
    torch.manual_seed(0)
    wide = torch.nn.Sequential(torch.nn.Linear(2, 20), torch.nn.Tanh(), torch.nn.Linear(20, 2)).double()
    sol = solve(
        lambda t, y: wide(y), START, times(0, 1), method="beuler", steps=Grid(4), params=wide.parameters()
    )
    found = gradient_by_mode(sol, loss)
    gradients = torch.autograd.grad(loss(sol.y), list(wide.parameters()))
    assert found.sizes["parameter"] == 4
    np.testing.assert_allclose(found["gradient"], [float(g.norm()) for g in gradients], rtol=1e-10)
    np.testing.assert_allclose(found["contribution"].sum(["step", "mode"]), found["gradient"], rtol=1e-9)


@pytest.mark.parametrize("checkpoints", ["solutions", 2])
def test_states_that_were_not_kept(checkpoints) -> None:
    rates = trainable(-1.0, -30.0)
    given = {"method": "cn", "steps": Grid(8), "params": [rates], "newton": Newton(rtol=1e-13, atol=1e-15)}

    def func(t: Tensor, y: Tensor) -> Tensor:
        return V @ (rates * (INVERSE @ y)) - y**3

    own = solve(func, START, times(0, 0.4), adjoint=Discrete(checkpoints=checkpoints), **given)
    found, kept = (
        gradient_by_mode(own, loss),
        gradient_by_mode(solve(func, START, times(0, 0.4), **given), loss),
    )
    np.testing.assert_allclose(found["contribution"], kept["contribution"], rtol=1e-7, atol=1e-14)


def test_words_and_picture() -> None:
    found = gradient_by_mode(linear("cn", trainable(-1.0, -1e6)), loss)
    text = describe_gradient(found)
    assert "skipped" in text
    assert "alternating sign" in text
    assert "by rates[0]" in text
    assert max(map(len, text.splitlines())) < 80
    assert "alternating" not in describe_gradient(
        gradient_by_mode(linear("beuler", trainable(-1.0, -1e6)), loss)
    )
    slow = describe_gradient(gradient_by_mode(linear("cn", trainable(-1.0, -2.0)), loss))
    assert "nothing is lost" in slow
    left, right = plot_gradient_by_mode(found).axes
    assert left.get_xlabel().startswith("|z|")
    assert right.get_xlabel() == "step"


def test_what_it_refuses() -> None:
    sol = linear("cn", trainable(-1.0, -2.0))
    with pytest.raises(TypeError, match="loss must be"):
        gradient_by_mode(sol, torch.zeros(3))
    with pytest.raises(ValueError, match="loss has no graph"):
        gradient_by_mode(sol, torch.tensor(1.0))
    with pytest.raises(ValueError, match="no parameters"):
        gradient_by_mode(solve(lambda t, y: -y, START, times(0, 1), method="cn", steps=Grid(2)), loss)
    rate = trainable(-1.0)
    given = {"params": [rate], "steps": Grid(2)}
    split = as_taken("arkimex-ars122", lambda t, y: rate * y)
    assert isinstance(split, Split)
    with pytest.raises(NotImplementedError, match="Split"):
        gradient_by_mode(solve(split, START, times(0, 1), method="arkimex-ars122", **given), loss)
    broken = solve(lambda t, y: rate * y, START, times(0, 1), method="cn", breakpoints=[0.5], **given)
    with pytest.raises(NotImplementedError, match="breakpoints"):
        gradient_by_mode(broken, loss)
    with pytest.raises(NotImplementedError, match="repeated"):
        gradient_by_mode(solve(lambda t, y: rate * y, START, times(0, 1, 1), method="cn", **given), loss)
