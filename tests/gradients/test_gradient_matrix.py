"""Every method in every form and mode: gradients against differences, checkpoints against one another."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from forms import Case, forms
from gradients import compare
from small_problems import times
from torch import Tensor

from stiffml import METHODS, Adaptive, Discrete, Disk, Fixed, Grid, Solution
from stiffml.native.replay import Replay

ERROR, RATE = 1e-6, 1.9

MANY = times(0.1, 0.25, 0.3, 0.5)
ONE = times(0.1, 0.5)
CLOSE = times(0.1, 0.4, 0.4 + 1e-12, 0.7)
STEPS = {"adaptive": Adaptive(), "fixed": Fixed(0.11), "grid": Grid(2)}


def steppings(name: str, form: str) -> list[str]:
    """The kinds of steps that a method can take on this form, by the capability table."""
    method = METHODS[name]
    adapts = method.adaptive_dae if form == "dae" else method.adaptive
    return [steps for steps in STEPS if adapts or steps != "adaptive"]


def runs() -> Iterator:
    for name in METHODS:
        for form in forms(name):
            for steps in steppings(name, form):
                yield pytest.param(name, form, steps, id=f"{name}-{form}-{steps}")


def first_run(case: Case, method: str, steps: str) -> Solution:
    # Few steps suffice to show a wrong adjoint.
    tolerances = {"rtol": 1e-2, "atol": 1e-3} if steps == "adaptive" else {}
    return case.solve(method, STEPS[steps], **tolerances)


@pytest.mark.parametrize(("method", "form", "steps"), list(runs()))
def test_gradients(method: str, form: str, steps: str) -> None:
    case = Case(form, MANY)
    solution = first_run(case, method, steps)
    gradients = case.gradients(solution)
    for name, group in case.inputs.items():
        if name == "mass":
            # A zero of a singular matrix is not to be moved.
            gradients[name] = [g * (p.detach() != 0) for g, p in zip(gradients[name], group, strict=True)]
        size = 1e-4 if name == "t" else 1e-3

        def loss(case: Case = case, taken=solution.steps) -> Tensor:
            return case.loss(case.solve(method, taken))

        inputs = group
        if name == "mass":
            inputs, gradients[name] = masked(case, gradients[name][0])
        error, rate = compare(loss, inputs, gradients[name], size)
        assert error <= ERROR, f"{method}, {form}, {steps}: dL/d{name} is off by {error:.1e}; {LOOK_AT[name]}"
        assert rate >= RATE, f"{method}, {form}, {steps}: {name} has Taylor rate {rate:.2f}; {LOOK_AT[name]}"


LOOK_AT = {
    "y0": "look at the method's pattern and numbers, then at sweep.py",
    "parameters": "look at which nodes the cotangents of f belong to, in equations.py",
    "t": "look at times.py, and at how the method's numbers depend on the times",
    "mass": "look at gradients/mass.py",
}


def masked(case: Case, gradient: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The non-zero entries of the mass matrix as inputs of their own."""
    (mass,) = case.mass
    return [mass.detach()[:2]], [gradient[:2]]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("outputs", [ONE, CLOSE], ids=["one", "close"])
def test_other_outputs(name: str, outputs: Tensor) -> None:
    """A single output; and two that lie 1e-12 apart, where one may be taken for the other."""
    for form in forms(name):
        case = Case(form, outputs)
        steps = "grid" if METHODS[name].history > 1 else "fixed"
        solution = first_run(case, name, steps)
        # Two times that are close are moved together, or else they would not be close.
        moved = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)[: len(outputs)]
        along = torch.zeros((), dtype=torch.float64, requires_grad=True)
        given, case.t = case.t, case.t.detach() + along * moved
        inputs = [case.y0, *case.func.parameters(), along]

        def loss(case: Case = case, taken=solution.steps, given=given, moved=moved, along=along) -> Tensor:
            case.t = given.detach() + along * moved
            return case.loss(case.solve(name, taken))

        gradients = torch.autograd.grad(loss(), inputs)
        error, rate = compare(loss, inputs, gradients, 1e-3)
        assert error <= ERROR, f"{name}, {form}: off by {error:.1e}; look at Run.in_time and ends_of_steps"
        assert rate >= RATE, f"{name}, {form}: Taylor rate {rate:.2f}; look at Run.in_time and ends_of_steps"


def bounds(case: Case, what: str, outputs: Tensor, name: str) -> Tensor:
    """By how much gradients may differ between what is kept, relative to the largest entry."""
    if what == "mass":
        # A zero of a singular matrix is not to be moved; along it the multiplier of the algebraic equation
        # amplifies rounding by 1/step.
        return torch.where(case.mass[0] != 0, 1e-12, 1e-11)
    # Steps of order 4 and 5 that grow from one output to the next multiply rounding, whichever of them are
    # taken again: 1.1e-12 was seen, and another processor rounds otherwise.
    multiplied = what == "t" and outputs is MANY and name in ("bdf", "bdf4", "bdf5")
    return torch.tensor(3e-12 if multiplied else 1e-12)


@pytest.mark.parametrize("name", ["cn", "bdf3", "dirk-es213sal"])
def test_steps_are_taken_again_no_more_than_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backwards, where a step leads is known from the step after it, and so are all but one of the states
    that a multistep method starts from. The last step starts from a state that is kept."""
    taken = []
    step = Replay.step

    def counted(self: Replay, number: int, *arguments: Any) -> Any:
        taken.append(number)
        return step(self, number, *arguments)

    monkeypatch.setattr(Replay, "step", counted)
    case = Case("ode", times(0, 0.5))
    solution = case.solve(name, Fixed(0.05), adjoint=Discrete(1))
    case.gradients(solution)
    first = solution.stats.accepted - METHODS[name].history
    assert len(taken) == first * (first - 1) // 2, (
        f"{name}: {len(taken)} steps were taken again with one checkpoint; look at checkpoints.py"
    )


CHECKPOINTS = ("solutions", 1, 12, Disk(tempfile.gettempdir()))


@pytest.mark.parametrize("name", METHODS)
def test_checkpoints_agree(name: str) -> None:
    for form in forms(name):
        for outputs, steps in itertools.product((CLOSE, MANY), steppings(name, form)):
            if steps == "fixed":
                continue
            if outputs is MANY and METHODS[name].history == 1 and form != "dae":
                continue  # to save time: these know nothing of earlier steps
            case = Case(form, outputs)
            tolerances = {"rtol": 1e-2, "atol": 1e-3} if steps == "adaptive" else {}
            expected = case.gradients(case.solve(name, STEPS[steps], **tolerances))
            for checkpoints in CHECKPOINTS:
                adjoint = Discrete(checkpoints)
                found = case.gradients(case.solve(name, STEPS[steps], adjoint=adjoint, **tolerances))
                for what, group in expected.items():
                    for a, b in zip(group, found[what], strict=True):
                        off = float(((a - b).abs() / bounds(case, what, outputs, name)).max() / a.abs().max())
                        assert off <= 1, (
                            f"{name}, {form}, {steps}, checkpoints={checkpoints}: dL/d{what} differs by "
                            f"{off:.2g} times its bound from that with all stages kept; look at replay.py "
                            "and at the segments of checkpoints.py"
                        )
