"""Parameters that nobody named, and those that are named in vain: values against ones that were named."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from methods import CLASSES, WHOLE_OR_SPLIT, WITH_RAGGED_TIMES
from small_problems import times
from torch import Tensor, nn
from torch.func import functional_call
from unnamed_parameters import Net, T, agree, gradients, loss, start

from stiffml import METHODS, Discrete, Grid, ODEBlock, Split, check_gradients, odeint, sensitivities, solve
from stiffml.parameters.names import reached


class InAList(nn.Module):
    def __init__(self, net: Net) -> None:
        super().__init__()
        self.layers = [net.inner, net.outer]

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layers[1](torch.tanh(self.layers[0](y))) - torch.sin(t) * y


class Held:
    """A callable that is no module."""

    def __init__(self, net: Net) -> None:
        self.net = net

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(t, y)


FORMS: dict[str, Callable[[Net], Callable]] = {
    "lambda": lambda net: lambda t, y: net(t, y),
    "bound method": lambda net: net.slope,
    "list": InAList,
    "object": Held,
    "partial": lambda net: functools.partial(lambda other, t, y: other(t, y), net),
    "split": lambda net: Split(
        lambda t, y: net.outer(torch.tanh(net.inner(y))), lambda t, y: -torch.sin(t) * y
    ),
}


@pytest.mark.parametrize("method", CLASSES.values(), ids=CLASSES.keys())
@pytest.mark.parametrize("form", FORMS)
def test_what_func_uses_gets_a_gradient(form: str, method: str) -> None:
    if not METHODS[method].whole:
        method = WHOLE_OR_SPLIT
    net, y0 = Net(), start()
    inputs = [y0, *net.parameters()]
    func: Callable = net
    if form == "split":  # whose parts are other steps for additive methods
        func = FORMS[form](net)
        func.net = net
    expected = gradients(loss(func, y0, method), inputs)
    found = gradients(loss(FORMS[form](net), y0, method), inputs)
    agree(found, expected, f"{form}, {method}")


@pytest.mark.parametrize("checkpoints", ["solutions", 2])
def test_in_pieces_and_with_checkpoints(checkpoints) -> None:
    net, y0 = Net(), start()
    inputs, arguments = [y0, *net.parameters()], {"breakpoints": [0.3], "adjoint": Discrete(checkpoints)}
    expected = gradients(loss(net, y0, "bdf2", **arguments), inputs)
    agree(gradients(loss(lambda t, y: net(t, y), y0, "bdf2", **arguments), inputs), expected, "pieces")


def test_blocks_with_params() -> None:
    k = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    plain = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    block = ODEBlock(lambda t, y: -k * y - plain * y**2, T, params=[k, plain], method="cn", steps=Grid(2))
    assert [p is k for p in block.parameters()] == [True]
    assert list(block.state_dict()) == ["params.0"]
    twin = copy.deepcopy(nn.Sequential(block))[0]
    assert next(twin.parameters()) is k, "the copy's function still reads the original"

    class Right(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k, self.plain = k, nn.Parameter(plain.detach().clone())

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -self.k * y - self.plain * y**2

    y0, right = start(), Right()
    expected = gradients(ODEBlock(right, T, method="cn", steps=Grid(2))(y0).sum(), [k, right.plain])
    for layer in (block, twin):
        agree(gradients(layer(y0).sum(), [k, plain]), expected, "a block and its copy")
    with pytest.raises(ValueError, match=r"params: others stand in.*make func a module"):
        functional_call(block, {"params.0": k.detach().clone().requires_grad_()}, (y0,))
    net = Net()
    whole = ODEBlock(net, T, params=list(net.parameters()), method="cn", steps=Grid(2))
    assert len(list(whole.parameters())) == 4
    assert len(whole.state_dict()) == 4
    other = copy.deepcopy(whole)
    grads = torch.autograd.grad(other(y0).sum(), list(other.parameters()))
    agree(list(grads), gradients(whole(y0).sum(), list(whole.parameters())), "a copied module")


def test_names() -> None:
    net, k = Net(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    func = lambda t, y: net(t, y) - k * y  # noqa: E731
    found = sensitivities(func, start().detach(), T, method="cn", steps=Grid(2)).wrt
    assert set(found) == {"k", *(f"net.{name}" for name, _ in net.named_parameters())}
    y0 = start()
    y = solve(func, y0, T, method="cn", steps=Grid(2)).y
    assert isinstance(y, Tensor)
    (expected,) = torch.autograd.grad(y[2, 1], k)
    agree([found["k"][2, 1]], [expected], "sensitivities")
    report = check_gradients(func, start().detach(), T, method="cn", steps=Grid(2))
    assert report.ok, report
    assert {"y0", "t", "k", "net.inner.weight"} <= {check.name for check in report.checks}
    listed = sensitivities(InAList(net), start().detach(), T, method="cn", steps=Grid(2)).wrt
    assert "layers.0.weight" in listed


def test_what_else_a_function_reads() -> None:
    """Numbers and modules by name; of two with one name both."""

    def scaled(scale: float, t: Tensor, y: Tensor, power: float = 2.0) -> Tensor:
        return scale * y**power

    values = reached(functools.partial(scaled, 3.0)).values
    assert sorted(value for value in values.values() if isinstance(value, float)) == [2.0, 3.0]
    net = Net()
    before = reached(net).values
    assert reached(net).values == before
    net.inner.eval()
    evaluating = reached(net).values
    assert evaluating != before
    net.inner = nn.Linear(net.inner.in_features, net.inner.out_features, dtype=net.inner.weight.dtype)
    assert reached(net.train()).values not in (before, evaluating)


def test_own_leaves_of_func_are_no_parameters() -> None:
    """A Hamiltonian, whose gradient func takes itself."""
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    class Hamiltonian(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            with torch.enable_grad():
                if not y.requires_grad:
                    y = y.detach().requires_grad_()
                (g,) = torch.autograd.grad(self.net(y).sum(), y, create_graph=True)
            return torch.stack([g[..., 1], -g[..., 0]], dim=-1)

    func, y0 = Hamiltonian(), start()
    for method in ("cn", "dopri5"):
        inputs = [y0, *list(net.parameters())[:3]]
        found = gradients(loss(lambda t, y: func(t, y), y0, method), inputs)
        agree(found, gradients(loss(func, y0, method), inputs), f"Hamiltonian, {method}")


def test_what_an_event_uses() -> None:
    """And what func uses on the way to it: y' = −k y reaches c at log(y0 / c) / k."""
    k, c = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.3, 0.5))
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    solution = solve(lambda t, y: -k * y, y0, times(0, 5), event=lambda t, y: y - c, rtol=1e-10, atol=1e-12)
    assert solution.event is not None
    found = torch.autograd.grad(solution.event.t, [k, c, y0])
    expected = torch.autograd.grad(torch.log(y0 / c) / k, [k, c, y0])
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-6), "look at differentiable_event"


