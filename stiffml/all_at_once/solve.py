"""Solves steps whose times are known all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stiffml.all_at_once.evaluation import Slopes
from stiffml.all_at_once.factored import Factored
from stiffml.all_at_once.in_c.qualifying import is_in_c
from stiffml.all_at_once.newton import ManySteps
from stiffml.all_at_once.simplified import approached
from stiffml.all_at_once.structure import Structure, structure_of
from stiffml.discretization.trajectory import Segment, Trajectory
from stiffml.methods import Method
from stiffml.settings import NewtonLimits
from stiffml.system.system import System

if TYPE_CHECKING:
    from stiffml.all_at_once.in_c.steps import StepsInC

AT_SOLUTION = 1e-10
"""The last update, relative to the components, up to which Jacobians before it are those of the solution.

Or the tolerance of Newton's iteration, where that is smaller: gradients are then as accurate as the steps.
"""

NEAR_SOLUTION = 1e-6
"""That up to which the values of f follow from the Jacobians before it: the error is of second order."""


class Kept(NamedTuple):
    """What is known of the equations of a window besides their solution.

    Attributes
    ----------
    structure : Structure
    x : ndarray
        (count, size) the vectors of the solution.
    slopes : list of Slopes
        The values of f, and of g if there is one, at the solution.
    last : Factored or None
        The equations as they were factorised last.
    is_there : bool
        Whether that was at the solution but for Newton's tolerance.
    """

    structure: Structure
    x: np.ndarray
    slopes: list[Slopes]
    last: Factored | None
    is_there: bool

    @property
    def factored(self) -> Factored | None:
        """The equations as they are factorised at the solution, if they are."""
        return self.last if self.is_there else None

    def is_of(self, structure: Structure, x: np.ndarray) -> bool:
        """Whether the equations are those of a structure, for vectors like ``x``."""
        return self.structure is structure and self.x.shape == x.shape


class Found(NamedTuple):
    """The solution of the steps of a segment.

    Attributes
    ----------
    states : ndarray
        (last − first, size) the states at the ends of the steps. In a segment of several trajectories their
        starts are among them.
    stages : ndarray
        (last − first, stages, size), zero between trajectories.
    halves : ndarray or None
        (k, size) the half steps at the starts of the k trajectories that begin in the segment; None if there
        are none.
    iterations : int
        Number of Newton iterations, with those that had older factors.
    is_jacobian_right : bool or None
        Whether the iteration has shown that; None if it could not.
    kept : Kept or None
        None if the last update was too large.
    slopes : list of ndarray, or None
        For each part f, g its values (size,) at the last state, if they are known.
    """

    states: np.ndarray
    stages: np.ndarray
    halves: np.ndarray | None
    iterations: int
    is_jacobian_right: bool | None
    kept: Kept | None
    slopes: list[np.ndarray] | None


def solve_steps(
    trajectory: Trajectory,
    first: int,
    last: int,
    method: Method,
    system: System,
    limits: NewtonLimits,
    guess: np.ndarray,
    trusted: bool,
    near: object = None,
) -> Found:
    """Solve the steps ``first`` … ``last`` − 1 of a trajectory, which must have their times.

    Parameters
    ----------
    trajectory : Trajectory
    first, last : int
    method : Method
    system : System
    limits : NewtonLimits
    guess : ndarray
        (last + 1 − origin, size): the states ``origin`` … ``last``. Those up to ``first`` are given. The
        others are the initial guess. That of a stage is the state at the start of its step; zero for the y of
        Rosenbrock methods.
    trusted : bool
        Whether the guess is near the wanted solution.
    near : object
        What the solve that the guess is from has kept, if it is ``Kept`` and of the same equations.

    Raises
    ------
    StepsNotConvergedError
        If Newton's iteration does not converge.
    """
    origin = last + 1 - len(guess)
    if trajectory.half is None and method.starts_with_half_step:
        trajectory.half = float(trajectory.times[:2].mean()), guess[0]
    segment = Segment(trajectory, first, last, origin, guess)
    return solve_segment(segment, method, system, limits, trusted, near)


def solve_segment(
    segment: Segment,
    method: Method,
    system: System,
    limits: NewtonLimits,
    trusted: bool,
    near: object = None,
) -> Found:
    """Solve the steps of a segment, of one or several trajectories, whose states are the initial guess.

    So are its stages, if it has them.

    Where the method starts with half steps, the trajectories must have them, at any state. The limits are for
    all trajectories, or have an ``atol`` (trajectories, size).

    Raises
    ------
    StepsNotConvergedError
        If Newton's iteration does not converge.
    """
    structure = structure_of(method, segment, system.form)
    topology = structure.topology
    x = topology.order.begun(segment)
    base = topology.order.base[topology.given :]
    scale = np.abs(x[base])
    if limits.atol is None:
        atol = 0.01 * limits.rtol * scale + 1e-250
    elif isinstance(limits.atol, np.ndarray) and limits.atol.ndim > 1:
        of_steps = np.searchsorted(segment.trajectory.starts, topology.order.numbers[base], side="right") - 1
        atol = limits.atol[of_steps]
    else:
        atol = limits.atol + 0 * scale
    equations, simplified = _equations(structure, system), 0
    if (
        isinstance(equations, ManySteps)
        and isinstance(near, Kept)
        and near.last is not None
        and near.is_of(structure, x)
        and _is_in_torch(system)
    ):
        x, simplified = approached(equations, x, near.x, near.last, scale)
    x, iterations, update = equations.solve(x, limits, atol, scale, trusted)
    states, stages, halves = parts_of(structure, x, segment)
    end = int(topology.order.new[-1])
    kept, slopes = None, None
    if update <= NEAR_SOLUTION:
        # Rosenbrock rows have derivatives of J besides, which the reverse sweep needs anew.
        last, is_there = equations.last, update <= min(AT_SOLUTION, limits.rtol)
        kept = Kept(structure, x, equations.slopes_at(x), None if topology.brackets else last, is_there)
        at_end = [part.of(end) for part in kept.slopes]
        there = [value for value in at_end if value is not None]
        slopes = there if len(there) == len(at_end) else None
    return Found(
        states,
        stages,
        halves,
        simplified + iterations,
        equations.is_jacobian_right(),
        kept,
        slopes,
    )


def _equations(structure: Structure, system: System) -> ManySteps | StepsInC:
    if not is_in_c(structure, system):
        return ManySteps(structure, system)
    from stiffml.all_at_once.in_c.steps import StepsInC  # imports casadi

    return StepsInC(structure, system)


def _is_in_torch(system: System) -> bool:
    """Whether Jacobians cost several values of f; in compiled code they cost two."""
    return not all(part.is_compiled for part in system.parts)


def parts_of(
    structure: Structure, x: np.ndarray, segment: Segment
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The states, the stages and the half steps, as in ``Found``."""
    order, first = structure.topology.order, segment.first
    states = segment.states[first + 1 - segment.origin :].copy()
    states[order.steps - first] = x[order.new]
    stages = np.zeros((segment.last - first, order.inner.shape[1], x.shape[1]))
    stages[order.steps - first] = x[order.inner]
    return states, stages, x[order.halves] if len(order.halves) else None
