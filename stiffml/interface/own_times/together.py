"""Whether the known steps of samples with times of their own are solved for all at once, and from where."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stiffml.all_at_once.guess import interpolated
from stiffml.checks import described
from stiffml.discretization.trajectory import Trajectories
from stiffml.interface.arguments import Arguments
from stiffml.interface.planning import STEPPINGS, WIDEST, obstacle_to_plan
from stiffml.interface.solution import Solution
from stiffml.methods import Method
from stiffml.native.compiled_run.qualifying import obstacle_of
from stiffml.steps import Adaptive, Recorded
from stiffml.system.derivatives.jacobian import NARROW
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.state import Layout
from stiffml.system.system import System

FEW = 4
"""Steps of each sample that are as well taken side by side."""


def are_together(
    arguments: Arguments,
    steps: Adaptive | Sequence[np.ndarray],
    method: Method,
    system: System,
    solver: LinearSolver | None,
) -> bool:
    """Whether steps, given by their ends for each sample, are solved for all at once.

    Raises
    ------
    ValueError
        If ``stepping`` is none of ``STEPPINGS``, or not possible.
    """
    stepping = arguments.stepping
    if not isinstance(stepping, str) or stepping not in STEPPINGS:
        raise ValueError(f"stepping must be one of {', '.join(STEPPINGS)}, not {described(stepping)}")
    widest = NARROW if arguments.guess is None else WIDEST
    kind = steps if isinstance(steps, Adaptive) else Recorded(())
    obstacle = obstacle_to_plan(kind, system, solver, {}, widest)
    if stepping == "all-at-once" and obstacle:
        raise ValueError(f"stepping: 'all-at-once' {obstacle}; pass stepping='auto' or 'sequential'")
    if stepping == "sequential" or obstacle:
        return False
    assert not isinstance(steps, Adaptive)
    longest = max(map(len, steps))
    if stepping == "all-at-once":
        return longest > 0
    if longest < FEW or not method.newton or system.constant_jacobian:
        return False
    # Each sample by itself in C costs less.
    return bool(obstacle_of(system, method, adaptive=False))


def near_states(
    guess: Solution | None, steps: Sequence[np.ndarray], system: System, layout: Layout
) -> tuple[np.ndarray, ...] | None:
    """For each sample (steps, width) what another solution was at the ends of its steps; None without one.

    ``layout`` is that of the whole batch.

    Raises
    ------
    TypeError, ValueError
        If it is not a solution of as many samples with times of their own.
    """
    if guess is None:
        return None
    if not isinstance(guess, Solution):
        raise TypeError(f"guess must be the Solution of a solve before, not {described(guess)}")
    if guess.t.dim() == 1 or tuple(guess.t.shape[:-1]) != layout.batch:
        shape = ", ".join(map(str, layout.batch))
        raise ValueError(
            "guess: pass a solution in which every sample has times of its own, with t of shape "
            f"({shape}, n), not {tuple(guess.t.shape)}"
        )
    (piece,) = guess.pieces
    trajectories, states = piece.tape.replay.trajectory, piece.tape.run.checkpoints.states
    assert isinstance(trajectories, Trajectories)
    assert states is not None
    if states.shape[1] != layout.width:
        raise ValueError(f"guess has samples of {states.shape[1]} components, y0 has {layout.width}")
    known = np.split(states, trajectories.starts[1:])
    signs = piece.tape.replay.system.direction * system.direction
    found = []
    for part, own, ends in zip(trajectories.parts, known, steps, strict=False):
        if len(own) == 1:
            found.append(np.repeat(own, len(ends), axis=0))
        elif np.array_equal(part.times[1:], ends):
            found.append(own[1:])
        else:
            times, values = part.times, own
            if signs < 0:
                times, values = -times[::-1], own[::-1]
            found.append(interpolated(times, values, ends))
    return tuple(found)
