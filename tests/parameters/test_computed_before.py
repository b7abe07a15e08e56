"""Parameters that reach func through tensors made before the solve, or that torch puts in for a call."""

from __future__ import annotations

import pytest
import torch
from methods import WHOLE_OR_SPLIT
from torch import Tensor, nn
from torch.func import functional_call
from unnamed_parameters import Net, T, agree, gradients, loss, start

from stiffml import Grid, ODEBlock, Split, odeint


@pytest.mark.parametrize("also_below", [False, True], ids=["only what was made", "also what it is made from"])
def test_what_was_computed_before_the_solve(also_below: bool) -> None:
    """And more than one solve, derivative and backward pass through it, with the caller's own after them."""
    raw = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    y0 = start()

    def whole(below: Tensor, **arguments) -> Tensor:
        rate = below.exp()
        extra = below if also_below else torch.ones(2, dtype=torch.float64)
        return loss(lambda t, y: -rate * y**2 + 0.1 * extra * y.flip(-1), y0, "cn", **arguments) + rate.sum()

    class Inside(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            extra = raw if also_below else torch.ones(2, dtype=torch.float64)
            return -raw.exp() * y**2 + 0.1 * extra * y.flip(-1)

    expected = gradients(loss(Inside(), y0, "cn", params=[raw]) + raw.exp().sum(), [y0, raw])
    value = whole(raw) + 0 * whole(raw)
    agree(gradients(value, [y0, raw]), expected, "two solves")
    hessian = torch.autograd.functional.hessian(whole, raw.detach())
    named = torch.autograd.functional.hessian(
        lambda below: (
            loss(
                lambda t, y: -below.exp() * y**2 + 0.1 * (below if also_below else 1.0) * y.flip(-1),
                y0,
                "cn",
                params=[below],
            )
            + below.exp().sum()
        ),
        raw.detach(),
    )
    agree([hessian], [named], "second derivatives")


def test_the_caller_goes_on_with_a_tensor_computed_before() -> None:
    """A gradient with respect to the tensor itself, which is no leaf."""
    k = torch.tensor(0.5, dtype=torch.float64, requires_grad=True).exp()
    y = odeint(lambda t, y: -k * y, start(), T, method="cn", steps=Grid(2))
    named = odeint(lambda t, y: -k * y, start(), T, method="cn", steps=Grid(2), params=[k])
    agree(gradients(y.sum(), [k]), gradients(named.sum(), [k]), "not a leaf")
    jacobian = torch.autograd.functional.jacobian
    one = lambda k: odeint(lambda t, y: -k * y, start(), T, method="cn", steps=Grid(2))[-1]  # noqa: E731
    value = torch.tensor(1.6, dtype=torch.float64)
    with_graph = jacobian(one, value, create_graph=True).detach()
    agree([with_graph], [jacobian(one, value)], "jacobian(create_graph=True)")


class Cached(nn.Module):
    """Computes its matrix once."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor([2.0, 3.0], dtype=torch.float64))
        self.matrix: Tensor | None = None
        self.keeps = True

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        matrix = torch.diag(-(self.k**2)) if self.matrix is None else self.matrix
        if self.keeps:
            self.matrix = matrix
        return y @ matrix - y**2


@pytest.mark.parametrize("method", ["bdf", "cn", "rosw-ra34pw2", "dopri5"])
def test_matrices_computed_once(method: str) -> None:
    func, right, y0 = Cached(), Cached(), start()
    right.keeps = False
    expected = gradients(loss(right, y0, method), [y0, right.k])
    for _ in range(2):  # then the matrix is older than the solve
        agree(gradients(loss(func, y0, method), [y0, func.k]), expected, f"cached, {method}")
    other = Cached()
    agree(
        gradients(loss(lambda t, y: other(t, y), y0, method), [y0, other.k]),
        expected,
        f"in a lambda, {method}",
    )


def test_cached_parametrizations() -> None:
    class Positive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.exp()

    func = Cached()
    func.keeps = False
    nn.utils.parametrize.register_parametrization(func, "k", Positive())
    raw, y0 = func.parametrizations.k.original, start()
    expected = gradients(loss(func, y0, "cn"), [y0, raw])
    with nn.utils.parametrize.cached():
        value = loss(func, y0, "cn")
        agree(gradients(value, [y0, raw]), expected, "parametrize.cached()")


class Outer(nn.Module):
    """A model that solves with a function of its own."""

    def __init__(self, net: nn.Module, form: str) -> None:
        super().__init__()
        self.net, self.form = net, form

    def forward(self, y0: Tensor) -> Tensor:
        funcs = {
            "module": self.net,
            "lambda": lambda t, y: self.net(t, y),
            "method": self.slope,
            "split": Split(self.net, lambda t, y: 0 * y),
        }
        params = tuple(self.net.parameters()) if self.form == "lambda" else ()
        y = odeint(funcs[self.form], y0, T, method=WHOLE_OR_SPLIT, steps=Grid(2), params=params)
        assert isinstance(y, Tensor)
        return (y + y**2).sum()

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(t, y)


@pytest.mark.parametrize("scale", [1.0, 1.1], ids=["same values", "other values"])
@pytest.mark.parametrize("form", ["block", "module", "lambda", "method", "split"])
def test_functional_call(form: str, scale: float) -> None:
    net, y0 = Net(), start()
    whole: nn.Module = Outer(net, form)
    if form == "block":
        whole = ODEBlock(net, T, method=WHOLE_OR_SPLIT, steps=Grid(2))
    passed = {name: (p.detach() * scale).requires_grad_() for name, p in whole.named_parameters()}

    def value(y: Tensor) -> Tensor:
        return (y + y**2).sum() if form == "block" else y

    found = value(functional_call(whole, passed, (y0,)))
    before = {name: p for name, p in whole.named_parameters()}
    first = torch.autograd.grad(found, [y0, *passed.values()], create_graph=True)
    second = torch.autograd.grad(first[0].sum(), list(passed.values()), allow_unused=True)
    assert all(a is b for a, b in zip(before.values(), whole.parameters(), strict=True)), "not put back"
    with torch.no_grad():
        for p in whole.parameters():
            p.mul_(scale)
    inputs = [y0, *whole.parameters()]
    expected = torch.autograd.grad(value(whole(y0)), inputs, create_graph=True)
    agree([g.detach() for g in first], [g.detach() for g in expected], form)
    again = torch.autograd.grad(expected[0].sum(), inputs[1:], allow_unused=True)
    for a, b in zip(second, again, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            agree([a], [b], f"{form}, second derivatives")


def test_a_function_out_of_reach_of_functional_call_says_so() -> None:
    """What hides behind an object's slots can be neither seen nor put back."""

    class Slot:
        __slots__ = ("net",)

    slot = Slot()
    slot.net = Net()
    outer = nn.Module()
    outer.net = slot.net
    outer.forward = lambda y0: odeint(lambda t, y: slot.net(t, y), y0, T, method="cn", steps=Grid(2))
    passed = {name: p.detach().clone().requires_grad_() for name, p in outer.named_parameters()}
    y = functional_call(outer, passed, (start(),))
    with pytest.raises(RuntimeError, match=r"no longer depends on parameters.*functional_call"):
        torch.autograd.grad(y.sum(), list(passed.values()))
