"""Whether a tensor comes from known leaves only, which the reverse sweep asks at every evaluation of func."""

from __future__ import annotations

import pytest
import torch
from methods import EXPLICIT
from torch import Tensor, nn

from stiffml import Grid, solve
from stiffml.parameters.leaves import comes_from, origin, roots
from stiffml.system.derivatives import dynamics


class Doubled(torch.autograd.Function):
    """An operation of the caller's, with an attribute by which torch's own nodes at leaves tell the leaf."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.variable = x
        return 2 * x

    @staticmethod
    def backward(ctx, w: Tensor) -> Tensor:
        return 2 * w


def graph(leaves: list[Tensor], generator: torch.Generator) -> Tensor:
    """Leaves, put together at random."""
    values = [leaf * 1 for leaf in leaves]
    for _ in range(12):
        i, j, kind = torch.randint(len(values), (3,), generator=generator).tolist()
        made = (values[i] + values[j], values[i] * leaves[j % len(leaves)], Doubled.apply(values[i]))
        values.append(made[kind % 3])
    return torch.stack(values[len(leaves) :]).sum()


@pytest.mark.parametrize("seed", range(10))
def test_as_a_full_walk_tells(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    leaves = [torch.ones((), requires_grad=n % 4 > 0) for n in range(8)]
    value = graph(leaves, generator)
    for n in range(9):
        known = leaves[:n] + leaves[n + 1 :]
        found = roots([value], {origin(leaf) for leaf in known}).leaves
        assert comes_from(value, known) == (not found)
    assert comes_from(value, leaves)


def test_a_leaf_and_a_constant() -> None:
    leaf = torch.ones((), requires_grad=True)
    assert comes_from(leaf, [leaf])
    assert not comes_from(leaf, [])
    assert comes_from(torch.ones(()), [])


@pytest.mark.parametrize("method", EXPLICIT)
def test_one_full_walk_at_most_for_a_solve(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs more than many a small network, and every evaluation would need one."""
    walks = []
    monkeypatch.setattr(dynamics, "roots", lambda *given: walks.append(1) or roots(*given))
    func = nn.Linear(80, 80, dtype=torch.float64)
    y0, t = torch.ones(80, dtype=torch.float64, requires_grad=True), torch.linspace(0, 1, 5).double()
    solve(lambda t, y: torch.tanh(func(y)), y0, t, method=method, steps=Grid(3)).y.sum().backward()
    assert len(walks) <= 1
    assert y0.grad is not None
