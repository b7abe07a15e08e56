"""Solves on steps that are kept between the iterations of a training."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import several_times
from stiffml.discretization.equations import Form
from stiffml.discretization.estimates import scaled
from stiffml.errors import SolveError
from stiffml.interface.arguments import Arguments
from stiffml.interface.equations import space_of
from stiffml.interface.events import events_of
from stiffml.interface.jumps import jumps_of
from stiffml.interface.piece import Piece
from stiffml.interface.solution import Solution
from stiffml.interface.tolerances import tolerances_of
from stiffml.methods import resolve
from stiffml.settings import Discrete
from stiffml.steps import Adaptive, Fractions, KeptSteps, Key, Recorded
from stiffml.system.split import Split

Solved = tuple[Solution, SolveError | None]


def solve_on_kept_steps(solve_once: Callable[[Arguments], Solved], arguments: Arguments) -> Solved:
    """Solve on the steps that ``arguments.steps`` keeps, or choose them anew; see :class:`KeptSteps`.

    ``solve_once`` solves with other kinds of steps.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not go with kept steps.
    """
    kept = arguments.steps
    assert isinstance(kept, KeptSteps)
    _require_possible(arguments)
    counts = torch.is_grad_enabled()
    key = _key(arguments)
    reason, before = kept.reason(key, counts), None
    if not reason:
        solution, failure = solve_once(dataclasses.replace(arguments, steps=kept.held))
        error = float("inf") if failure is not None else _error(solution, arguments)
        if failure is None and error <= kept.largest_error:
            if counts:
                kept.take(_states(solution), error)
            return solution, None
        reason, before = "error" if failure is None else "failure", solution
    # Adaptive steps are taken one by one; "all-at-once" asks for the others.
    together = isinstance(arguments.stepping, str) and arguments.stepping == "all-at-once"
    stepping = "auto" if together and isinstance(kept.steps, Adaptive) else arguments.stepping
    solution, failure = solve_once(dataclasses.replace(arguments, steps=kept.steps, stepping=stepping))
    solution.stats.renewed = reason
    if before is not None:
        _charge(solution, before)
    if counts and failure is None:
        assert isinstance(solution.steps, Recorded)  # of one t for all samples
        layout = solution.pieces[0].tape.replay.system.layout
        tolerances = tolerances_of(arguments.rtol, arguments.atol, arguments.y0, layout)
        aim, error = resolve(arguments.method).aim(tolerances.rtol), _error(solution, arguments)
        kept.choose(reason, key, solution.steps.ends, _states(solution), error, aim)
    return solution, failure


def _require_possible(arguments: Arguments) -> None:
    kept, method = arguments.steps, resolve(arguments.method)
    assert isinstance(kept, KeptSteps)
    if arguments.guess is not None:
        raise ValueError("guess: KeptSteps begin with their own last solution; leave it out")
    if any(event.terminal for event in events_of(arguments.event)):
        raise ValueError("event: KeptSteps keep the steps of a whole span, which it may end; use Adaptive()")
    if arguments.callback is not None:
        raise ValueError(
            "callback: KeptSteps solve for many steps at a time, and again where their error is too large; "
            "use Adaptive()"
        )
    adjoint = arguments.adjoint
    if isinstance(adjoint, Discrete) and adjoint.checkpoints not in ("stages", "solutions"):
        raise ValueError(
            f"adjoint: KeptSteps keep all states, not those of {adjoint}; pass checkpoints='solutions'"
        )
    if space_of(arguments.func).is_distributed:
        raise ValueError("steps: KeptSteps do not take states that are spread over processes; use Adaptive()")
    form = Form(isinstance(arguments.func, Split) and method.split, arguments.mass is not None)
    if isinstance(kept.steps, Adaptive) and method.adaptive and not method.has_estimates(form):
        raise ValueError(
            f"steps: with a mass matrix, {method} has no error estimate for steps that are kept, since it "
            "needs the slope at their start; use Adaptive(), or a method such as bdf"
        )


def _key(arguments: Arguments) -> Key:
    """What the steps belong to."""
    y0, given = arguments.y0, {"t": arguments.t}
    parts = y0 if isinstance(y0, tuple) else (y0,)
    for name in ("through", "breakpoints"):
        values = getattr(arguments, name)
        given[name] = several_times(name, () if values is None else values)
    given["jumps"] = several_times("jumps", [jump.time for jump in jumps_of(arguments.jumps)])
    shapes = [(tuple(part.shape), str(part.dtype)) if isinstance(part, Tensor) else "none" for part in parts]
    key: Key = {name: times.detach().cpu().double().clone() for name, times in given.items()}
    key |= {"y0": str(shapes), "method": str(resolve(arguments.method)), "outputs": str(arguments.outputs)}
    for name in ("rtol", "atol"):
        key[name] = _told(getattr(arguments, name))
    return key


def _told(tolerance: Any) -> Tensor | str:
    """A tolerance as it is compared with another."""
    parts = tolerance if isinstance(tolerance, tuple | list) else (tolerance,)
    if not any(isinstance(part, Tensor | np.ndarray) for part in parts):
        return str(tolerance)
    return torch.cat([torch.as_tensor(part).detach().cpu().double().reshape(-1).clone() for part in parts])


def _states(solution: Solution) -> Fractions:
    """The states at the ends of all steps, for each output interval (steps, size)."""
    parts: list[np.ndarray] = []
    for piece in solution.pieces:
        run = piece.tape.run
        states = run.checkpoints.states
        assert states is not None
        ends = run.trajectory.output_steps
        parts += [states[first + 1 : last + 1].copy() for first, last in itertools.pairwise(ends)]
    return tuple(parts)


def _error(solution: Solution, arguments: Arguments) -> float:
    """The largest estimated error of a step of a solution; 0 for steps that no estimate has chosen."""
    kept = arguments.steps
    assert isinstance(kept, KeptSteps)
    if not isinstance(kept.steps, Adaptive):
        return 0.0
    return max((_error_of(piece, arguments) for piece in solution.pieces), default=0.0)


@torch.inference_mode(False)
@torch.no_grad()
def _error_of(piece: Piece, arguments: Arguments) -> float:
    replay, run = piece.tape.replay, piece.tape.run
    tolerances = tolerances_of(arguments.rtol, arguments.atol, arguments.y0, replay.system.layout)
    largest, count = 0.0, run.trajectory.n_steps
    for segment in run.checkpoints.segments(replay, count, max(count, 1)):
        new, old = segment.states[1:], segment.states[:-1]
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.mean(scaled(replay.errors(segment), new, old, tolerances) ** 2, axis=1))
        estimated = norms[~np.isnan(norms)]
        largest = max(largest, float(estimated.max(initial=0.0)))
    return largest


def _charge(solution: Solution, before: Solution) -> None:
    """Add the cost of a solve that was discarded; its steps count as rejected."""
    spent = before.stats
    solution.stats.count(
        rejected=spent.accepted + spent.rejected,
        rhs_evals=spent.rhs_evals,
        jacobians=spent.jacobians,
        newton_iterations=spent.newton_iterations,
        linear_solves=spent.linear_solves,
        krylov_iterations=spent.krylov_iterations,
        mended_jacobians=spent.mended_jacobians,
        wall_s=spent.wall_s,
    )
