"""The second derivatives that Rosenbrock rows need backwards: of all rows in one call of func."""

from __future__ import annotations

import pytest
import torch
from remembering import Y0, Func, T
from torch import Tensor

from stiffml import Grid, solve
from stiffml.system.derivatives import curvature


class Counted(Func):
    calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(t, y)


def backwards(method: str) -> tuple[int, tuple[Tensor, ...]]:
    """Calls of func in the backward pass, and the gradient."""
    func, y0 = Counted(), Y0.clone().requires_grad_()
    for _ in range(2):  # the second finds out no more how func is batched
        solution = solve(func, y0, T[:4], method=method, steps=Grid())
        func.calls = 0
        found = torch.autograd.grad((solution.y**2).sum(), [y0, *func.inner.parameters()])
    return func.calls, found


@pytest.mark.parametrize("method", ["rosw-ra34pw2", "rosw-rodas3", "rosw-rodaspr2"])
def test_in_one_call_or_row_by_row(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    together, found = backwards(method)
    monkeypatch.setattr(curvature, "WORTH_REPLICATING", 0)
    by_rows, wanted = backwards(method)
    stages = 6 if method == "rosw-rodaspr2" else 4
    assert by_rows - together == stages - 1, "look at Curvature"
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
