"""Checks of the steps and the options of PETSc against the method."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from stiffml.checks import described
from stiffml.methods import METHODS, Method
from stiffml.steps import RESOLVED, Adaptive, Fixed, Grid, Held, Recorded, Steps
from stiffml.system.mass import Mass


def steps_of(steps: object, method: Method) -> Steps:
    """The steps of a solve; TypeError for what are none.

    By default adaptive. An explicit method without an error estimate takes one for each output interval, as
    is usual in torch.
    """
    if steps is None:
        steps = Adaptive() if method.adaptive or method.implicit else Grid()
    if not isinstance(steps, Adaptive | Fixed | Grid | Recorded):
        raise TypeError(
            "steps must be Adaptive(), Fixed(h), Grid(substeps), Recorded(ends) or KeptSteps(), "
            f"not {described(steps)}"
        )
    return steps


def require_possible(
    steps: Steps, method: Method, rtol: float | None, atol: float | Tensor | None, times: np.ndarray
) -> None:
    """Raise ValueError for steps that the method, the tolerances or the times do not allow."""
    if isinstance(steps, Adaptive):
        if not method.adaptive:
            able = ", ".join(name for name, other in METHODS.items() if other.adaptive)
            raise ValueError(
                f"method: {method} has no error estimate to adapt steps with; pass steps=Fixed(h) or "
                f"steps=Grid(substeps), or use one of {able}"
            )
        latest = times[np.argmax(np.abs(times))]
        shortest = RESOLVED * float(np.spacing(abs(latest)))
        if steps.maximum is not None and steps.maximum < shortest:
            raise ValueError(
                f"Adaptive: maximum = {steps.maximum:g} is lost in the rounding of t, which resolves steps "
                f"of {shortest:.1e} at t = {abs(latest):.10g}; raise it, or let t begin at 0"
            )
    elif (rtol is not None or atol is not None) and not (isinstance(steps, Held) and steps.adaptive):
        raise ValueError(
            f"rtol and atol choose adaptive steps and have no effect with {type(steps).__name__}; leave "
            "them out, or pass newton=Newton(rtol=…, atol=…) for the accuracy of the implicit stages"
        )


def require_right_estimate(steps: Steps, method: Method, mass: Mass | None) -> None:
    """Raise ValueError for adaptive steps with an error estimate that algebraic equations make wrong."""
    if mass is not None and mass.singular and isinstance(steps, Adaptive) and not method.adaptive_dae:
        able = ", ".join(name for name, other in METHODS.items() if other.adaptive_dae)
        raise ValueError(
            f"steps: mass is singular, and the error estimate of {method} is wrong about what a step leaves "
            "of algebraic equations, so that adaptive steps end up too short; pass steps=Fixed(h) or "
            f"steps=Grid(substeps), or use one of {able}"
        )


def require_options(options: object) -> None:
    """Raise TypeError unless this is a mapping from texts to what PETSc takes as values."""
    if options is None:
        return
    if not isinstance(options, Mapping):
        raise TypeError(
            'options must be a mapping of PETSc options, such as {"ts_adapt_safety": 0.8}, '
            f"not {described(options)}"
        )
    for name, value in options.items():
        if not isinstance(name, str) or not name.strip("-"):
            raise TypeError(f"options: names must be texts such as 'ksp_type', not {described(name)}")
        if isinstance(value, np.ndarray | Tensor) or not (
            value is None or isinstance(value, str | bool | int | float | np.number | np.bool_)
        ):
            raise TypeError(f"options: {name} must be a text, a number or a bool, not {described(value)}")
