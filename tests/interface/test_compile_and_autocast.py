"""Solves in models that torch compiles, and under autocast: the numbers are those without."""

from __future__ import annotations

import pytest
import torch
from small_problems import times
from torch import Tensor, nn

import stiffml

T = times(0, 0.5, 1)


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y) - 3 * y


class Model(nn.Module):
    def __init__(self, method: str) -> None:
        super().__init__()
        self.encode = nn.Linear(2, 3)
        self.block = stiffml.ODEBlock(Field(), T, method=method)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.encode(x))[-1]


def gradients(y: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(y.square().sum(), list(model.parameters())))


@pytest.mark.parametrize("method", ["bdf", "dopri5"])
def test_a_compiled_model_solves_as_without(method: str) -> None:
    torch.manual_seed(1)
    model, x = Model(method).double(), times(0.3, -0.2)
    compiled = torch.compile(model, backend="eager")
    wanted, found = model(x), compiled(x)
    assert torch.equal(found, wanted)
    assert all(map(torch.equal, gradients(found, model), gradients(wanted, model)))
    func = torch.compile(
        lambda x: 2 * stiffml.solve(model.block.func, x, T, method=method).y, backend="eager"
    )
    assert torch.equal(
        func(x[[0, 1, 1]]), 2 * stiffml.solve(model.block.func, x[[0, 1, 1]], T, method=method).y
    )
    whole = torch.compile(lambda x: model(x) + 1, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="a solve is no part of a graph"):
        whole(x)


@pytest.mark.parametrize("method", ["bdf", "dopri5"])
def test_autocast_leaves_solves_in_the_precision_of_the_state(method: str) -> None:
    field, y0 = Field(), times(0.3, -0.2, 1.0).float().requires_grad_()
    wanted = stiffml.odeint(field, y0, T, method=method)
    of_wanted = gradients(wanted, field)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = stiffml.odeint(field, y0, T, method=method)
        of_found = gradients(found, field)
        half = stiffml.odeint(field, {"y": y0.bfloat16()}["y"], T, method=method)
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(found, wanted)
    assert all(map(torch.equal, of_found, of_wanted))
    assert half.dtype == torch.float32
    assert torch.equal(half, stiffml.odeint(field, y0.bfloat16().float(), T, method=method))
    with pytest.raises(TypeError, match=r"not torch.bfloat16. Try: y0.float\(\), and a func in float32"):
        stiffml.odeint(field, y0.bfloat16(), T)
