"""The ways that images are compared with give the gradients of their steps, as torch's tape has them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("torchdiffeq")

from stiffml.experiments.images import rivals

METHODS = tuple(rivals.TABLEAUX)
STEPS = 3


class Dynamics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 4, generator=generator, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ self.weight) * (1 + t)


def gradients(solve: Callable[[nn.Module, Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    func = Dynamics()
    y0 = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    y = solve(func, y0)
    (y**2).sum().backward()
    assert y0.grad is not None
    assert func.weight.grad is not None
    return y.detach(), y0.grad, func.weight.grad


def taped(method: str) -> Callable[[nn.Module, Tensor], Tensor]:
    def solve(func: nn.Module, y: Tensor) -> Tensor:
        h = torch.tensor(1 / STEPS)
        for number in range(STEPS):
            y = rivals.step(func, method, number * h, h, y)
        return y

    return solve


def require_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], rtol: float = 1e-12) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= rtol * other.norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", [rivals.checkpointed, rivals.aca])
def test_equal_steps(way: Callable[..., Tensor], method: str) -> None:
    require_same(gradients(lambda func, y0: way(func, y0, method, STEPS)), gradients(taped(method)))


def test_adaptive_steps() -> None:
    """Both approximate the gradient of the exact solution as the tolerance says."""
    found = gradients(lambda func, y0: rivals.aca(func, y0, "dopri5", None, 1e-7))
    fine = gradients(lambda func, y0: rivals.checkpointed(func, y0, "rk4", 200))
    require_same(found, fine, 1e-5)


def test_the_reversed_leapfrog() -> None:
    mine = gradients(lambda func, y0: rivals.mali(func, y0, STEPS))
    require_same(mine, gradients(lambda func, y0: rivals.alf(func, y0, STEPS)[0]))
    exact = gradients(lambda func, y0: rivals.checkpointed(func, y0, "rk4", 200))[0]
    errors = [
        float((gradients(lambda func, y0, n=n: rivals.mali(func, y0, n))[0] - exact).norm()) for n in (16, 32)
    ]
    assert 3.5 < errors[0] / errors[1] < 4.5, "it is of order 2"
