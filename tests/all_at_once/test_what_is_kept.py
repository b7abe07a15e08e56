"""What the passes of an iteration share: factors of the last Newton iteration, and index arrays."""

from __future__ import annotations

import pytest
import torch
from forms import Case
from small_problems import times
from torch import Tensor

from stiffml import Discrete, Fixed, Grid, Newton, solve
from stiffml.all_at_once import topology

OUTPUTS = times(0.1, 0.25, 0.3, 0.8)
LOOK_AT = "look at AT_SOLUTION in all_at_once/solve.py and kept_of in gradients/transposed.py"


def gradients(case: Case, method: str, **arguments) -> tuple[list[Tensor], int]:
    """The gradients of a solve, and how many Jacobians its backward pass has evaluated."""
    solution = case.solve(method, Grid(4), **arguments)
    found = case.gradients(solution)
    assert solution.stats.adjoint is not None
    return [tensor for group in found.values() for tensor in group], solution.stats.adjoint.jacobians


def close(found: list[Tensor], expected: list[Tensor], rtol: float) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol * float(other.abs().max()))


@pytest.mark.parametrize("form", ["ode", "dae"])
@pytest.mark.parametrize("method", ["cn", "bdf3", "dirk-es325sal"])
def test_the_factors_of_the_last_iteration(method: str, form: str) -> None:
    """With a guess that is the solution they are those of the solution; without room they are not kept."""
    case = Case(form, OUTPUTS)
    first = case.solve(method, Grid(4))
    expected, _ = gradients(case, method, stepping="sequential")
    found, count = gradients(case, method, guess=first)
    assert count == 0, f"{count} Jacobians; {LOOK_AT}"
    close(found, expected, 1e-8)
    again, count = gradients(case, method, guess=first, adjoint=Discrete(3))
    assert count > 0
    close(again, expected, 1e-8)


def test_not_of_an_iteration_that_ends_early() -> None:
    """With a loose tolerance the last Jacobians are not those of the states found."""
    case = Case("ode", OUTPUTS)
    found, count = gradients(case, "cn", newton=Newton(rtol=1e-3))
    assert count > 0, LOOK_AT
    expected, _ = gradients(case, "cn", newton=Newton(rtol=1e-3), stepping="sequential")
    close(found, expected, 1e-2)  # their states differ by as much as the tolerance allows


@pytest.mark.parametrize("samples", [3, 20])
def test_of_samples(samples: int) -> None:
    case = Case("ode", OUTPUTS)
    y0 = torch.linspace(0.3, 1.2, 2 * samples, dtype=torch.float64).reshape(samples, 2)
    found = []
    guess = None
    for stepping in ("sequential", "all-at-once", "all-at-once"):
        start = y0.clone().requires_grad_()
        more = {"guess": guess} if guess is not None else {}
        solution = solve(
            case.func, start, OUTPUTS, method="cn", steps=Grid(3), batch_dims=1, stepping=stepping, **more
        )
        (gradient,) = torch.autograd.grad((solution.y**2).sum(), start)
        found.append(gradient)
        guess = solution if solution.stats.at_once else None
    assert solution.stats.adjoint.jacobians == 0, LOOK_AT
    for gradient in found[1:]:
        torch.testing.assert_close(gradient, found[0], rtol=1e-8, atol=1e-10)


def test_few_index_arrays_are_kept() -> None:
    case = Case("ode", times(0, 1))
    for count in range(10, 10 + 2 * topology.KEPT):
        case.solve("cn", Fixed(1 / count))
    assert len(topology._KNOWN) <= topology.KEPT
    before = list(topology._KNOWN.values())
    case.solve("cn", Fixed(1 / count))
    assert list(topology._KNOWN.values()) == before, "made anew; look at topology_of"
