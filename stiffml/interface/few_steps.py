"""A warning where steps are too few for states between them."""

from __future__ import annotations

import warnings

import numpy as np

from stiffml.run.stepping import StepSolver


def warn_of_few_steps(replay: StepSolver, times: np.ndarray, s: np.ndarray) -> bool:
    """Warn if states at times ``s`` come from a polynomial through too few ends of steps; whether it did.

    ``times`` (steps + 1,) are those of the run, in solver time as ``s``.
    """
    method, system = replay.method, replay.system
    needed, steps = method.interpolated_steps, len(times) - 1
    if steps >= needed or method.dense(system.form) is not None or np.isin(s, times).all():
        return False
    begin, end = system.direction * times[[0, -1]]
    warnings.warn(
        f"interpolation: from t = {begin:.6g} to {end:.6g} the method of order {method.order} took {steps} "
        f"steps, so states between them come from a polynomial of degree {steps} instead of {needed}. They "
        'may be far less accurate than the steps. Try: outputs="steps", or a smaller rtol',
        stacklevel=2,
    )
    return True
