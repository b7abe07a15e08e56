"""What every time stepping method says of itself, and the role of its adjoint step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from stiffml.dynamics import Dynamics
from stiffml.linearization import Linearization
from stiffml.trajectory import Segment


class Pending(dict[int, np.ndarray]):
    """Cotangents of states whose step has not been reversed yet, by the number of steps to the state."""

    def add(self, state: int, cotangent: np.ndarray) -> None:
        held = self.get(state)
        self[state] = cotangent if held is None else held + cotangent


@dataclass(frozen=True)
class Nodes:
    """The points (s, u) at which the steps of a segment evaluated f: (M,) and (M, size)."""

    s: Tensor
    u: Tensor


@dataclass(frozen=True)
class AtNodes:
    """f at the nodes, (M, size), and dL/d(node time) through f, (M,)."""

    slopes: np.ndarray
    time_gradient: np.ndarray


@dataclass(frozen=True)
class Sweep:
    """What reversing a segment yields besides what it leaves in ``Pending``.

    ``cotangents`` (M, size): dL/df at every node. ``multipliers`` (steps, …, size): what the method's
    ``time_gradient`` needs to know of each step.
    """

    cotangents: np.ndarray
    multipliers: np.ndarray


class Method(ABC):
    """A one-step or multistep method: how PETSc is told of it, and the adjoint of its step.

    The adjoint works on segments of a trajectory: their nodes are differentiated in one call, then the
    segment is swept backwards with small linear algebra only.
    """

    @property
    @abstractmethod
    def order(self) -> int:
        """Convergence order."""

    @property
    @abstractmethod
    def implicit(self) -> bool:
        """Whether a step solves for its result."""

    @property
    @abstractmethod
    def adaptive(self) -> bool:
        """Whether PETSc has an error estimate for it."""

    @property
    def growth(self) -> float:
        """How many times longer than the step before an adaptive step may be."""
        return math.inf

    @property
    def starts_with_half_step(self) -> bool:
        """Whether PETSc begins with a hidden half step of backward Euler."""
        return False

    @property
    def starting_order(self) -> int:
        """The order above which scheduled steps need a starting ramp; 0 where none is needed."""
        return 0

    @abstractmethod
    def petsc_options(self) -> dict[str, object]:
        """PETSc's names for this method, without prefix."""

    @abstractmethod
    def nodes(self, segment: Segment, dynamics: Dynamics) -> Nodes:
        """Where the steps of the segment evaluated f."""

    @abstractmethod
    def sweep(self, segment: Segment, jacobian: Linearization, pending: Pending) -> Sweep:
        """Reverse the segment: take dL/du of its states from ``pending``, leave that of earlier ones."""

    @abstractmethod
    def time_gradient(
        self, segment: Segment, sweep: Sweep, at_nodes: AtNodes, boundaries: np.ndarray
    ) -> None:
        """Add dL/d(step ends) to ``boundaries`` (n_steps + 1,), which covers the whole trajectory."""
