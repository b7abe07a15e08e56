"""torch.autograd.functional's hvp, vhp, hessian and jacobian, against central differences of gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from daes import DENSE, DIAGONAL, INCONSISTENT, SmallDAE
from methods import WITH_HESSIAN_PRODUCTS
from small_problems import times
from torch import Tensor, nn
from torch.autograd.functional import hessian, hvp, jacobian, vhp
from torch.func import functional_call

from stiffml import METHODS, Discrete, Grid, Newton, Split, odeint, solve

T = times(0, 0.3, 0.8)
TIGHT = Newton(rtol=1e-13, atol=1e-16)


class Field(nn.Module):
    """Nonlinear in states and parameters."""

    def forward(self, t: Tensor, y: Tensor, a: Tensor) -> Tensor:
        return torch.tanh(a[..., :2] * y.flip(-1)) - a[..., 2:3] ** 2 * y * (1 + y**2) + torch.sin(2 * t)


def vector(size: int) -> tuple[Tensor, Tensor]:
    """A point, states then parameters, and a direction."""
    generator = torch.Generator().manual_seed(size)
    return tuple(torch.rand(2, size, generator=generator, dtype=torch.float64) + 0.3)


def loss_of(method: str, **arguments) -> Callable[[Tensor], Tensor]:
    """Of (y0, parameters) in one vector, so that mixed derivatives count."""
    f = Field()
    settings = {"newton": TIGHT} if METHODS[method].newton else {}

    def loss(x: Tensor) -> Tensor:
        a = x[-3:]
        func: Callable = lambda t, y: f(t, y, a)  # noqa: E731
        if METHODS[method].exponential:  # second derivatives are for linear parts without parameters
            func = Split(lambda t, y: -2.0 * y, func, linear=True)
        elif METHODS[method].split and arguments.get("mass") is None:
            func = Split(func, lambda t, y: 0.3 * a[1] * torch.cos(y))
        y = odeint(func, x[:2], T, method=method, steps=Grid(2), **settings, **arguments)
        assert isinstance(y, Tensor)
        return (y[1:] ** 3 + y[1:]).sum()

    return loss


def differences(loss: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, e: float = 1e-3) -> Tensor:
    """H v, by differences of gradients, of fourth order."""

    def gradient(at: Tensor) -> Tensor:
        leaf = at.detach().requires_grad_()
        return torch.autograd.grad(loss(leaf), leaf)[0]

    near = gradient(x + e * v) - gradient(x - e * v)
    far = gradient(x + 2 * e * v) - gradient(x - 2 * e * v)
    return (8 * near - far) / (12 * e)


def agree(found: Tensor, expected: Tensor, what: str, bound: float = 1e-8) -> None:
    off = float((found - expected).detach().abs().max() / expected.detach().abs().max())
    assert off <= bound, f"{what}: off by {off:.1e}; look at _Hessian in gradients/autograd.py"


@pytest.mark.parametrize("method", WITH_HESSIAN_PRODUCTS)
def test_all_functions_of_torch(method: str) -> None:
    loss, (x, v) = loss_of(method), vector(5)
    expected = differences(loss, x, v)
    agree(hvp(loss, x, v)[1], expected, f"{method}: hvp")
    agree(vhp(loss, x, v)[1], expected, f"{method}: vhp")
    agree(hessian(loss, x) @ v, expected, f"{method}: hessian")
    gradient = lambda x: jacobian(loss, x, create_graph=True)  # noqa: E731
    agree(jacobian(gradient, x) @ v, expected, f"{method}: jacobian of jacobian(create_graph=True)")


@pytest.mark.sweep
@pytest.mark.parametrize("method", METHODS)
def test_hessians_of_all_methods_are_symmetric(method: str) -> None:
    """And give the differences of gradients."""
    loss, (x, v) = loss_of(method), vector(5)
    found = hessian(loss, x)
    off = float((found - found.T).abs().max() / found.abs().max())
    assert off <= 1e-10, f"{method}: {off:.1e} from symmetric; look at second.py"
    agree(found @ v, differences(loss, x, v), f"{method}: hessian")


MODES: dict[str, dict] = {
    "solutions": {"adjoint": Discrete("solutions")},
    "two checkpoints": {"adjoint": Discrete(2)},
    "breakpoints": {"breakpoints": [0.2, 0.5]},
    "interpolate": {"outputs": "interpolate"},
    "diagonal mass": {"mass": times(1.2, 0.8)},
    "dense mass": {"mass": torch.tensor([[1.2, 0.3], [-0.2, 0.8]], dtype=torch.float64)},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-ra34pw2", "dirk-es213sal", "arkimex-3", "dopri5"])
def test_modes(method: str, mode: str) -> None:
    if "mass" in mode and not METHODS[method].mass:
        pytest.skip(f"{method} takes no mass matrix")
    loss, (x, v) = loss_of(method, **MODES[mode]), vector(5)
    agree(hvp(loss, x, v)[1], differences(loss, x, v), f"{method}, {mode}")


@pytest.mark.parametrize("method", ["cn", "bdf2", "rosw-ra34pw2", "arkimex-3"])
def test_batches_in_single_precision(method: str) -> None:
    f, (x, v) = Field(), vector(9)

    def loss(x: Tensor) -> Tensor:
        a = x[:3]
        y = odeint(
            lambda t, y: f(t, y, a), x[3:].view(3, 2), T.to(x), method=method, steps=Grid(2), batch_dims=1
        )
        return (y[1:] ** 3).sum()

    expected = hvp(loss, x, v)[1]
    agree(expected, differences(loss, x, v), f"{method}: a batch", 1e-7)
    agree(hvp(loss, x.float(), v.float())[1].double(), expected, f"{method}: float32", 1e-3)


@pytest.mark.parametrize("mass", [DIAGONAL, DENSE], ids=["diagonal", "dense"])
@pytest.mark.parametrize("method", ["cn", "bdf2", "rosw-rodas3", "dirk-es213sal"])
def test_from_values_made_consistent(method: str, mass: Tensor) -> None:
    """Of y0, the initial time and the parameters of both kinds of equations."""
    if METHODS[method].explicit_first_stage and mass.dim() > 1:
        mass = torch.diag(DIAGONAL)
    func = SmallDAE()
    count = sum(p.numel() for p in func.parameters())

    def loss(x: Tensor) -> Tensor:
        values, rest = {}, x[3:]
        for name, p in func.named_parameters():
            values[name], rest = rest[: p.numel()].view(p.shape), rest[p.numel() :]
        y = odeint(
            lambda t, y: functional_call(func, values, (t, y)),
            x[:3],
            T,
            method=method,
            steps=Grid(2),
            mass=mass,
            make_consistent=True,
            **({"newton": TIGHT} if METHODS[method].newton else {}),
        )
        return (y**3 + y).sum()

    x = torch.cat([INCONSISTENT, *(p.detach().reshape(-1) for p in func.parameters())])
    v = torch.linspace(-1, 1, 3 + count, dtype=torch.float64)
    expected = differences(loss, x, v)
    for name, product in (("hvp", hvp), ("vhp", vhp)):
        agree(product(loss, x, v)[1], expected, f"{method}: {name}; look at MakeConsistent", 1e-7)


def test_a_derivative_in_the_direction_can_be_taken_again() -> None:
    """H v is linear in v, however often that is differentiated."""
    loss, (x, v) = loss_of("cn"), vector(5)
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x, create_graph=True)
    a, b = v.clone().requires_grad_(), v.flip(0).clone().requires_grad_()
    (once,) = torch.autograd.grad(gradient @ a, x, create_graph=True)
    (twice,) = torch.autograd.grad(once @ b, a, create_graph=True)
    agree(twice, differences(loss, x, b), "H b")
    (thrice,) = torch.autograd.grad(twice @ v, b)
    agree(thrice, differences(loss, x, v), "H v once more")


@pytest.mark.parametrize("consistent", [False, True])
def test_third_derivatives_say_that_they_are_none(consistent: bool) -> None:
    loss, (x, v) = loss_of("cn"), vector(5)
    if consistent:
        func = SmallDAE()
        x, v = INCONSISTENT.clone(), torch.ones(3, dtype=torch.float64)

        def loss(x: Tensor) -> Tensor:
            y = odeint(func, x, T, method="cn", steps=Grid(2), mass=DIAGONAL, make_consistent=True)
            return (y**3).sum()

    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x, create_graph=True)
    (product,) = torch.autograd.grad(gradient @ v, x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative of a solve cannot be differentiated again"):
        torch.autograd.grad(product.sum(), x)


def test_what_has_no_second_derivatives_says_so() -> None:
    x, v = vector(2)  # so that the sum starts at about 2

    def loss(y0: Tensor) -> Tensor:
        event = lambda t, y: y.sum() - 1.5  # noqa: E731
        return solve(lambda t, y: -(y**2), y0, T, method="cn", steps=Grid(4), event=event).event.y.sum()

    with pytest.raises(RuntimeError, match="gradient of an event"):
        hvp(loss, x + 0.5, v)
