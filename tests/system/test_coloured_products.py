"""Products that fill a coloured Jacobian: in one call or one by one, the entries are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fields import jacobian_of
from rings import line, ring
from scipy.sparse import csr_array
from torch import Tensor

from stiffml.linear.sparse import compression
from stiffml.linear.sparse.compression import Coloured
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.graph import Graph
from stiffml.system.space import Space
from stiffml.system.state import Layout

N = 12


class Scalar(torch.autograd.Function):
    """-y³, with a backward pass that looks at a number, which a batched call does not allow."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return -(y**3)

    @staticmethod
    def backward(ctx: Any, *w: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return w[0] * -3 * y**2 if w[0].abs().max().item() > 0 else torch.zeros_like(y)


class Broken(Scalar):
    @staticmethod
    def backward(ctx: Any, *w: Tensor) -> Tensor:
        raise ArithmeticError("of the caller")


def unbatched(t: Tensor, y: Tensor) -> Tensor:
    return 50 * (y.roll(1) - 2 * y + y.roll(-1)) + Scalar.apply(y)


def broken(t: Tensor, y: Tensor) -> Tensor:
    return Broken.apply(y)


def local(t: Tensor, y: Tensor) -> Tensor:
    """Not symmetric: fewer rows than columns share nothing."""
    return torch.cat([y[:1] * y[1:2], -y[:1] * y[1:]])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many products each batched call asked for."""
    counted: list[int] = []
    whole = Graph.transposed_products

    def count(graph: Graph, w: np.ndarray) -> np.ndarray | None:
        counted.append(len(w))
        return whole(graph, w)

    monkeypatch.setattr(Graph, "transposed_products", count)
    return counted


def values(func: Callable, y: Tensor) -> tuple[Coloured, np.ndarray]:
    """(n, n), and what evaluated it."""
    pattern = csr_array(jacobian_of(func, line(len(y)).to(y)).numpy() != 0)
    coloured = Coloured(pattern)
    dynamics = Dynamics(func, Layout.of(y, 0), 1, (), Space())
    found = coloured.values(dynamics, 0.0, y.double().numpy())
    again = coloured.values(dynamics, 0.0, y.double().numpy())
    np.testing.assert_array_equal(again, found)
    return coloured, csr_array((found, (coloured.rows, coloured.columns)), shape=pattern.shape).toarray()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("func", [ring, unbatched, local, lambda t, y: torch.ones_like(y)])
@pytest.mark.parametrize("limit", [0, 2**15], ids=["one by one", "at once"])
def test_the_entries_are_the_same(
    func: Callable, dtype: torch.dtype, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "BATCHED", limit)
    y = line(N).to(dtype)
    _, found = values(func, y)
    eps = torch.finfo(dtype).eps
    expected = jacobian_of(func, y).numpy()
    # A handful of roundings of the largest entry.
    np.testing.assert_allclose(found, expected, rtol=0, atol=8 * eps * max(1.0, np.abs(expected).max()))


def test_few_numbers_come_in_one_call(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    coloured, _ = values(ring, line(N))
    assert calls == [coloured.products] * 2
    calls.clear()
    monkeypatch.setattr(compression, "BATCHED", N * coloured.products - 1)
    values(ring, line(N))
    assert calls == [], "products of many numbers in one call leave the cache"


def test_what_cannot_be_batched_is_tried_once(calls: list[int]) -> None:
    values(unbatched, line(N))
    assert len(calls) == 1


def test_an_error_of_the_caller_is_the_callers() -> None:
    coloured = Coloured(csr_array(np.eye(N) + np.eye(N, k=1)))
    dynamics = Dynamics(broken, Layout.of(line(N), 0), 1, (), Space())
    with pytest.raises(ArithmeticError, match="of the caller"):
        coloured.values(dynamics, 0.0, line(N).numpy())
