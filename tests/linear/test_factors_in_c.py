"""LU factors of small blocks by C against LAPACK's, alone and in solves without a C compiler."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs_in_c import in_python
from torch import Tensor

from stiffml import Grid, solve
from stiffml.compiled.factors import Factors

D = torch.float64


@settings(deadline=None)
@given(count=st.integers(1, 4), n=st.integers(1, 20), spread=st.floats(0, 6), seed=st.integers(0, 2**32 - 1))
def test_solutions_are_backward_stable(count: int, n: int, spread: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    blocks = random.standard_normal((count, n, n)) * 10 ** random.uniform(-spread, spread, (count, n, 1))
    right = random.standard_normal((count, n))
    x = right.copy().reshape(-1)
    Factors(blocks.copy()).solve(x)
    x = x.reshape(count, n)
    residual = np.abs(np.einsum("qij,qj->qi", blocks, x) - right)
    # Partial pivoting is backward stable by rows unless elements grow, which random ones do slowly.
    size = np.einsum("qij,qj->qi", np.abs(blocks), np.abs(x)) + np.abs(right)
    largest = size.max(axis=1, keepdims=True) if spread else size
    assert (residual <= 1e3 * n * np.finfo(float).eps * np.maximum(largest, size)).all()


def test_a_singular_block_spoils_itself_only() -> None:
    blocks = np.stack([np.eye(2), np.ones((2, 2)), 2 * np.eye(2)])
    x = np.ones(6)
    Factors(blocks).solve(x)
    assert x[:2].tolist() == [1, 1]
    assert np.isnan(x[2:4]).all()
    assert x[4:].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("method", ["bdf3", "cn", "rosw-ra34pw2", "dirk-es324sal", "arkimex-3"])
def test_without_a_compiler(method: str, batch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def func(t: Tensor, y: Tensor) -> Tensor:
        a, b = y.unbind(-1)
        return torch.stack([b, 20 * ((1 - a**2) * b - a) + torch.sin(t)], dim=-1)

    y0, t = torch.tensor([1.5, 0.3], dtype=D).expand(*batch, 2), torch.tensor([0.0, 0.5, 2.0], dtype=D)

    def solved() -> Tensor:
        return solve(func, y0, t, method=method, rtol=1e-3, batch_dims=len(batch)).y

    with in_python():
        found = solved()
        monkeypatch.setattr("stiffml.linear.dense.matrices.has_factors", lambda: False)
        wanted = solved()
    assert (found - wanted).abs().max() <= 1e-10


@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_a_singular_matrix_cuts_the_step(
    has: bool, batch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """y' = y has no step of backward Euler of size 1; it is cut to two halves."""
    monkeypatch.setattr("stiffml.linear.dense.matrices.has_factors", lambda: has)
    y0, t = torch.ones(*batch, 1, dtype=D), torch.tensor([0.0, 1.0], dtype=D)
    with in_python():
        arguments = {"steps": Grid(1), "stepping": "sequential", "batch_dims": len(batch)}
        found = solve(lambda t, y: y, y0, t, method="beuler", **arguments)
    assert found.y[-1].flatten().tolist() == pytest.approx([4.0] * y0.numel())
