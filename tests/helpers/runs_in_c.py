"""Solves whose steps are taken in C, of compiled functions and of others, and the same in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stiffml import METHODS, Solution, solve
from stiffml.compiled.refusal import NotCompilableError
from stiffml.petsc.compiled_run.library import library

COUNTS = ("accepted", "rejected", "krylov_iterations")


class Robertson(nn.Module):
    """Robertson's reactions, with their rate constants as parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b, c = self.k[0] * y[..., 0], self.k[1] * y[..., 1] ** 2, self.k[2] * y[..., 1] * y[..., 2]
        return torch.stack([c - a, a - c - b, b], dim=-1)


def require_library() -> None:
    """Skip the test where steps cannot be taken in C, as with a PETSc without headers."""
    made = library()
    if isinstance(made, NotCompilableError):
        pytest.skip(f"no steps in C: {made}")


@contextmanager
def in_python() -> Iterator[None]:
    """Steps are taken from Python within this."""
    with (
        patch("stiffml.interface.steppers.obstacle", lambda request: "told so"),
        patch("stiffml.native.compiled_run.alone.obstacle", lambda request: "told so"),
    ):
        yield


def both(call: Callable[[], Any]) -> tuple[Any, Any]:
    """What a call gives with steps in C, and in Python."""
    require_library()
    found = call()
    with in_python():
        return found, call()


def require_same(found: Solution, wanted: Solution, within: float = 1e-11, ends: float = 1e-7) -> None:
    """The same steps, states and counts; and they were taken in C.

    ``ends``: the tolerance of step ends, as fractions of the intervals between outputs. An error estimate is
    a difference of states, and its rounding moves them, all the more where the steps of BDF grow.
    """
    require_library()
    assert found.stats.given_up == ""
    assert found.stats.in_c == found.stats.accepted > 0
    assert wanted.stats.in_c == 0
    for name in COUNTS:
        assert getattr(found.stats, name) == getattr(wanted.stats, name), name
    # PETSc does not count one iteration of each half step that BDF starts with, at a breakpoint too.
    iterations = found.stats.newton_iterations - wanted.stats.newton_iterations
    assert iterations in (0, 1, 2), (iterations, "Newton's iteration of C is another than that of PETSc")
    np.testing.assert_allclose(*(np.concatenate(s.steps.ends) for s in (found, wanted)), rtol=0, atol=ends)
    largest = wanted.y.abs().max()
    assert (found.y - wanted.y).abs().max() <= within * largest


def compare(
    func: Callable,
    y0: Tensor,
    t: Tensor,
    parameters: list[Tensor],
    within: float = 1e-11,
    ends: float = 1e-7,
    at_times: float = 1e-8,
    **arguments: Any,
) -> None:
    """Compare solves in C with those in Python, of a compiled function and of one that is not: steps, values
    and gradients; those of compiled functions by times within ``at_times``."""

    def solved(compiled: bool) -> tuple[Solution, tuple[Tensor | None, ...]]:
        inputs = [y0.clone().requires_grad_(), t.clone().requires_grad_(), *parameters]
        solution = solve(func, inputs[0], inputs[1], compile=compiled, **arguments)
        weight = torch.linspace(0.3, 1.0, solution.y.numel(), dtype=torch.float64).view(solution.y.shape)
        return solution, torch.autograd.grad((solution.y * weight).sum(), inputs, allow_unused=True)

    # Of explicit methods, and of those that PETSc does not have, only compiled functions are taken in C.
    method = METHODS[arguments["method"]]
    for compiled in (True, False) if method.implicit and method.in_petsc else (True,):
        (found, gradients), (wanted, others) = both(lambda: solved(compiled))  # noqa: B023
        require_same(found, wanted, within, ends)
        if not compiled:
            assert found.stats.jacobians == wanted.stats.jacobians, "look at what C asks Python for"
            # Products with a dense mass matrix round otherwise, and the state at which a step begins may not
            # be the last one again, whose value is known.
            slack = 0 if arguments.get("mass") is None else wanted.stats.accepted
            asked, needed = found.stats.rhs_evals, wanted.stats.rhs_evals
            assert abs(asked - needed) <= slack, "look at what C asks Python for"
        _require_same_gradients(gradients, others, at_times if compiled else 1e-8)


def _require_same_gradients(
    gradients: tuple[Tensor | None, ...], others: tuple[Tensor | None, ...], at_times: float
) -> None:
    for number, (gradient, expected) in enumerate(zip(gradients, others, strict=True)):
        if expected is None:
            assert gradient is None
        else:
            off = (gradient - expected).norm() / expected.norm()
            assert off <= (at_times if number == 1 else 1e-8), ("the gradient number", number)
