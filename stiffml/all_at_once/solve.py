"""Solves steps whose times are known all at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stiffml.all_at_once.evaluation import Slopes
from stiffml.all_at_once.factored import Factored
from stiffml.all_at_once.newton import ManySteps, solve
from stiffml.all_at_once.structure import Structure, structure_of
from stiffml.discretization.trajectory import Segment, Trajectory
from stiffml.methods import Method
from stiffml.settings import NewtonLimits
from stiffml.system.system import System

AT_SOLUTION = 1e-10
"""The last update, relative to the components, up to which Jacobians before it are those of the solution."""

NEAR_SOLUTION = 1e-6
"""That up to which the values of f follow from the Jacobians before it: the error is of second order."""


class Kept(NamedTuple):
    """What is known of the equations of a window besides their solution.

    Attributes
    ----------
    structure : Structure
    slopes : list of Slopes
        The values of f, and of g if there is one, at the solution.
    factored : Factored or None
        The equations as they were factorised last, if that was at the solution but for Newton's tolerance.
    """

    structure: Structure
    slopes: list[Slopes]
    factored: Factored | None


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
        Number of Newton iterations.
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

    Raises
    ------
    StepsNotConvergedError
        If Newton's iteration does not converge.
    """
    origin = last + 1 - len(guess)
    if trajectory.half is None and method.starts_with_half_step:
        trajectory.half = float(trajectory.times[:2].mean()), guess[0]
    return solve_segment(Segment(trajectory, first, last, origin, guess), method, system, limits, trusted)


def solve_segment(
    segment: Segment, method: Method, system: System, limits: NewtonLimits, trusted: bool
) -> Found:
    """Solve the steps of a segment, of one or several trajectories, whose states are the initial guess.

    So are its stages, if it has them.

    Where the method starts with half steps, the trajectories must have them, at any state.

    Raises
    ------
    StepsNotConvergedError
        If Newton's iteration does not converge.
    """
    structure = structure_of(method, segment, system.form)
    x, times = vectors_of(segment, structure)
    blocks, topology = structure.blocks, structure.topology
    given, scale = topology.given, np.empty((topology.unknowns, x.shape[1]))
    for block, at in zip(blocks, topology.positions, strict=True):
        base = np.abs(segment.states_at(block.known[:, block.pattern.base]))
        for row in block.pattern.rows:
            scale[at[row.column] - given] = base
    equations = ManySteps(structure, system, times)
    x, iterations, update = solve(equations, x, given, limits, scale, trusted)
    states, stages, halves = parts_of(structure, x, segment)
    end = int(topology.positions[-1][blocks[-1].pattern.new][-1])
    kept, slopes = None, None
    if update <= NEAR_SOLUTION:
        # Rosenbrock rows have derivatives of J besides, which the reverse sweep needs anew.
        is_there = update <= AT_SOLUTION and not topology.brackets
        kept = Kept(structure, equations.slopes_at(x), equations.last if is_there else None)
        at_end = [part.of(end) for part in kept.slopes]
        there = [value for value in at_end if value is not None]
        slopes = there if len(there) == len(at_end) else None
    return Found(
        states,
        stages,
        halves,
        iterations,
        equations.is_jacobian_right(),
        kept,
        slopes,
    )


def vectors_of(segment: Segment, structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """The vectors (count, size) of a segment as far as it has them, and the times (count,) of the states.

    A stage that it does not have is the state at the start of its step; zero for the y of Rosenbrock methods.
    """
    topology = structure.topology
    x, times = np.empty((topology.count, segment.states.shape[1])), np.zeros(topology.count)
    x[: topology.given] = segment.states_at(topology.known)
    times[: topology.given] = segment.times_at(topology.known)
    for block, at in zip(structure.blocks, topology.positions, strict=True):
        pattern = block.pattern
        base = segment.states_at(block.known[:, pattern.base])
        for row in pattern.rows:
            here, states = at[row.column], block.state_of(row.column)
            if states is not None and row.column == pattern.new:
                x[here] = segment.states_at(states)
                times[here] = segment.times_at(states)
            elif row.column in pattern.stages and segment.stages is not None:
                x[here] = segment.stages[block.which - segment.first, row.column - pattern.stages.start]
            elif row.column in pattern.stages:
                x[here] = 0.0 if row.rosenbrock else base
            else:
                x[here] = base
                times[here] = block.times.mean(dim=1).numpy()
    return x, times


def parts_of(
    structure: Structure, x: np.ndarray, segment: Segment
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The states, the stages and the half steps, as in ``Found``."""
    stages, first = structure.blocks[0].pattern.stages, segment.first
    states = segment.states[first + 1 - segment.origin :].copy()
    inner = np.zeros((segment.last - first, len(stages), x.shape[1]))
    halves = []
    for block, at in zip(structure.blocks, structure.topology.positions, strict=True):
        pattern, steps = block.pattern, block.which - first
        states[steps] = x[at[pattern.new]]
        for c in pattern.stages:
            inner[steps, c - pattern.stages.start] = x[at[c]]
        if pattern.keeps_half:
            halves.append(x[at[pattern.history]])
    return states, inner, np.concatenate(halves) if halves else None
