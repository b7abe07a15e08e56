"""Whether the steps of a solve are known and solved for all at once, and from which guess."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stiffml.all_at_once.guess import interpolated
from stiffml.checks import described
from stiffml.interface.arguments import Arguments
from stiffml.interface.solution import Solution
from stiffml.linear.dense.exponential import Exponentials
from stiffml.linear.dense.lu import DenseLU
from stiffml.methods import Method
from stiffml.run.record import Run
from stiffml.run.schedule import all_ends
from stiffml.run.stepping import Plan
from stiffml.settings import Discrete
from stiffml.steps import Adaptive, Held, Steps
from stiffml.system.derivatives.jacobian import NARROW
from stiffml.system.linear_solver import LinearSolver
from stiffml.system.system import System

STEPPINGS = ("auto", "sequential", "all-at-once")

WIDEST = 32
"""Components of a sample for which known steps are solved together from a guess: it takes few iterations."""


def plan_of(
    arguments: Arguments,
    steps: Steps,
    outputs: np.ndarray,
    method: Method,
    system: System,
    solver: LinearSolver | None,
    adjoint: Discrete,
) -> Plan | None:
    """The steps to solve for together; None where they are taken one after the other.

    Of the ``arguments`` count ``stepping``, ``guess`` and ``options``.

    Raises
    ------
    TypeError, ValueError
        If ``stepping`` is none of ``STEPPINGS`` or not possible, or ``guess`` is not from such a solve.
    """
    stepping, guess = arguments.stepping, arguments.guess
    if not isinstance(stepping, str) or stepping not in STEPPINGS:
        raise ValueError(f"stepping must be one of {', '.join(STEPPINGS)}, not {described(stepping)}")
    _require_solution(guess)
    guessed = guess is not None or isinstance(steps, Held)
    obstacle = obstacle_to_plan(steps, system, solver, arguments.options or {}, WIDEST if guessed else NARROW)
    if arguments.callback is not None:
        obstacle = "does not go with a callback, which sees the steps one by one"
    if stepping == "all-at-once" and obstacle:
        raise ValueError(f"stepping: 'all-at-once' {obstacle}; pass stepping='auto' or 'sequential'")
    if stepping == "sequential" or obstacle or len(outputs) < 2:
        return None
    assert not isinstance(steps, Adaptive)
    ends, is_output, ramp_steps = all_ends(steps, outputs, method)
    if stepping == "auto" and (not method.newton or system.constant_jacobian):
        # Explicit steps need no iteration, and those that are linear one system a stage.
        return None
    start = start_of(arguments, steps, ends, system)
    # With fewer states kept there is no memory to spend.
    is_differentiated = system.used is not None and isinstance(adjoint.checkpoints, str)
    near = near_of(arguments, steps)
    asked = stepping == "all-at-once"
    return Plan(ends, is_output, ramp_steps, start, near, is_differentiated=is_differentiated, is_asked=asked)


def obstacle_to_plan(
    steps: Steps,
    system: System,
    solver: LinearSolver | None,
    options: Mapping[str, object],
    widest: int,
) -> str:
    """Why the steps cannot be solved for together; empty if they can."""
    layout = system.layout
    if isinstance(steps, Adaptive):
        return "needs steps that are known: Fixed, Grid or Recorded"
    if system.space.is_distributed:
        return "does not take states that are spread over processes"
    if layout.width > widest:
        return f"is for samples of up to {widest} components, not {layout.width}"
    if isinstance(solver, Exponentials):
        return "has nothing to iterate with exponential methods"
    if solver is not None and not isinstance(solver, DenseLU):
        return "needs a dense Jacobian: leave linear and jacobian out"
    if options:
        return "does not take options of PETSc"
    return ""


def start_of(arguments: Arguments, steps: Steps, ends: np.ndarray, system: System) -> np.ndarray | None:
    """(steps, size): the states at ``ends`` (steps,) from which the iteration starts; None for y0.

    Raises
    ------
    TypeError, ValueError
        If ``guess`` is not from such a solve.
    """
    guess = arguments.guess
    _require_solution(guess)
    start = None if guess is None else _states_at(guess, ends, system)
    return np.concatenate(steps.states) if isinstance(steps, Held) else start


def near_of(arguments: Arguments, steps: Steps) -> object:
    """What the solve before has kept that is the guess, of steps that it had too; None without one.

    Held steps have nothing of the kind, so that a training that is resumed with them ends the same.
    """
    guess = arguments.guess
    if guess is None or isinstance(steps, Held) or len(guess.pieces) != 1:
        return None
    return guess.pieces[0].tape.run.kept


def _require_solution(guess: object) -> None:
    if guess is not None and not isinstance(guess, Solution):
        raise TypeError(f"guess must be the Solution of a solve before, not {described(guess)}")
    if guess is not None and guess.t.dim() > 1:
        raise ValueError("guess: every sample of it has times of its own; pass a solution with one t for all")


def _states_at(guess: Solution, ends: np.ndarray, system: System) -> np.ndarray:
    """(steps, size): what another solution was at these times, in straight lines between known states."""
    known = [_known_of(piece.tape.run) for piece in guess.pieces]
    if not known or any(states is None for _, states in known):
        outputs = system.layout.flatten(guess.y).detach().cpu().double().numpy()
        known = [(system.direction * guess.t.detach().cpu().double().numpy(), outputs)]
    times, states = (np.concatenate(parts) for parts in zip(*known, strict=True))
    if states.shape[1:] != (system.layout.size,):
        raise ValueError(f"guess has states of {states.shape[1]} components, y0 has {system.layout.size}")
    if len(known) == 1 and np.array_equal(times[1:], ends):
        return states[1:]
    return interpolated(times, states, ends)


def _known_of(run: Run) -> tuple[np.ndarray, np.ndarray | None]:
    """The ends of its steps and the states there, if these are in memory."""
    return run.trajectory.times, run.checkpoints.states
