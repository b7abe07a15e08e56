"""The role of code that takes all steps of a run by itself, and keeping what it has taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stiffml.discretization.interpolation import Reader
from stiffml.discretization.trajectory import Growing
from stiffml.run.record import Run
from stiffml.run.request import Request
from stiffml.run.stepping import Counts, Task
from stiffml.steps import Adaptive


@dataclass(frozen=True)
class Course:
    """The way of a run.

    Attributes
    ----------
    outputs : ndarray
        (outputs,) the start, and the times that steps must end on, in solver time.
    steps : Adaptive or (ndarray, ndarray)
        How steps are chosen; or the times (steps,) at which known steps end, and (steps,) bool which of these
        are ``outputs``.
    first : float
        The size of the first adaptive step.
    """

    outputs: np.ndarray
    steps: Adaptive | tuple[np.ndarray, np.ndarray]
    first: float = 0.0


@dataclass(frozen=True)
class Taken:
    """K steps that were taken.

    Attributes
    ----------
    ends, sizes : ndarray
        (K,) their ends and sizes.
    states : ndarray
        (K, size) the states at the ends.
    stages : ndarray or None
        (K, stages, size) the stages to keep; None if the method has none.
    output_steps : list of int
        After how many steps each of the outputs was reached; 0 for the first.
    half : tuple of float and ndarray, or None
        Time and state (size,) of the half step with which BDF starts.
    counts : Counts
    wanted : float
        The size of the step that would come next.
    out_of_time : bool
        Whether the watch of the task ended them.
    given_up : str
        Why the run has to be taken one step at a time, from its start; empty if it need not.
    kept : object or None
        See :attr:`stiffml.run.stepping.Stepper.kept`.
    """

    ends: np.ndarray
    sizes: np.ndarray
    states: np.ndarray
    stages: np.ndarray | None
    output_steps: list[int]
    half: tuple[float, np.ndarray] | None
    counts: Counts
    wanted: float
    out_of_time: bool = False
    given_up: str = ""
    kept: object = None

    @classmethod
    def none(cls, given_up: str) -> Taken:
        """Of a run that cannot be taken this way."""
        no = np.empty(0)
        return cls(no, no, no[:, None], None, [0], None, Counts(), 0.0, given_up=given_up)


Nonstop = Callable[[Task, Course], Taken]
"""Takes the steps of a task to the end of its course, or as many as ``Adaptive.max_steps``, or as the
watch of the task allows."""


def obstacle_to_any(request: Request) -> str:
    """Why no code may take the steps of a run one by one, all by itself; empty if such code may."""
    system, solver = request.system, request.solver
    if system.space.is_distributed or system.f.is_large:
        return "the state is large, or spread over processes"
    if request.events or request.bounds is not None:
        return "events and bounds are looked for between steps"
    if request.has_callback:
        return "a callback looks at every step"
    if not isinstance(request.tolerances.rtol, float):
        return "rtol differs between components"
    if request.options:
        return "it has options of PETSc"
    if request.adjoint.checkpoints not in ("stages", "solutions"):
        return "not all states are kept in memory"
    if solver is not None and not solver.uses_blocks:
        return "the Jacobian is not dense"
    return "the Jacobian is constant" if system.constant_jacobian else ""


def keep(taken: Taken, run: Run, outputs: Growing, reader: Reader | None) -> None:
    """Store the steps in a run that has none, and the returned states in ``outputs``.

    ``reader``: computes the outputs between step ends; None if there are none.
    """
    trajectory = run.trajectory
    trajectory.half, run.kept = taken.half, taken.kept
    if reader is None:
        trajectory.extend(taken.ends, taken.sizes)
    else:  # which looks at what has been passed so far
        for n, (end, size, state) in enumerate(zip(taken.ends, taken.sizes, taken.states, strict=True)):
            trajectory.append(end, size)
            reader.read(n + 1, state, None if taken.stages is None else taken.stages[n])
    run.checkpoints.extend(taken.states, taken.stages)
    trajectory.output_steps = taken.output_steps
    is_returned = run.returned[1 : len(taken.output_steps)]
    outputs.extend(taken.states[np.array(taken.output_steps[1:], dtype=int)[is_returned] - 1])
