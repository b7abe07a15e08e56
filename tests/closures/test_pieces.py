"""All modules of stiffml.closures alike: gradients, batches, transforms, solves, saving."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from small_problems import times
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import stiffml
from stiffml.closures import (
    CRNN,
    Arrhenius,
    Closure,
    Hybrid,
    Linear,
    LinearFeatures,
    LogFeatures,
    ProductionLoss,
    Reactions,
    Relaxation,
    Sinh,
    StableLinear,
    mlp,
)

TYPICAL = [1.0, 1e-2, 2.0]
SUM = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64)


def known(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    return torch.stack([-a, a - 100 * b, 100 * b + 0 * c], dim=-1)


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Any]) -> Tensor:
    a, b, c = y.unbind(-1)
    slow, fast = p["slow"] * a, p["fast"] * b
    return torch.stack([-slow, slow - fast, fast - p["off"] * c], dim=-1) + p["rest"](y)


class Tempered(nn.Module):
    """A rate constant of a temperature that is the third component."""

    def __init__(self) -> None:
        super().__init__()
        self.constants = Arrhenius([2.0, 30.0], b=[0.5, 0.0], E=[0.1, 4.0], reference=1.5)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        k = self.constants(y[..., 2])
        slow, fast = k[..., 0] * y[..., 0], k[..., 1] * y[..., 1]
        return torch.stack([-slow, slow - fast, 0.1 * fast], dim=-1)


def closure(**arguments: Any) -> Closure:
    given = {"network": [6], "typical": TYPICAL, "scale": 0.3, "seed": 3} | arguments
    return Closure(known, given.pop("network"), **given)


PIECES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: closure(head=Linear()),
    "sinh": lambda: closure(head=Sinh(0.5), conserve=SUM, components=("A", "B", "C")),
    "production-loss": lambda: closure(head=ProductionLoss(1.0), features=LogFeatures(TYPICAL, floor=1e-3)),
    "reactions": lambda: closure(head=Reactions(shift=1.0), conserve=SUM, where=[1, 2]),
    "given reactions": lambda: closure(head=Reactions([[-2, 1, 1]]), conserve=SUM),
    "relaxation": lambda: closure(head=Relaxation([1]), features=LinearFeatures(TYPICAL, of=[0, 2])),
    "time": lambda: closure(features=LinearFeatures(TYPICAL, time=2.0), where=0),
    "logarithms": lambda: closure(features=LogFeatures(TYPICAL, linear=False, time=2.0)),
    "nothing known": lambda: Closure(None, mlp([3, 5, 3], "tanh", seed=1), typical=TYPICAL),
    "crnn": lambda: CRNN(TYPICAL, 3, conserve=SUM, seed=1),
    "crnn of temperature": lambda: CRNN([1.0, 1e-2, 400.0], 3, temperature=2),
    "arrhenius": Tempered,
    "hybrid": lambda: Hybrid(
        rhs,
        {"slow": 0.5, "fast": 80.0},
        bounds={"fast": (1.0, 1e3)},
        fixed={"off": 0.1},
        networks={"rest": mlp([3, 4, 3], seed=2, gain=0.1)},
    ),
    "stable": lambda: StableLinear(TYPICAL, [1.0, 100.0, 0.5]),
    "stable and closure": lambda: StableLinear(TYPICAL, 10.0).split(closure(head=Linear())),
}


def states(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(*shape, 3, generator=generator, dtype=torch.float64)
    return (drawn + 0.2) * torch.tensor(TYPICAL, dtype=torch.float64)


@pytest.fixture(params=PIECES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return PIECES[request.param]()


def moved(model: nn.Module) -> nn.Module:
    """With parameters elsewhere: where networks and skew parts begin, some derivatives are zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def test_gradients_are_those_of_differences(model: nn.Module) -> None:
    moved(model)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert named

    def value(y: Tensor, *parameters: Tensor) -> Tensor:
        given = dict(zip(named, parameters, strict=True))
        return torch.func.functional_call(model, given, (times(0.7)[0], y))

    inputs = [states(2).requires_grad_(), *[p.detach().clone().requires_grad_() for p in named.values()]]
    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=1e-6, rtol=1e-5)
    (sizes,) = torch.autograd.grad(value(*inputs).square().sum(), inputs[:1])
    assert sizes.abs().max() > 0


def test_a_batch_is_its_rows(model: nn.Module) -> None:
    moved(model)
    y, t = states(4, 2), times(0.1, 0.4, 0.8, 0.2)
    with torch.no_grad():
        whole, one_time = model(t, y), model(t[1], y)
        assert whole.shape == one_time.shape == y.shape
        for i in range(4):
            torch.testing.assert_close(whole[i], model(t[i], y[i]), rtol=1e-12, atol=1e-14)
            for j in range(2):
                torch.testing.assert_close(one_time[i, j], model(t[1], y[i, j]), rtol=1e-12, atol=1e-14)


def test_transforms_and_traces(model: nn.Module) -> None:
    moved(model)
    y, t = states(5), times(0.1, 0.4, 0.8, 0.2, 0.0)
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(model)(t, y), model(t, y), rtol=1e-12, atol=1e-14)
        slopes = torch.func.vmap(torch.func.jacrev(model, argnums=1))(t, y)
        forward = torch.func.vmap(torch.func.jacfwd(model, argnums=1))(t, y)
        torch.testing.assert_close(slopes, forward, rtol=1e-10, atol=1e-12)
        traced = make_fx(model)(t[0], y[0])
        torch.testing.assert_close(traced(t[2], y[2]), model(t[2], y[2]), rtol=1e-12, atol=1e-14)


def test_solves_with_the_defaults(model: nn.Module) -> None:
    moved(model)
    t = times(0.0, 0.2, 0.5)
    y0 = states().requires_grad_()
    one = stiffml.solve(model, y0, t)
    one.y[-1].sum().backward()
    assert y0.grad is not None
    assert y0.grad.isfinite().all()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    many = stiffml.solve(model, states(2), t, batch_dims=1)
    alone = stiffml.solve(model, states(2)[1], t)
    error = (many.y[:, 1] - alone.y).abs().max()
    assert error < 1e-4, "batches are solved to the same tolerance"


@pytest.mark.parametrize("name", ["sinh", "reactions", "crnn", "hybrid"])
def test_gradients_through_a_solve(name: str) -> None:
    model = moved(PIECES[name]())
    report = stiffml.check_gradients(model, states(), times(0.0, 0.1, 0.3), method="bdf3", rtol=1e-4)
    assert report.ok, str(report)


def test_what_is_saved_comes_back(model: nn.Module, request: pytest.FixtureRequest) -> None:
    moved(model)
    saved = copy.deepcopy(model.state_dict())
    other = PIECES[request.node.callspec.params["model"]]()
    with torch.no_grad():
        for tensor in [*other.parameters(), *other.buffers()]:
            if tensor.is_floating_point():
                tensor.mul_(1.5)
        other.load_state_dict(saved)
        if isinstance(model, Hybrid):  # constants that stay as they are belong to the code
            model.fixed_off.mul_(1.5)
        y = states(3)
        assert torch.equal(other(times(0.3)[0], y), model(times(0.3)[0], y))
        single = model.float()(times(0.3)[0].float(), y.float())
    assert single.dtype is torch.float32
