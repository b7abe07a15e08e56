"""Explains gradients that are not finite: searches recorded states for derivatives that are not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.discretization.equations import Nodes
from stiffml.discretization.trajectory import Segment
from stiffml.errors import DERIVATIVE_HINT, LinearSolveError, NonFiniteDerivativeError, ReplayError
from stiffml.gradients.tape import Tape
from stiffml.native.replay import Replay
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.infinite_entries import describe_derivative, infinite_derivative
from stiffml.system.finite import first_not_finite, is_finite

SEARCH_STEPS = 1000
"""Number of steps searched in one segment, for states of up to 1000 components."""

Check = Callable[[Dynamics, float, np.ndarray], str]
"""(f or g, time, state (size,)) -> which derivative there is not finite, in words; empty if none is."""


def require_finite(gradients: Iterable[Tensor | np.ndarray | None], tape: Tape, second: bool = False) -> None:
    """Raise NonFiniteDerivativeError if gradients are not finite because a derivative of func is not.

    ``second`` says that the gradients contain second derivatives of func. Gradients that overflowed although
    all derivatives are finite raise no error.
    """
    if all(g is None or all_finite(g) for g in gradients):
        return
    if tape.replay.system.space.is_distributed:
        return  # the search needs all processes, and the gradients of others may be finite
    cause = _cause(tape, second)
    if cause:
        raise NonFiniteDerivativeError(f"the gradient is not finite: {cause}. Try: {DERIVATIVE_HINT}")


def all_finite(values: Tensor | np.ndarray) -> bool:
    """Whether all numbers are finite."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().resolve_conj().resolve_neg()
        values = (torch.view_as_real(values) if values.is_complex() else values).numpy()
    return is_finite(values)


@contextmanager
def explained(tape: Tape, second: bool = False) -> Iterator[None]:
    """Re-raise failures of linear systems and replay as NonFiniteDerivativeError if that is their cause."""
    try:
        yield
    except (np.linalg.LinAlgError, LinearSolveError, ReplayError) as error:
        if tape.replay.system.space.is_distributed:
            raise
        cause = _cause(tape, second)
        if not cause:
            raise
        raise NonFiniteDerivativeError(
            f"there is no gradient of this solve: {cause}. Try: {DERIVATIVE_HINT}"
        ) from error


def _cause(tape: Tape, second: bool) -> str:
    """The derivative that is not finite, in words; empty if there is none. The last steps come first."""
    found = _search(tape, _of_first_order)
    if not found and (second or _is_rosenbrock(tape.replay)):
        found = _search(tape, _of_second_order)
        if found and not second:
            found += ", which the gradient of Rosenbrock methods contains; use another method, such as bdf"
    return found


def _is_rosenbrock(replay: Replay) -> bool:
    return replay.method.implicit and not replay.method.newton


def _search(tape: Tape, at: Check) -> str:
    replay, checkpoints = tape.replay, tape.checkpoints
    last = max(reading.end for reading in tape.readings)
    longest = max(1, SEARCH_STEPS * 1000 // max(1000, replay.system.f.largest))
    with torch.no_grad():
        segments = checkpoints.segments(replay, last, longest)
        while True:
            try:
                segment = next(segments, None)
            except ReplayError:  # states cannot be recomputed, perhaps for the same reason: try the first one
                start = (float(replay.trajectory.times[0]), checkpoints.start)
                return at(replay.system.f, *start)
            if segment is None:
                return ""
            for part, nodes in _nodes(replay, segment):
                for s, u in nodes:
                    found = at(part, s, u)
                    if found:
                        return found


def _nodes(replay: Replay, segment: Segment) -> Iterator[tuple[Dynamics, list[tuple[float, np.ndarray]]]]:
    """The times and vectors (size,) at which f and g are evaluated in a segment, latest first.

    If the stages cannot be solved for, these are the states of the segment, for f only.
    """
    system = replay.system
    try:
        equations = replay.equations(segment)
    except (ReplayError, np.linalg.LinAlgError, LinearSolveError):
        states = np.arange(segment.first, segment.last + 1)
        times, values = segment.times_at(states), segment.states_at(states)
        yield system.f, list(zip(times.tolist(), values, strict=True))[::-1]
        return

    def pairs(nodes: Nodes) -> list[tuple[float, np.ndarray]]:
        found = zip(nodes.s.tolist(), nodes.u.numpy(), strict=True)
        return sorted(found, key=lambda pair: -pair[0])

    yield system.f, pairs(equations.f_nodes)
    if system.g is not None:
        yield system.g, pairs(equations.g_nodes)


def _of_first_order(part: Dynamics, s: float, u: np.ndarray) -> str:
    """Which derivative at a state is not finite, in words; empty if none is."""
    where = infinite_derivative(part, s, u)
    if where is not None:
        return describe_derivative(part, s, where)
    found = _by_parameters(part, s, u)
    return f"{found} is not finite at t = {part.direction * s:.10g}, though func is" if found else ""


def _of_second_order(part: Dynamics, s: float, u: np.ndarray) -> str:
    time, state = torch.tensor([s], dtype=torch.float64), torch.from_numpy(u.copy())[None]
    ones = torch.ones_like(state)
    along = part.directional_vjp(time, state, ones, torch.zeros_like(time), ones, False)[0]
    component = first_not_finite(along[0].numpy())
    if component is None:
        return ""
    where = list(part.layout.component(component))
    return (
        f"a second derivative of func with respect to component {where} is infinite or NaN at "
        f"t = {part.direction * s:.10g}"
    )


def _by_parameters(part: Dynamics, s: float, u: np.ndarray) -> str:
    """Which derivative with respect to a parameter is not finite, in words; empty if none is."""
    time, state = torch.tensor([s], dtype=torch.float64), torch.from_numpy(u.copy())[None]
    slopes, gradients, *_ = part.vjp(time, state, torch.ones_like(state), False)
    if not torch.isfinite(slopes).all():
        return ""
    for position, found in enumerate(gradients):
        if found is not None and not torch.isfinite(found).all():
            return f"its derivative with respect to {_name(part, position)}"
    return ""


def _name(part: Dynamics, position: int) -> str:
    parameter = part.parameters[position]
    named = part.func.named_parameters() if isinstance(part.func, nn.Module) else ()
    names = [name for name, p in named if p is parameter]
    return f"parameter {names[0]!r}" if names else f"a parameter of shape {tuple(parameter.shape)}"