# Where params= is needed.


def test_views_of_what_func_uses() -> None:
    k = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match=r"params: a tensor of shape \(\).*\(2,\) that func itself uses"):
        odeint(lambda t, y: -k * y, start(), T, params=[k[0], k[1]])


@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-ra34pw2", "dopri5"])
def test_leaves_that_come_late(method: str) -> None:
    k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -y if t < 0.3 else -k * y

    with pytest.raises(ValueError, match=r"shape \(\) that requires a gradient.*params=\[tensor\]"):
        odeint(func, start(), T, method=method, steps=Grid(3)).sum().backward()
    y = odeint(func, start(), T, method=method, steps=Grid(3), params=[k])
    assert float(torch.autograd.grad(y.sum(), k)[0]) != 0


@pytest.mark.parametrize("method", WITH_RAGGED_TIMES)
@pytest.mark.parametrize("t", [T, T.expand(2, 3)], ids=["shared times", "own times"])
def test_leaves_that_come_late_in_a_solve_without_a_graph(method: str, t: Tensor) -> None:
    """Nothing at the start needs a gradient: the result would have none, and a loss with k in it be wrong."""
    k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -y * torch.where(t > 0.3, k, 1.0).unsqueeze(-1) if bool((t > 0.3).any()) else -y

    y0 = torch.ones(2, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="did not use it at the start of the solve"):
        odeint(func, y0, t, method=method, steps=Grid(2), batch_dims=1)
    with torch.no_grad():
        odeint(func, y0, t, method=method, steps=Grid(2), batch_dims=1)
    odeint(func, y0, t, method=method, steps=Grid(2), batch_dims=1, params=[k]).sum().backward()
    assert k.grad is not None


def test_where_gradients_are_switched_off_func_is_called_as_often_as_ever() -> None:
    calls = []

    def func(t: Tensor, y: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return -y

    counts = []
    for on in (False, True):
        calls.clear()
        with torch.set_grad_enabled(on):
            odeint(func, start().detach(), T, method="dopri5", steps=Grid(2))
        counts.append(len(calls))
    assert counts[1] - counts[0] <= 2, "one value at the end for its number, and one for what it was made of"
