"""A checked solve: what a run needs to begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from stiffml.methods import Method
from stiffml.run.events import EventFunc
from stiffml.settings import Discrete, NewtonLimits, Tolerances
from stiffml.steps import Steps
from stiffml.system.bounds import Bounds
from stiffml.system.system import System


@dataclass(frozen=True)
class Request:
    """A solve whose arguments are checked and whose defaults are filled in.

    Attributes
    ----------
    method : Method
    system : System
        M du/ds = f + g in solver time s, which increases.
    t : Tensor
        (n,) the output times.
    on_steps : ndarray
        (n,) bool, on which output times steps end.
    ends : Tensor
        (n_ends,) all times that steps end on: those output times, and those to pass through.
    outputs : ndarray
        (n_ends,) the same in solver time.
    returned : ndarray
        (n_ends,) bool, which of them are output times.
    between : ndarray
        The other output times, in solver time.
    steps : Adaptive, Fixed, Grid or Recorded
    tolerances : Tolerances
    newton : NewtonLimits
    options : mapping
        Options of PETSc.
    adjoint : Discrete
    make_consistent : bool
    event : callable or None
    bounds : Bounds or None
    """

    method: Method
    system: System
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
    event: EventFunc | None
    bounds: Bounds | None
