"""A small differential-algebraic problem, matrices for it, and what its tests measure with."""

from __future__ import annotations

import torch
from small_problems import times
from torch import Tensor, nn

from stiffml import METHODS, Newton

NEWTON = Newton(rtol=1e-13, atol=1e-16)
T = times(0, 0.3, 0.5)


def newton(method: str) -> dict[str, Newton]:
    """Steps solved to rounding, where they take Newton's iteration."""
    return {"newton": NEWTON} if METHODS[method].newton else {}


def weighted(y: Tensor) -> Tensor:
    """A loss of all outputs in which nothing cancels."""
    weights = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)
    return (weights * (y + y**2 / 2)).sum()


def off(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max())


class SmallDAE(nn.Module):
    """Two differential equations and one algebraic, each with parameters, driven in time."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes = nn.Parameter(
            torch.tensor([[-0.8, 0.3, 1.0, 0.2], [0.5, -1.5, 0.4, -0.1]], dtype=torch.float64)
        )
        # z + 0.3 z³ = 0.9 a + 0.7 b + …: its derivative by z is never 0.
        self.algebraic = nn.Parameter(torch.tensor([[-0.9, -0.7, 1.0, 0.3]], dtype=torch.float64))
        self.register_buffer("drive", torch.tensor([0.3, 0.0, -0.2], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        features = torch.cat([y, y[..., 2:] ** 3], dim=-1)
        return features @ torch.cat([self.slopes, self.algebraic]).T + torch.sin(3 * t) * self.drive


INCONSISTENT = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
CONSISTENT = torch.tensor([1.0, (0.6 + 0.3 * 0.6**3 - 0.9) / 0.7, 0.6], dtype=torch.float64)
DIAGONAL = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)


def with_zero_row(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.zeros(1, 3, dtype=rows.dtype)])


def with_zero_row_and_column(block: Tensor) -> Tensor:
    return nn.functional.pad(block, (0, 1, 0, 1))


ROWS = torch.tensor([[1.0, 0.2, 0.1], [-0.1, 1.3, 0.2]], dtype=torch.float64)
"""Of a dense singular matrix. Its null space is not an axis: every component is partly algebraic."""

BATCH = 4
"""Not the number of components: a diagonal a sample would have the shape of one dense matrix."""


def spread(base: Tensor) -> Tensor:
    """One a sample, each a multiple of the same."""
    factors = torch.linspace(0.7, 1.3, BATCH, dtype=base.dtype)
    return factors.reshape(-1, *[1] * base.dim()) * base


DENSE = with_zero_row(ROWS)
MIX = torch.tensor([[1.0, 0.3, 0.5], [0.2, 1.0, -0.4], [-0.3, 0.6, 1.0]], dtype=torch.float64)
"""Regular: it makes combinations of the rows of an equation."""
REGULAR = torch.tensor([[1.0, 0.2, 0.1], [-0.1, 1.3, 0.2], [0.3, 0.0, 0.8]], dtype=torch.float64)
