"""Second derivatives and forward sensitivities, against differences and the reverse direction."""

from __future__ import annotations

import pytest
import torch
from daes import DENSE, DIAGONAL, INCONSISTENT, SmallDAE
from gradients import compare
from methods import WITH_SECOND_DERIVATIVES
from small_problems import SmallNetwork, times
from torch import Tensor, nn

from stiffml import METHODS, Discrete, Grid, Newton, Split, check_gradients, sensitivities, solve

T = times(0, 0.3, 0.35, 0.9)
TIGHT = Newton(rtol=1e-13, atol=1e-16)


class Stiff(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([2.0, 20.0, 5.0], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.rates * y**3 - y * torch.sin(t)


def problem(method: str, network: SmallNetwork) -> tuple[nn.Module, dict]:
    if METHODS[method].exponential:  # for which the linear part must be without parameters
        return Split(lambda t, y: -20.0 * y, network, linear=True), {}
    func = Split(Stiff(), network) if method.startswith("arkimex") else network
    return func, tight(method)


def tight(method: str) -> dict:
    return {"newton": TIGHT} if METHODS[method].newton else {}


@pytest.mark.parametrize("method", WITH_SECOND_DERIVATIVES)
@pytest.mark.parametrize("checkpoints", ["stages", 3])
def test_hessian_vector_product(method: str, checkpoints, network: SmallNetwork, start: Tensor) -> None:
    func, arguments = problem(method, network)
    y0 = start.requires_grad_()
    inputs = [y0, *func.parameters()]

    def loss() -> Tensor:
        y = solve(func, y0, T, method=method, steps=Grid(3), adjoint=Discrete(checkpoints), **arguments).y
        assert isinstance(y, Tensor)
        return (y + y**3).sum()

    generator = torch.Generator().manual_seed(0)
    vector = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in inputs]
    gradients = torch.autograd.grad(loss(), inputs, create_graph=True)
    product = torch.autograd.grad(
        sum(((g * v).sum() for g, v in zip(gradients, vector, strict=True)), torch.zeros(())), inputs
    )

    def gradient(epsilon: float) -> tuple[Tensor, ...]:
        with torch.no_grad():
            for p, v in zip(inputs, vector, strict=True):
                p.add_(epsilon * v)
        found = torch.autograd.grad(loss(), inputs)
        with torch.no_grad():
            for p, v in zip(inputs, vector, strict=True):
                p.sub_(epsilon * v)
        return found

    e = 1e-4
    near = [a - b for a, b in zip(gradient(e), gradient(-e), strict=True)]
    far = [a - b for a, b in zip(gradient(2 * e), gradient(-2 * e), strict=True)]
    for found, n, f in zip(product, near, far, strict=True):
        expected = (8 * n - f) / (12 * e)
        off = float((found - expected).abs().max() / expected.abs().max())
        assert off <= 1e-8, f"{method}: off by {off:.1e}; look at second.py, and at tangent.py first"


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
@pytest.mark.parametrize("method", [name for name in WITH_SECOND_DERIVATIVES if METHODS[name].mass])
def test_second_derivatives_of_a_mass_matrix(
    method: str, kind: str, network: SmallNetwork, start: Tensor
) -> None:
    mass = torch.tensor([1.5, 0.8, 1.2], dtype=torch.float64)
    if kind == "dense":
        mass = torch.diag(mass) + 0.1 * torch.arange(9.0, dtype=torch.float64).reshape(3, 3)
    y0, mass = start.requires_grad_(), mass.requires_grad_()
    vector = torch.tensor([0.7, -0.4, 1.1], dtype=torch.float64)

    @torch.enable_grad()
    def slope(create_graph: bool) -> Tensor:
        y = solve(network, y0, T, method=method, steps=Grid(3), mass=mass, **tight(method)).y
        assert isinstance(y, Tensor)
        (gradient,) = torch.autograd.grad((y + y**3).sum(), y0, create_graph=create_graph)
        return gradient @ vector

    found = torch.autograd.grad(slope(True), mass)
    error, rate = compare(lambda: slope(False), [mass], found, 1e-3)
    assert error <= 1e-7, f"{method}, {kind}: off by {error:.1e}; look at the mass matrix in second.py"
    assert rate >= 1.9, f"{method}, {kind}: Taylor rate {rate:.2f}"


@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-rodas3"])
def test_sensitivities_begin_at_consistent_values(method: str) -> None:
    """From what is changed in y0 and in parameters of the algebraic equation, which decides on it too."""
    for mass in (DIAGONAL, DENSE):
        func, y0 = SmallDAE(), INCONSISTENT.clone().requires_grad_()
        arguments = {
            "method": method,
            "steps": Grid(2),
            "mass": mass,
            "make_consistent": True,
            **tight(method),
        }
        found = sensitivities(func, y0.detach(), T, ["y0", "slopes", "algebraic"], **arguments).wrt
        y = solve(func, y0, T, **arguments).y
        assert isinstance(y, Tensor)
        for row, component in ((0, 2), (1, 0), (3, 2)):
            inputs = [y0, func.slopes, func.algebraic]
            expected = torch.autograd.grad(y[row, component], inputs, retain_graph=True, allow_unused=True)
            for name, p, e in zip(found, inputs, expected, strict=True):
                error = found[name][row, component] - (torch.zeros_like(p) if e is None else e)
                assert float(error.abs().max()) <= 1e-10, f"{method}, {name}: look at Constraints.tangents"


@pytest.mark.parametrize("method", METHODS)
def test_sensitivities_are_the_gradients_of_every_output(
    method: str, network: SmallNetwork, start: Tensor
) -> None:
    func, arguments = problem(method, network)
    name, parameter = list(func.named_parameters())[-1]
    found = sensitivities(func, start, T, ["y0", name], method=method, steps=Grid(3), **arguments)
    y0 = start.clone().requires_grad_()
    y = solve(func, y0, T, method=method, steps=Grid(3), **arguments).y
    assert isinstance(y, Tensor)
    assert found.wrt["y0"].shape == (4, 3, 3)
    assert found.wrt[name].shape == (4, 3, *parameter.shape)
    for row in (0, 2, 3):
        expected = torch.autograd.grad(y[row, 1], [y0, parameter], retain_graph=True)
        for key, e in zip(("y0", name), expected, strict=True):
            assert torch.allclose(found.wrt[key][row, 1], e, rtol=1e-11, atol=1e-13), f"{method}: {key}"


def test_what_cannot_be_differentiated_twice_says_so(network: SmallNetwork, start: Tensor) -> None:
    with pytest.raises(ValueError, match="no parameter 'hiden'"):
        sensitivities(network, start, T, ["hiden"])
    mass = torch.ones(3, dtype=torch.float64, requires_grad=True)
    y = solve(network, start, T, method="cn", mass=mass).y
    assert isinstance(y, Tensor)
    (first,) = torch.autograd.grad(y.sum(), mass, create_graph=True)
    with pytest.raises(NotImplementedError, match="with respect to the mass matrix"):
        torch.autograd.grad(first.sum(), mass)


def test_hessian_of_a_batch_of_float32_tuples(network: SmallNetwork) -> None:
    """Through torch.autograd.functional, as users will ask for it."""

    def func(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return -(y[0] ** 2), y[0] * y[1].cos()

    def loss(a: Tensor) -> Tensor:
        y = solve(func, (a, a.flip(0)), T.flip(0), method="cn", steps=Grid(4), batch_dims=1).y
        return (y[0][-1] * y[1][-1]).sum()

    a = torch.tensor([[0.3], [0.8]], dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(loss, a).reshape(2, 2)
    assert torch.allclose(hessian, hessian.T, rtol=1e-10), "a Hessian is symmetric"
    assert check_gradients(func, (a, a.flip(0)), T.flip(0), method="cn", steps=Grid(4), batch_dims=1).ok
