"""Scalers go round, and their derivatives are those of differences."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import stiffml
from stiffml.training.data import (
    ASinh,
    Chain,
    Log,
    MinMax,
    Range,
    Run,
    Runs,
    Scaled,
    Scaler,
    Scaling,
    Standard,
)

NAN = float("nan")
DATA = torch.tensor(
    [[1.0, 2e-5, -3.0], [0.5, NAN, 4.0], [0.1, 3e-5, 0.0], [0.7, 1e-7, 2.0]], dtype=torch.float64
)
KINDS = {
    "min-max": MinMax.fit(DATA),
    "standard": Standard.fit(DATA),
    "range": Range.fit(DATA),
    "log": Log([1e-4, 1e-9, 1e-4]),
    "asinh": ASinh.fit(DATA),
    "chain": Chain.fit(DATA, ASinh, MinMax),
    "log, standard": Chain.fit(DATA, Log([1e-4, 1e-9, 1e-4]), Standard),
}
TYPICAL = np.array([1.0, 1e-5, 3.0])

each = pytest.mark.parametrize("kind", KINDS)
states = st.lists(st.floats(-2, 2), min_size=3, max_size=3)


def state(kind: str, numbers: list[float]) -> Tensor:
    """Of typical size; positive, over three decades, where logarithms are taken."""
    x = np.array(numbers)
    return torch.tensor(TYPICAL * (10 ** (x - 1) if "log" in kind else x))


@each
@settings(max_examples=50, deadline=None)
@given(numbers=states)
def test_there_and_back(kind: str, numbers: list[float]) -> None:
    scaler, x = KINDS[kind], state(kind, numbers)
    back = scaler.inverse(scaler(x))
    # Rounding: of x + offset for affine maps, and of exp and sinh, whose arguments are up to 20.
    np.testing.assert_allclose(back, x, rtol=1e-13, atol=1e-14 * TYPICAL.max() if kind == "chain" else 1e-14)
    np.testing.assert_allclose(scaler(back), scaler(x), rtol=1e-10, atol=1e-8)
    np.testing.assert_allclose(scaler.derivative(x) * scaler.inverse_derivative(scaler(x)), 1, rtol=1e-9)


@each
@settings(max_examples=50, deadline=None)
@given(numbers=states)
def test_derivatives(kind: str, numbers: list[float]) -> None:
    scaler, x = KINDS[kind], state(kind, numbers)
    h = torch.tensor(1e-5 * TYPICAL)
    h = torch.minimum(h, 1e-4 * x) if "log" in kind else h
    difference = (scaler(x + h) - scaler(x - h)) / (2 * h)
    np.testing.assert_allclose(scaler.derivative(x), difference, rtol=1e-4)
    z = scaler(x)
    difference = (scaler.inverse(z + 1e-5) - scaler.inverse(z - 1e-5)) / 2e-5
    np.testing.assert_allclose(scaler.inverse_derivative(z), difference, rtol=1e-5)
    variable = x.clone().requires_grad_()
    (exact,) = torch.autograd.grad(scaler(variable).sum(), variable)
    np.testing.assert_allclose(scaler.derivative(x), exact, rtol=1e-10)


def test_what_is_fitted() -> None:
    full = torch.nan_to_num(MinMax.fit(DATA)(DATA), nan=0.5)
    np.testing.assert_allclose(full.amin(0), 0, atol=1e-15)
    np.testing.assert_allclose(full.amax(0), 1)
    z = Standard.fit(DATA)(DATA)
    np.testing.assert_allclose(np.nanmean(z, axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(np.nanstd(z, axis=0), 1)
    np.testing.assert_allclose(Range.fit(DATA).scale, [0.9, 2.99e-5, 7])
    np.testing.assert_allclose(Log.fit(DATA).floor, [1e-6, 3e-11, 4e-6])
    np.testing.assert_allclose(ASinh.fit(DATA).scale, [1e-3, 3e-8, 4e-3])


def test_constant_and_hidden_components_keep_their_scale() -> None:
    x = torch.tensor([[2.0, NAN], [2.0, NAN]], dtype=torch.float64)
    for kind in (MinMax, Standard, Range):
        np.testing.assert_array_equal(kind.fit(x).scale, [1, 1])
    assert torch.isfinite(Log.fit(x).floor).all()


def test_the_floor_of_logarithms() -> None:
    scaler = Log(1e-3)
    x = torch.tensor([-1.0, 0.0, 1e-4, 1e-3, 1.0], dtype=torch.float64)
    np.testing.assert_allclose(scaler(x), np.log([1e-3, 1e-3, 1e-3, 1e-3, 1]))
    np.testing.assert_allclose(scaler.derivative(x), [0, 0, 0, 1e3, 1])


@each
def test_saved_with_the_model(kind: str) -> None:
    scaler = KINDS[kind]
    file = io.BytesIO()
    torch.save(nn.ModuleDict({"scaler": scaler}).state_dict(), file)
    file.seek(0)
    other = Chain.fit(2 * DATA, Log, Standard) if "," in kind else Chain.fit(2 * DATA, ASinh, MinMax)
    new: Scaler = other if kind.startswith(("chain", "log,")) else type(scaler).fit(2 * DATA.abs())  # type: ignore
    x = torch.tensor([0.3, 1e-10, 2.0], dtype=torch.float64)
    assert not torch.equal(new(x), scaler(x))
    nn.ModuleDict({"scaler": new}).load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(new(x), scaler(x))
    assert not list(scaler.parameters())


def runs() -> Runs:
    return Runs([Run("a", [0.0, 1.0, 8.0], [[1.0, 0.0], [0.5, 2e-5], [0.2, 1e-5]])], ["A", "B"])


@pytest.mark.parametrize("time", [Range, MinMax, ASinh])
@pytest.mark.parametrize("kind", [Range, MinMax, Standard, ASinh])
def test_derivatives_in_scaled_variables(kind: type[Scaler], time: type[Scaler]) -> None:
    """Along a curve y(t): dz/dτ from dy/dt is the difference of z over that of τ."""
    scaling = Scaling.fit(runs(), kind, time)

    def curve(t: Tensor) -> Tensor:
        return torch.stack([torch.exp(-t), 1e-5 * torch.sin(t)], dim=-1)

    t = torch.linspace(0.5, 7, 9, dtype=torch.float64)
    y, dydt = torch.func.jvp(curve, (t,), (torch.ones_like(t),))
    h = 1e-5
    z = [scaling.state(curve(t + s * h)) for s in (-1, 1)]
    tau = [scaling.time(t + s * h) for s in (-1, 1)]
    difference = (z[1] - z[0]) / (tau[1] - tau[0])[:, None]
    rate = scaling.rate(t, y, dydt)
    np.testing.assert_allclose(rate, difference, rtol=1e-6, atol=1e-8)
    back = scaling.inverse_rate(scaling.time(t), scaling.state(y), rate)
    np.testing.assert_allclose(back, dydt, rtol=1e-9)
    np.testing.assert_allclose(scaling.rate(t[2], y[2], dydt[2]), rate[2], rtol=1e-14)


def test_the_scales_of_kim() -> None:
    """dy/dt = y_scale/t_end · net(y/y_scale)."""
    scaling = Scaling.fit(runs())
    net = nn.Linear(2, 2).double()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(y)

    func = Scaled(Net(), scaling)
    scale = torch.tensor([0.8, 2e-5], dtype=torch.float64)
    y = torch.tensor([[0.4, 1e-5], [0.3, 2e-5]], dtype=torch.float64)
    torch.testing.assert_close(func(torch.tensor(3.0), y), scale / 8 * net(y / scale))
    assert {"scaling.state.scale", "scaling.time.scale", "net.net.weight"} <= func.state_dict().keys()
    solution = stiffml.odeint(func, y[0], torch.tensor([0.0, 8.0], dtype=torch.float64))
    solution.sum().backward()
    assert net.weight.grad is not None


def test_solutions_are_the_same_in_scaled_variables() -> None:
    """y' = f(t, y) solved, and z' = dz/dτ solved over τ and taken back."""

    class Decay(nn.Module):
        def forward(self, tau: Tensor, z: Tensor) -> Tensor:
            return -2 * z

    scaling = Scaling(MinMax([0.5, 0.0], [2.0, 1e-5]), Range(10.0))
    y0 = torch.tensor([1.5, 2e-5], dtype=torch.float64)
    t = torch.tensor([0.0, 10.0], dtype=torch.float64)
    y = stiffml.odeint(Scaled(Decay(), scaling), y0, t, rtol=1e-9, atol=1e-13)
    z = scaling.state(y0) * np.exp(-2.0)
    np.testing.assert_allclose(y[-1], scaling.state.inverse(z), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MinMax(0.0, 0.0), "MinMax: scale must be positive"),
        (lambda: Log([1.0, -1.0]), "Log: floor must be positive"),
        (lambda: Range(NAN), "Range: scale must be finite"),
        (lambda: MinMax.fit(torch.zeros(0, 2)), "data must be Runs, or values with at least one row"),
        (lambda: Chain.fit(DATA), "Chain: kinds must not be empty"),
        (lambda: Chain(Log), "Chain: scalers must be a Scaler"),
        (lambda: Scaling.fit(DATA), "runs must be Runs"),  # type: ignore[arg-type]
        (lambda: Scaling.fit(runs(), state=nn.Linear), "state must be a Scaler or a kind"),  # type: ignore
        (lambda: Scaled(lambda t, y: y, Scaling.fit(runs())), "Scaled: net must be a torch.nn.Module"),
    ],
)
def test_what_is_wrong_is_said_by_name(call, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()
