"""Solves steps whose times are known all at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stiffml.all_at_once.newton import ManySteps, solve
from stiffml.all_at_once.structure import Structure
from stiffml.discretization.trajectory import Segment, Trajectory
from stiffml.methods import Method
from stiffml.settings import NewtonLimits
from stiffml.system.system import System


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
    """

    states: np.ndarray
    stages: np.ndarray
    halves: np.ndarray | None
    iterations: int


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

    Where the method starts with half steps, the trajectories must have them, at any state.

    Raises
    ------
    StepsNotConvergedError
        If Newton's iteration does not converge.
    """
    guess, blocks = segment.states, method.blocks(segment, system.form)
    structure = Structure(segment, blocks)
    x = np.empty((structure.count, guess.shape[1]))
    times = np.zeros(structure.count)
    x[: structure.given] = segment.states_at(structure.known)
    times[: structure.given] = segment.times_at(structure.known)
    scale = np.empty((structure.unknowns, guess.shape[1]))
    for block, at in zip(blocks, structure.positions, strict=True):
        pattern = block.pattern
        base = segment.states_at(block.known[:, pattern.base])
        for row in pattern.rows:
            here, states = at[row.column], block.state_of(row.column)
            scale[here - structure.given] = np.abs(base)
            if states is not None and row.column == pattern.new:
                x[here] = segment.states_at(states)
                times[here] = segment.times_at(states)
            elif row.column in pattern.stages:
                x[here] = 0.0 if row.rosenbrock else base
            else:
                x[here] = base
                times[here] = block.times.mean(dim=1).numpy()
    x, iterations = solve(ManySteps(structure, system, times), x, structure.given, limits, scale, trusted)
    return _found(structure, x, segment, iterations)


def _found(structure: Structure, x: np.ndarray, segment: Segment, iterations: int) -> Found:
    stages, first = structure.blocks[0].pattern.stages, segment.first
    states = segment.states[first + 1 - segment.origin :].copy()
    inner = np.zeros((segment.last - first, len(stages), x.shape[1]))
    halves = []
    for block, at in zip(structure.blocks, structure.positions, strict=True):
        pattern, steps = block.pattern, block.which - first
        states[steps] = x[at[pattern.new]]
        for c in pattern.stages:
            inner[steps, c - pattern.stages.start] = x[at[c]]
        if pattern.keeps_half:
            halves.append(x[at[pattern.history]])
    return Found(states, inner, np.concatenate(halves) if halves else None, iterations)
