"""Gradients of a drawn combination against differences of the very solve, with its steps held."""

from __future__ import annotations

import numpy as np
import torch
from gradients import Loss, compare
from torch import Tensor

from combinations.cases import Case
from combinations.runs import Outcome, loss

SIZE, FLOOR = 3e-4, 1e-3
"""Steps of differences, relative to the inputs; and below which part of the loss a slope counts as that part.
Rounding leaves 1e-10 of the loss, a tenth of FLOOR times the bound, or 5e-10 with a fifth of the step."""

LOOK_AT = {
    "y0": "the method's pattern and numbers, then sweep.py",
    "parameters": "what counts as a parameter, and which nodes the cotangents of f belong to (equations.py)",
    "t": "times.py, output_gradient in trajectory.py, and how the method's numbers depend on times",
    "mass": "gradients/mass.py, and in initialization.py if make_consistent is there",
    "breakpoints": "breakpoints.py",
    "event": "differentiable_event in events.py",
    "times of interpolate": "Reading.time_gradient in interpolation.py",
}


def check_gradients(case: Case, each: bool) -> list[str]:
    """Along one direction through all inputs, or one through ``each`` kind of them."""
    outcome = _other_way_in(case)
    value, inputs = loss(outcome), case.run.inputs
    gradients = torch.autograd.grad(value, list(inputs.values()), allow_unused=True)
    found, parts = [], {}
    for (name, leaf), gradient in zip(case.plain.inputs.items(), gradients, strict=True):
        if gradient is None:
            found.append(f"gradient wrt {name} is None; look at {LOOK_AT[name]}")
            continue
        free = _free(case, name, leaf)
        # Views of the leaf, which move it.
        moved = [leaf.detach().reshape(-1)[n : n + 1] for n in free]
        parts[name] = moved, [gradient.double().reshape(-1)[n : n + 1] for n in free]

    def repeated() -> Tensor:
        return loss(case.plain.solve(case.steps, repeated=True))

    with torch.no_grad():
        away = abs(float(repeated() - value)) / abs(value.item())
    if not away <= case.bounds.by_hand:
        found.append(
            f"value: with the steps taken again the loss is {away:.1e} away, more than "
            f"{case.bounds.by_hand:g}; look at Solution.steps, and at with_ramps in steps/ramps.py"
        )
    bound, together = case.bounds.gradient, 0.0
    if not each:
        moved, slopes = ([x for part in parts.values() for x in part[k]] for k in (0, 1))
        together = _error(repeated, moved, slopes, bound)
        if together <= bound:
            return found
    blamed = False
    for name, (moved, slopes) in parts.items():
        error = _error(repeated, moved, slopes, bound) if moved else 0.0
        if not error <= bound:
            blamed = True
            found.append(
                f"gradient wrt {name} is off by {error:.1e}, more than {bound:g}; look at {LOOK_AT[name]}"
            )
    if not each and not blamed:
        found.append(f"gradient wrt all together is off by {together:.1e}, each by less than {bound:g}")
    return found


def _error(repeated: Loss, moved: list[Tensor], slopes: list[Tensor], bound: float) -> float:
    """Of the slopes; shorter differences decide where the first are off, which may be their own curvature."""
    error, _ = compare(repeated, moved, slopes, SIZE, floor=FLOOR)
    if error <= bound:
        return error
    return min(error, compare(repeated, moved, slopes, SIZE / 5, floor=FLOOR)[0])


def _other_way_in(case: Case) -> Outcome:
    """The outcome to differentiate; another solve comes before its reversal, if that was drawn."""
    run, c = case.run, case.c
    outcome = case.outcome if c.entry == "solve" else run.solve(entry=c.entry)
    if c.grad == "two forwards":
        run.solve(moved=True)
    return outcome


def _free(case: Case, name: str, leaf: Tensor) -> list[int]:
    """The entries to move: no zeros of a mass matrix, and no times where there is a kink."""
    if name == "mass":
        return torch.nonzero((case.plain.mass_base != 0).reshape(-1)).reshape(-1).tolist()
    if name in ("t", "breakpoints", "times of interpolate") and _has_kink(case):
        return []
    return list(range(leaf.numel()))


def _has_kink(case: Case) -> bool:
    """Whether something is interpolated next to the end of a step, where differences see both sides."""
    run = case.plain
    read = run.clock(run.times_between) if case.c.afterwards else np.empty(0)
    if case.c.outputs == "interpolate":
        read = np.append(read, run.clock(run.t)[1:-1])
    ends = np.concatenate(case.ends)
    return bool((np.abs(read[:, None] - ends) < 5 * SIZE * run.problem.span).any())
