"""What the runs of a task have in common, in C's form."""

from __future__ import annotations

import numpy as np

from stiffml.native.compiled_run.interface import TaskStruct
from stiffml.native.compiled_run.task import Arrays, code_of, task_of
from stiffml.native.side_by_side.work import Work
from stiffml.steps import Adaptive


class Terms:
    """The function, the method, tolerances, and where steps may or must end.

    Not initial states, parameters and sizes of first steps: runs that differ in these have the same terms.

    Attributes
    ----------
    code : CompiledFunction
    samples, width : int
        Of the initial states.
    output_at : ndarray
        (samples + 1,) where the outputs of each sample begin among those of all.

    ``renews``: whether each of Newton's iterations takes a new Jacobian. ``kept``: what is kept of each step,
    see :func:`stiffml.native.compiled_run.task.task_of`.
    """

    def __init__(self, work: Work, renews: bool = False, kept: str = "stages") -> None:
        self.samples, self.width = work.u0.shape
        self.code = code_of(work.system)
        self.output_at = np.cumsum([0, *map(len, work.outputs)]).astype(np.int64)
        self._arrays = arrays = Arrays()
        newton, steps, adaptive = work.newton, work.steps, isinstance(work.steps, Adaptive)
        self._struct = struct = task_of(arrays, work.system, work.method, self.samples, adaptive, kept)
        struct.newton_rtol, struct.max_iterations = newton.rtol, newton.max_iterations
        struct.renews, struct.left = renews, work.left
        struct.output = arrays.numbers(np.concatenate(work.outputs))
        struct.output_at = arrays.kept(self.output_at)
        if newton.atol is not None:
            struct.newton_atol = arrays.numbers(np.broadcast_to(newton.atol, work.u0.shape))
        if isinstance(steps, Adaptive):
            struct.max_steps, struct.rtol = steps.max_steps, work.tolerances.rtol
            struct.safety = work.method.safety(work.tolerances.rtol)
            struct.largest_factor = work.method.largest_factor
            struct.minimum, struct.maximum = steps.minimum or 0.0, steps.maximum or np.inf
            struct.atol = arrays.numbers(np.broadcast_to(work.tolerances.atol, work.u0.shape))
            struct.end_at = arrays.kept(np.zeros(self.samples + 1, dtype=np.int64))
        else:
            struct.end = arrays.numbers(np.concatenate([*steps, np.empty(0)]))
            struct.end_at = arrays.kept(np.cumsum([0, *map(len, steps)]).astype(np.int64))

    def struct(self) -> TaskStruct:
        """A copy, for runs whose states, parameters and results it does not have yet."""
        return TaskStruct.from_buffer_copy(self._struct)
