"""Estimates of the local error as rows: PETSc's own, and what they are for."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from methods import ADAPTIVE, ADAPTIVE_SPLIT, EVERY_KIND, as_taken
from runs_in_c import in_python
from torch import Tensor

from stiffml import METHODS, Newton, Solution, Split, solve
from stiffml.discretization.equations import Form
from stiffml.discretization.estimates import scaled
from stiffml.petsc.stepper import PETScStepper
from stiffml.settings import Tolerances

D = torch.float64
BY_PETSC = [name for name in ADAPTIVE if METHODS[name].stepper == "petsc"]
TOLERANCES = Tolerances(1e-4, 1e-5)


def oscillator(t: Tensor, y: Tensor) -> Tensor:
    """Van der Pol's with a force, moderately stiff."""
    x, v = y.unbind(-1)
    return torch.stack([v, 5 * ((1 - x**2) * v - x) + torch.sin(3 * t)], dim=-1)


START = torch.tensor([1.5, 0.3], dtype=D)


def span_for(method: str) -> Tensor:
    """Some dozen steps, of methods of any order."""
    return torch.tensor([0.0, 0.2 if METHODS[method].order < 3 else 2.5], dtype=D)


class Step(NamedTuple):
    size: float
    proposal: float  # PETSc's for the next step


def followed(monkeypatch: pytest.MonkeyPatch, method: str, **arguments) -> tuple[Solution, list[Step]]:
    """An adaptive solve and its accepted steps."""
    steps: list[Step] = []
    take = PETScStepper.step

    def step(self: PETScStepper, size: float):
        begin = self.time
        status = take(self, size)
        steps.append(Step(self.time - begin, self._steps.ts.getTimeStep()))
        return status

    monkeypatch.setattr(PETScStepper, "step", step)
    tolerances = {"rtol": TOLERANCES.rtol, "atol": TOLERANCES.atol}
    with in_python():
        return solve(method=method, **tolerances, **arguments), steps


def errors_of(solution: Solution) -> np.ndarray:
    (piece,) = solution.pieces
    replay, run = piece.tape.replay, piece.tape.run
    (segment,) = run.checkpoints.segments(replay, run.trajectory.n_steps, run.trajectory.n_steps)
    return replay.errors(segment)


def require_agreement(solution: Solution, steps: list[Step], method: str) -> None:
    """PETSc's proposals tell its estimates: h · safety · norm^(−1/order), within two limits."""
    (piece,) = solution.pieces
    segment = next(piece.tape.run.checkpoints.segments(piece.tape.replay, len(steps), len(steps)))
    estimates = METHODS[method].estimates(segment, piece.tape.replay.system.form)
    orders = {n: estimate.order for estimate in estimates for n in estimate.block.which.tolist()}
    new, errors = segment.states[1:], errors_of(solution)
    # PETSc's norm has the sizes of both results of a step.
    norms = np.sqrt((scaled(errors, new, new - errors, TOLERANCES) ** 2).mean(axis=1))
    told, largest = 0, 0.99 * min(METHODS[method].growth, 10)
    for n, step in enumerate(steps):
        factor = step.proposal / step.size
        if n not in orders:
            assert math.isnan(norms[n])
            assert factor == pytest.approx(1), f"step {n} has no estimate, and PETSc has one"
        elif 0.11 < factor < largest and factor != 1:
            told += 1
            norm = (METHODS[method].safety(1e-4) / factor) ** orders[n]
            # The tolerance is 1e-4 of the state, whose rounding a tableau multiplies by up to 300.
            assert norms[n] == pytest.approx(norm, abs=1e-9), f"step {n} of {method}"
    # BDF of order 6 may grow by 5 % only, and most of its steps do.
    assert told >= 5 or method == "bdf6", f"only {told} of {len(steps)} steps compared"


def tight(method: str) -> Newton | None:
    """The slope of an explicit first stage is that of the stage before, which Newton's iteration has left."""
    return Newton(rtol=1e-13, atol=1e-13) if METHODS[method].newton else None


@pytest.mark.parametrize("method", BY_PETSC)
def test_the_rows_give_the_estimates_that_petsc_has(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    func, t = as_taken(method, oscillator), span_for(method)
    arguments = {"func": func, "y0": START, "t": t, "newton": tight(method)}
    require_agreement(*followed(monkeypatch, method, **arguments), method)


@pytest.mark.parametrize("method", [name for name in ADAPTIVE_SPLIT if name in BY_PETSC])
def test_so_of_additive_methods(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an explicit part that matters as much as the implicit one."""

    def force(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-0.3 * y[..., 1], torch.cos(2 * t) * y[..., 0]], dim=-1)

    t = span_for(method).flip(0)  # backwards
    func = Split(lambda t, y: -oscillator(t, y), force)
    arguments = {"func": func, "y0": START, "t": t, "newton": tight(method)}
    require_agreement(*followed(monkeypatch, method, **arguments), method)


WITH_MASS = [name for name in BY_PETSC if METHODS[name].mass and METHODS[name].has_estimates(Form(mass=True))]


@pytest.mark.parametrize("method", WITH_MASS)
def test_so_with_a_mass_matrix(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A singular one, where the error estimate is for it."""
    is_for_daes = METHODS[method].adaptive_dae

    def func(t: Tensor, y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack([v, -2 * x - torch.sinh(v) + torch.sin(3 * t)], dim=-1)

    algebraic = torch.tensor([0.0, 0.0], dtype=D)  # 0 = −2x − sinh v + sin 3t
    mass = torch.tensor([1.0, 0.0 if is_for_daes else 0.5], dtype=D)
    t = span_for(method)
    arguments = {"func": func, "y0": algebraic, "t": t, "mass": mass, "newton": tight(method)}
    require_agreement(*followed(monkeypatch, method, **arguments), method)


def test_which_have_no_estimate_with_a_mass_matrix() -> None:
    """Those in which the slope of the first stage enters; PETSc takes it from the step before."""
    assert all(METHODS[name].has_estimates(Form()) for name in ADAPTIVE)
    without = {name for name in ADAPTIVE if METHODS[name].mass} - {*WITH_MASS, "sdirk3"}
    first = ["es122sal", "es213sal", "es648sa", "es7510sa", "es8516sal"]
    assert without == {"arkimex-a2", *(f"dirk-{name}" for name in first)}
    assert all(METHODS[name].explicit_first_stage for name in without)


@pytest.mark.parametrize("method", [*EVERY_KIND, "beuler", "bdf"])
def test_they_adapt_native_steps(method: str) -> None:
    """The stepper that solves rows itself, with methods that PETSc steps otherwise: as accurate a result."""

    class Native(type(METHODS[method])):  # type: ignore[misc]
        stepper = "native"

    kept = dataclasses.asdict(METHODS[method])  # type: ignore[call-overload]
    t = torch.linspace(0, 2.5, 4, dtype=D)
    exact = solve(oscillator, START, t, method="dopri5", rtol=1e-10, atol=1e-10).y
    tolerances = {"rtol": TOLERANCES.rtol, "atol": TOLERANCES.atol}
    found = solve(oscillator, START, t, method=Native(**kept), **tolerances)
    usual = solve(oscillator, START, t, method=method, **tolerances)
    # Both steppers keep the error of a step below the tolerance; they propose other steps.
    assert found.stats.accepted < 2 * usual.stats.accepted + 10
    off, allowed = (float((each.y - exact).abs().max()) for each in (found, usual))
    assert off < 5 * allowed + 2e-4, f"{off:.1e} off, and {allowed:.1e} of PETSc's steps"
