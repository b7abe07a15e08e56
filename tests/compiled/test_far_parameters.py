"""Parameters for which func is not finite, as trials of a fit have, do not forbid the code for others."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

import stiffml

D = torch.float64


class Decay(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(1.0, dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.log.exp() * y


def test_a_solve_at_which_nothing_is_finite_does_not_forbid_the_code() -> None:
    func, y0, t = Decay(), torch.tensor([1.0, 2.0], dtype=D), torch.tensor([0.0, 0.1], dtype=D)

    def solve(log: float) -> stiffml.Solution:
        with torch.no_grad():
            func.log.fill_(log)
            return stiffml.solve(func, y0, t, method="bdf", compile=True, throw=False)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = solve(1.0)
        lost = solve(1e3)
        again = solve(1.0)
    assert lost.status is stiffml.Status.NON_FINITE
    assert again.stats.in_c == before.stats.in_c > 0, "look at compiled in system/derivatives/compilation.py"
    assert torch.equal(again.y, before.y)


def test_nor_does_a_first_solve_at_which_nothing_is_finite() -> None:
    func, y0, t = Decay(), torch.tensor([1.0, 2.0], dtype=D), torch.tensor([0.0, 0.1], dtype=D)
    with torch.no_grad():
        func.log.fill_(1e3)
        for _ in range(2):  # told once
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                lost = stiffml.solve(func, y0, t, method="bdf", compile=True, throw=False)
            assert lost.status is stiffml.Status.NON_FINITE
        assert not said
        func.log.fill_(1.0)
        assert stiffml.solve(func, y0, t, method="bdf", compile=True).stats.in_c > 0
