"""Tolerances of the steps and of Newton's iteration: their checks and defaults."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import described, positive
from stiffml.settings import Newton, NewtonLimits, Tolerances
from stiffml.steps import Adaptive, Held, Steps
from stiffml.system.state import Layout, State

Tolerance = Any
"""A number, or numbers in a tensor, an array or a list that broadcasts to y0. For a tuple state also a tuple
of these, one for each part."""

_WARNED: set[float] = set()
"""The relative tolerances that a warning has said are not resolved."""

FIXED_NEWTON = 1e-10
"""Newton's rtol for steps without error control."""


def default_tolerances(dtype: torch.dtype) -> tuple[float, float]:
    """rtol and atol."""
    return (1e-4, 1e-6) if dtype == torch.float32 else (1e-6, 1e-9)


def tolerances_of(rtol: Tolerance | None, atol: Tolerance | None, y0: State, layout: Layout) -> Tolerances:
    """Tolerances of adaptive steps, by default those of the dtype; TypeError or ValueError for others.

    What float32 does not resolve is raised to what it does, after one warning.
    """
    default_rtol, default_atol = default_tolerances(layout.dtype)
    relative = _by_component("rtol", default_rtol if rtol is None else rtol, y0, layout)
    absolute = _by_component("atol", default_atol if atol is None else atol, y0, layout)
    return Tolerances(_resolved(relative, layout.dtype), absolute)


def _resolved(rtol: float | np.ndarray, dtype: torch.dtype) -> float | np.ndarray:
    """Relative tolerances that are at least what the dtype resolves."""
    resolution, least = 10 * torch.finfo(dtype).eps, float(np.min(rtol))
    if least >= resolution:
        return rtol
    if dtype != torch.float32:
        raise ValueError(f"rtol = {least:g} is below what {dtype} resolves ({resolution:.1e}); raise rtol")
    if least not in _WARNED:
        _WARNED.add(least)
        warnings.warn(
            f"rtol = {least:g} is below what float32 resolves, and {resolution:.1e} is used in its place; "
            "for smaller errors pass y0 as float64, or to a fit model.double()",
            stacklevel=2,
        )
    return max(rtol, resolution) if isinstance(rtol, float) else np.maximum(rtol, resolution)


def divided(tolerance: Tolerance, by: float) -> Tolerance:
    """A tolerance, made smaller."""
    if isinstance(tolerance, tuple | list):
        return tuple(divided(one, by) for one in tolerance)
    return tolerance / by


def newton_limits(
    newton: Newton | None, steps: Steps, tolerances: Tolerances, y0: State, layout: Layout
) -> NewtonLimits:
    """Those of Newton's iteration: what ``newton`` says, the rest tied to the tolerances of the steps."""
    newton = newton or Newton()
    eps = torch.finfo(layout.dtype).eps
    atol: float | np.ndarray | None
    if isinstance(steps, Adaptive) or (isinstance(steps, Held) and steps.adaptive):
        # Newton's iteration has one number for all components, and so the smallest.
        rtol = max(0.01 * float(np.min(tolerances.rtol)), 4 * eps)
        atol = 0.01 * tolerances.atol
    else:
        rtol, atol = max(FIXED_NEWTON, 100 * eps), None
    if newton.atol is not None:
        atol = _by_component("Newton: atol", newton.atol, y0, layout)
    return NewtonLimits(newton.rtol or rtol, atol, newton.max_iterations)


def _by_component(name: str, value: Tolerance, y0: State, layout: Layout) -> float | np.ndarray:
    """A number as it is; of tensors, one for each part of y0 that broadcasts to it, (size,) by component.

    Raises
    ------
    TypeError, ValueError
        For anything else, or what is not positive and finite.
    """
    parts = y0 if isinstance(y0, tuple) else (y0,)
    shapes = " and ".join(str(tuple(part.shape)) for part in parts)
    wanted = f"{name} must be a number or of y0's shape {shapes}"
    if isinstance(y0, tuple) and isinstance(value, tuple | list):
        if len(value) != len(parts):
            raise ValueError(f"{wanted}, one for each part of y0, not {len(value)} of them")
        given = [positive(f"{name}[{position}]", one) for position, one in enumerate(value)]
    else:
        one = positive(name, value)
        if not isinstance(one, Tensor):
            return one
        given = [one] * len(parts)
        if isinstance(y0, tuple):
            raise ValueError(f"{wanted}, one for each part of y0, not {described(value)}")
    rows = []
    for one, part in zip(given, parts, strict=True):
        values = torch.as_tensor(one, dtype=torch.float64).detach().cpu()
        try:
            rows.append(values.expand(part.shape))
        except RuntimeError:
            raise ValueError(f"{wanted}, not of shape {tuple(values.shape)}") from None
    found = layout.flatten(tuple(rows) if isinstance(y0, tuple) else rows[0])
    return found.numpy().copy()
