"""What to change in a training, in words."""

from __future__ import annotations

from dataclasses import dataclass

from stiffml.diagnostics.advice import Advice
from stiffml.diagnostics.gradient_check import GradientReport
from stiffml.diagnostics.identifiability import Identifiability
from stiffml.methods import Method
from stiffml.steps import Adaptive, Steps

COARSE, FINE = 0.3, 1e-3
"""Errors of the steps, in those of the model, from which on the steps are too coarse, or needlessly fine."""

RATIO = 100.0
"""How much further, or less far, a model may move a component than the data do."""


@dataclass(frozen=True)
class Found:
    """What a report has found that notes depend on."""

    rms: float
    step_error: float
    rates: dict[str, float]
    gradients: GradientReport | None
    advice: Advice | None
    identifiability: Identifiability
    stopped: str
    method: Method
    steps: Steps


def notes_of(found: Found) -> list[str]:
    """What to change, in words."""
    notes = []
    if found.gradients is not None and not found.gradients.ok:
        wrong = ", ".join(check.name for check in found.gradients.checks if not check.ok)
        notes.append(
            f"Gradients by {wrong} are wrong: is func differentiable there, and the same at each call?"
        )
    if found.stopped:
        notes.append(
            f"Whole runs cannot be solved ({found.stopped}). Begin with short intervals: "
            "strategy=MultipleShooting()."
        )
    if found.step_error > COARSE * found.rms:
        how = (
            "a smaller rtol"
            if isinstance(found.steps, Adaptive)
            else "more steps, such as Grid(4), or Adaptive()"
        )
        notes.append(
            f"The error of the steps, {found.step_error:.2g}, is not small beside that of the model, "
            f"{found.rms:.2g}: the fit learns the steps' error. Take {how}."
        )
    if isinstance(found.steps, Adaptive) and found.step_error < FINE * found.rms:
        notes.append(
            f"The error of the steps, {found.step_error:.1g}, is far below that of the model, "
            f"{found.rms:.2g}; a larger rtol would do until the model is better."
        )
    large = [name for name, ratio in found.rates.items() if ratio > RATIO]
    small = [name for name, ratio in found.rates.items() if ratio < 1 / RATIO]
    if large:
        notes.append(
            f"The model moves {', '.join(large)} far more than the data change, "
            f"{max(found.rates[name] for name in large):.1g} times: scale the output of the network down."
        )
    if small:
        notes.append(
            f"The model moves {', '.join(small)} far less than the data change, "
            f"{min(found.rates[name] for name in small):.1g} times: scale the output of the network up, each "
            "component by its own size."
        )
    notes += found.identifiability.notes()
    if found.advice is not None:
        if found.advice.verdict == "stiff" and not found.method.implicit:
            notes.append(f"The model is stiff and {found.method} explicit: take {found.advice.methods[0]}.")
        if found.advice.verdict == "not stiff" and found.method.implicit and not found.advice.dae:
            notes.append(
                "As it stands the model is not stiff, and dopri5 with adaptive steps would do; stay with an "
                "implicit method if what it is to learn is stiff."
            )
    return notes
