"""Steps taken again where rounding keeps updates of Newton's iteration from shrinking to nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from daes import off
from methods import NEWTON_KINDS
from small_problems import times
from torch import Tensor, nn

from stiffml import LU, Adaptive, Discrete, Grid, ReplayError, Solution, Split, solve

SINGLE = 100 * torch.finfo(torch.float32).eps
"""A gradient of single precision, in units of its largest entry: each of some tens of steps adds rounding."""


class Driven(nn.Module):
    """Ten coupled components of single precision that follow a drive, at a rate of which steps are long."""

    def __init__(self, rate: float, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.rate = rate
        self.weights = nn.Parameter(torch.randn(10, 10, generator=generator) / 2)
        self.start = torch.rand(10, generator=generator)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.rate * (y - torch.cos(t)) + torch.tanh(y @ self.weights.T)


def gradients(func: Driven, method: str, steps: Adaptive | Grid, checkpoints: str | int) -> list[Tensor]:
    y0 = func.start.clone().requires_grad_()
    whole = Split(func, lambda t, y: -0.3 * y) if method.startswith("arkimex") else func
    solution = solve(
        whole,
        y0,
        times(0, 0.5, 1),
        method=method,
        steps=steps,
        rtol=1e-2 if isinstance(steps, Adaptive) else None,
        linear=LU(),
        adjoint=Discrete(checkpoints),
        params=[func.weights],
    )
    return list(torch.autograd.grad(solution.y.square().sum(), [y0, func.weights]))


@pytest.mark.parametrize("checkpoints", ["solutions", 12])
@pytest.mark.parametrize("method", NEWTON_KINDS)
def test_checkpoints_of_single_precision_agree(method: str, checkpoints: str | int) -> None:
    for rate in (1.0, 1000.0):
        for steps in (Adaptive(), Grid(10)):
            func = Driven(rate)
            expected = gradients(func, method, steps, "stages")
            found = gradients(func, method, steps, checkpoints)
            for a, b in zip(found, expected, strict=True):
                assert off(a, b) <= SINGLE, (
                    f"{method}, rate {rate}, {steps}: checkpoints={checkpoints} changes the gradient by "
                    f"{off(a, b):.1e}; look at when Rounding in rounding.py ends"
                )


@pytest.mark.parametrize("method", NEWTON_KINDS)
def test_an_event_of_single_precision(method: str) -> None:
    for rate in (1.0, 30.0, 1000.0):
        func = Driven(rate)

        def find(func: Driven, start: Tensor) -> Solution:
            t = times(0, 3)
            return solve(func, start, t, method=method, steps=Grid(60), event=lambda t, y: y.mean() - 0.3)

        start = func.start.clone().requires_grad_()
        single = find(func, start)
        reference_start = func.start.double().requires_grad_()
        reference = find(copy.deepcopy(func).double(), reference_start)
        assert single.event is not None
        assert reference.event is not None
        (found,) = torch.autograd.grad(single.event.t + single.event.y.sum(), start)
        (expected,) = torch.autograd.grad(
            reference.event.t + reference.event.y.sum(), reference_start, allow_unused=True
        )
        late = abs(float(single.event.t) - float(reference.event.t))
        assert late <= 1e-5, f"{method}, rate {rate}: {late:.1e} from the event of double precision"
        # What is left of the start has decayed.
        difference = float((found - expected).abs().max())
        assert difference <= 1e-4 * max(float(expected.abs().max()), 1e-3), (
            f"{method}, rate {rate}: its gradient is off by {difference:.1e}; see rounding.py and events.py"
        )


def test_consistent_values_of_single_precision() -> None:
    def circle(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-y[0], y[0] ** 2 + y[1] ** 2 - 1])

    for k in range(1, 20):
        y0 = torch.tensor([0.05 * k, 1.0])
        y = solve(circle, y0, times(0), mass=torch.tensor([1.0, 0.0]), make_consistent=True).y[0]
        residual = float(circle(times(0), y)[1].abs())
        assert residual <= 1e-6, f"from {y0.tolist()}: residual {residual:.1e}; look at Constraints.satisfy"


@pytest.mark.parametrize("rate", [1.0, 1000.0])
@pytest.mark.parametrize("method", ["bdf2", "cn", "dirk-es324sal"])
def test_a_component_that_settles_at_zero(method: str, rate: float) -> None:
    """Rounding in the others, of order one, is all that is left of it."""
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        rest = 1 + torch.rand(4, generator=generator, dtype=torch.float64)
        towards = torch.randn(4, generator=generator, dtype=torch.float64)

        def settle(t: Tensor, y: Tensor, rest: Tensor = rest, towards: Tensor = towards) -> Tensor:
            u, w = y[..., :1], y[..., 1:]
            sums = (w * towards).sum(-1, keepdim=True) - (rest * towards).sum()
            return torch.cat([-rate * (u - sums), rest**2 - w**2], dim=-1)

        y0 = torch.cat([torch.tensor([0.5], dtype=torch.float64), rest + 0.3]).requires_grad_()
        found = {}
        for checkpoints in ("stages", "solutions", 20):
            adjoint = Discrete(checkpoints)
            solution = solve(settle, y0, times(0, 60), method=method, steps=Grid(60), adjoint=adjoint)
            try:
                (found[checkpoints],) = torch.autograd.grad(solution.y.sum(), y0)
            except ReplayError:
                pytest.fail(
                    f"{method}, seed {seed}, checkpoints={checkpoints}: look at Rounding in rounding.py"
                )
        for checkpoints, gradient in found.items():
            difference = off(gradient, found["stages"])
            assert difference <= 1e-9, f"{method}, seed {seed}, checkpoints={checkpoints}: {difference:.1e}"
