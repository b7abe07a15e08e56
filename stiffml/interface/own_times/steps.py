"""The steps of samples that have times of their own: adaptive, or known for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stiffml.interface.arguments import Arguments
from stiffml.interface.checking_steps import require_possible, steps_of
from stiffml.interface.feasibility import require_schedule
from stiffml.methods import Method
from stiffml.run.schedule import scheduled, step_ends
from stiffml.settings import Discrete
from stiffml.steps import Adaptive, Recorded, Steps
from stiffml.system.state import Layout


def steps_by_sample(
    steps: object,
    method: Method,
    arguments: Arguments,
    outputs: Sequence[np.ndarray],
    layout: Layout,
    adjoint: Discrete,
) -> tuple[Adaptive | tuple[np.ndarray, ...], int]:
    """Adaptive steps as they are; of known ones the ends for each sample, and how many a ramp has added."""
    if isinstance(steps, tuple | list):
        if len(steps) != layout.samples or not all(isinstance(one, Recorded) for one in steps):
            raise ValueError(
                f"steps: a sequence must hold Recorded steps, one for each of the {layout.samples} samples, "
                "as Solution.steps does"
            )
        by_sample: Sequence[Steps] = steps
    else:
        one_for_all = steps_of(steps, method)
        if isinstance(one_for_all, Recorded):
            raise ValueError(
                "steps: Recorded steps are those of one sample; pass a sequence with one for each sample"
            )
        by_sample = [one_for_all] * layout.samples
    ends, ramps = [], 0
    for i, (one, own) in enumerate(zip(by_sample, outputs, strict=True)):
        require_possible(one, method, arguments.rtol, arguments.atol, own)
        if isinstance(one, Adaptive):
            continue
        try:
            require_schedule(one, own, layout.width, adjoint)
            fractions, added = scheduled(one, own, method) if len(own) > 1 else ((), 0)
        except ValueError as error:
            where = list(map(int, np.unravel_index(i, layout.batch)))
            raise ValueError(f"for sample {where}: {error}") from None
        ramps += added
        ends.append(step_ends(fractions, own)[0])
    return (by_sample[0], 0) if isinstance(by_sample[0], Adaptive) else (tuple(ends), ramps)
