"""The states and stages of steps whose times are known, all found at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stiffml.all_at_once.newton import Equations, solve
from stiffml.all_at_once.structure import Structure
from stiffml.discretization.trajectory import Segment, Trajectory, times_at
from stiffml.methods import Method
from stiffml.settings import NewtonLimits
from stiffml.system.system import System


class Found(NamedTuple):
    """The steps of a window.

    ``states`` (steps, size): those that the steps end on. ``stages`` (steps, stages, size). ``half``: the
    state of the half step that the run begins with, if the window has it. ``iterations``: of Newton's method.
    """

    states: np.ndarray
    stages: np.ndarray
    half: np.ndarray | None
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
    """Solve the equations of the steps ``first`` … ``last`` − 1 of a trajectory that has their times.

    Parameters
    ----------
    guess : ndarray
        (last + 1 − origin, size): the states that the first step starts from, of which the earliest has the
        number ``origin``, and where the iteration starts for the others.
    trusted : bool
        Whether the guess is near the solution that is meant.

    Raises
    ------
    NotConvergedError
    """
    origin = last + 1 - len(guess)
    if trajectory.half is None and method.starts_with_half_step:
        trajectory.half = float(trajectory.times[:2].mean()), guess[0]
    segment = Segment(trajectory, first, last, origin, guess)
    blocks = method.blocks(segment, system.form)
    structure = Structure(segment, blocks)
    x = np.empty((structure.count, guess.shape[1]))
    times = np.zeros(structure.count)
    x[: structure.given] = segment.states_at(structure.known)
    times[: structure.given] = times_at(trajectory, structure.known)
    scale = np.empty((structure.unknowns, guess.shape[1]))
    for block, at in zip(blocks, structure.positions, strict=True):
        pattern = block.pattern
        base = segment.states_at(block.known[:, pattern.base])
        for row in pattern.rows:
            here, states = at[row.column], block.state_of(row.column)
            scale[here - structure.given] = np.abs(base)
            if states is not None and row.column == pattern.new:
                x[here] = segment.states_at(states)
                times[here] = times_at(trajectory, states)
            elif row.column in pattern.stages:
                x[here] = 0.0 if row.rosenbrock else base
            else:
                x[here] = base
                times[here] = block.times.mean(dim=1).numpy()
    x, iterations = solve(Equations(structure, system, times), x, structure.given, limits, scale, trusted)
    return _found(structure, x, first, last, iterations)


def _found(structure: Structure, x: np.ndarray, first: int, last: int, iterations: int) -> Found:
    stages = structure.blocks[0].pattern.stages
    states = np.empty((last - first, x.shape[1]))
    inner = np.empty((last - first, len(stages), x.shape[1]))
    half = None
    for block, at in zip(structure.blocks, structure.positions, strict=True):
        pattern, steps = block.pattern, block.which - first
        states[steps] = x[at[pattern.new]]
        for c in pattern.stages:
            inner[steps, c - pattern.stages.start] = x[at[c]]
        if pattern.keeps_half:
            half = x[at[pattern.history]][0]
    return Found(states, inner, half, iterations)
