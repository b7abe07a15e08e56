"""Tolerances of the steps and of Newton's iteration: their checks and defaults."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import number, positive
from stiffml.settings import Newton, NewtonLimits, Tolerances
from stiffml.steps import Adaptive, Held, Steps
from stiffml.system.state import Layout, State

FIXED_NEWTON = 1e-10
"""Newton's rtol for steps without error control."""


def default_tolerances(dtype: torch.dtype) -> tuple[float, float]:
    """rtol and atol."""
    return (1e-4, 1e-6) if dtype == torch.float32 else (1e-6, 1e-9)


def tolerances_of(rtol: float | None, atol: float | Tensor | None, y0: State, layout: Layout) -> Tolerances:
    """Tolerances of adaptive steps, by default those of the dtype; TypeError or ValueError for others."""
    single = layout.dtype == torch.float32
    default_rtol, default_atol = default_tolerances(layout.dtype)
    rtol = default_rtol if rtol is None else number("rtol", rtol)
    atol = default_atol if atol is None else atol
    resolution = 10 * torch.finfo(layout.dtype).eps
    if not rtol >= resolution:
        advice = "raise rtol or pass y0 as float64" if single else "raise rtol"
        raise ValueError(
            f"rtol = {rtol:g} is below what {layout.dtype} resolves ({resolution:.1e}); {advice}"
        )
    return Tolerances(rtol, _by_component("atol", positive("atol", atol), y0, layout))


def newton_limits(
    newton: Newton | None, steps: Steps, tolerances: Tolerances, y0: State, layout: Layout
) -> NewtonLimits:
    """Those of Newton's iteration: what ``newton`` says, the rest tied to the tolerances of the steps."""
    newton = newton or Newton()
    eps = torch.finfo(layout.dtype).eps
    atol: float | np.ndarray | None
    if isinstance(steps, Adaptive) or (isinstance(steps, Held) and steps.adaptive):
        rtol = max(0.01 * tolerances.rtol, 4 * eps)
        atol = 0.01 * tolerances.atol
    else:
        rtol, atol = max(FIXED_NEWTON, 100 * eps), None
    if newton.atol is not None:
        atol = _by_component("Newton: atol", newton.atol, y0, layout)
    return NewtonLimits(newton.rtol or rtol, atol, newton.max_iterations)


def _by_component(name: str, value: float | Tensor, y0: State, layout: Layout) -> float | np.ndarray:
    """A number as it is; of a tensor in y0's shape the flat components, (size,)."""
    if not isinstance(value, Tensor):
        return value
    if isinstance(y0, tuple) or value.shape != y0.shape:
        wanted = "a number" if isinstance(y0, tuple) else f"a number or of y0's shape {tuple(y0.shape)}"
        raise ValueError(f"{name} must be {wanted}, not of shape {tuple(value.shape)}")
    return layout.flatten(value.detach()).double().cpu().numpy()
