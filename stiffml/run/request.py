"""The checked arguments of a solve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from stiffml.methods import Method
from stiffml.run.crossings import Crossing
from stiffml.run.stepping import Plan
from stiffml.settings import Discrete, NewtonLimits, Tolerances
from stiffml.steps import Steps
from stiffml.system.bounds import Bounds
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.system import System


@dataclass(frozen=True)
class Request:
    """The arguments of a solve, checked and with all defaults filled in.

    Attributes
    ----------
    method : Method
    system : System
        M du/ds = f + g in solver time s, which increases.
    solver : LinearSolver or None
        The solver for linear systems with the Jacobian of f; None for explicit methods.
    t : Tensor
        (n,) the output times.
    on_steps : ndarray
        (n,) bool: on which output times a step must end.
    ends : Tensor
        (n_ends,) all times on which a step must end: those output times, and other times to pass through.
    outputs : ndarray
        (n_ends,) the same in solver time.
    returned : ndarray
        (n_ends,) bool: which of ``ends`` are output times.
    between : ndarray
        (n − returned.sum(),) the other output times, in solver time.
    steps : Adaptive, Fixed, Grid or Recorded
    tolerances : Tolerances
    newton : NewtonLimits
    options : mapping
        PETSc options.
    adjoint : Discrete
    make_consistent : bool
        Whether y0 is changed to satisfy the algebraic equations.
    events : mapping of int to Crossing
        The run ends at the first of these.
    bounds : Bounds or None
    plan : Plan or None
        Known steps, for steppers that solve all of them at once.
    has_callback : bool
        Whether a callback looks at every step.
    is_differentiated : bool
        Whether gradients may be asked for.
    prepared : dict
        What code that takes steps has made for such runs, by the name of its module. Solves that repeat this
        one share it.
    """

    method: Method
    system: System
    solver: LinearSolver | None
    t: Tensor
    on_steps: np.ndarray
    ends: Tensor
    outputs: np.ndarray
    returned: np.ndarray
    between: np.ndarray
    steps: Steps
    tolerances: Tolerances
    newton: NewtonLimits
    options: Mapping[str, object]
    adjoint: Discrete
    make_consistent: bool
    events: Mapping[int, Crossing]
    bounds: Bounds | None
    plan: Plan | None
    has_callback: bool = False
    is_differentiated: bool = False
    prepared: dict[str, object] = field(default_factory=dict)

    @property
    def kept(self) -> tuple[bool, float]:
        """What a run keeps that its reverse sweep would otherwise compute again, if its steps are explicit.

        Whether it keeps stages, and of how many bytes graphs of f.
        """
        if not self.is_differentiated or self.adjoint.checkpoints != "stages":
            return False, 0.0
        by_stages = self.system.f.is_reversed_by_stages
        return not by_stages, self.adjoint.graphs if by_stages and not self.t.requires_grad else 0.0
