"""Stages of Rosenbrock steps in C are kept for the reverse sweep, which then has less to do."""

from __future__ import annotations

import pytest
import torch
from small_problems import times
from torch import Tensor, nn

from stiffml import METHODS, Discrete, Grid, Solution, solve
from stiffml.methods import resolve

D = torch.float64
T = times(0.1, 0.25, 0.3, 0.8)
ROSENBROCK = [name for name in METHODS if resolve(name).time_is_state]
LOOK_AT = "look at alone.py and reverse.c in native/compiled_run/"


class Func(nn.Module):
    """Stiff, not linear, and dependent on time."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor([40.0, 1.3, 0.7], dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b, c = self.k
        x, z = y[0], y[1]
        return torch.stack([-a * (x - torch.cos(t * z)), b * x * z - c * z * z * t])


def solved(method: str, checkpoints: str, **arguments) -> tuple[Solution, list[Tensor]]:
    func, y0 = Func(), torch.tensor([1.0, 0.4], dtype=D, requires_grad=True)
    solution = solve(
        func, y0, T, method=method, compile=True, adjoint=Discrete(checkpoints=checkpoints), **arguments
    )
    assert solution.stats.in_c == solution.stats.accepted
    return solution, list(torch.autograd.grad(solution.y.square().sum(), [y0, func.k]))


@pytest.mark.parametrize("is_adaptive", [True, False])
@pytest.mark.parametrize("mass", [None, torch.tensor([2.0, 0.5], dtype=D)], ids=["ode", "mass"])
@pytest.mark.parametrize("method", ROSENBROCK)
def test_the_same_gradient_with_fewer_evaluations(
    method: str, mass: Tensor | None, is_adaptive: bool
) -> None:
    known = resolve(method)
    if mass is not None and not known.mass:
        pytest.skip("no mass matrices")
    if is_adaptive and not known.adaptive:
        pytest.skip("no error estimate")
    arguments = {"rtol": 1e-4, "atol": 1e-6} if is_adaptive else {"steps": Grid(3)}
    costs, gradients = [], []
    for checkpoints in ("stages", "solutions"):
        solution, found = solved(method, checkpoints, mass=mass, **arguments)
        assert solution.stats.adjoint is not None
        costs.append(solution.stats.adjoint.rhs_evals)
        gradients.append(found)
    for ours, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-13, msg=lambda m: f"{m}\n{LOOK_AT}")
    # PETSc takes the steps of methods with stages beyond their step.
    assert costs[0] < costs[1] or not known.within_step, LOOK_AT
