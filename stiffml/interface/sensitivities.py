"""Forward sensitivities: how the outputs of a solve change with a few parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import texts
from stiffml.gradients.directions import Along, Direction
from stiffml.gradients.initial_values import consistent_tangents
from stiffml.gradients.non_finite import explained, require_finite
from stiffml.gradients.tangent import output_tangents
from stiffml.interface.arguments import Arguments, named_arguments
from stiffml.interface.integrate import solved
from stiffml.interface.solution import Solution
from stiffml.native.constraints import Constraints
from stiffml.parameters.naming import named_parameters
from stiffml.parameters.passed import collected
from stiffml.system.function.batching import Func
from stiffml.system.state import State


@dataclass(frozen=True)
class Sensitivities:
    """The outputs of a solve and their derivatives.

    Attributes
    ----------
    solution : Solution
    wrt : dict of str to Tensor or tuple of Tensor
        dY/dp by the name of p, (n, \\*y0.shape, \\*p.shape); for a tuple state a tuple of such tensors.
    """

    solution: Solution
    wrt: dict[str, State]


@named_arguments()
def sensitivities(
    func: Func,
    y0: State,
    t: Tensor,
    wrt: Sequence[str] | None = None,
    *,
    params: Iterable[Tensor] = (),
    **arguments,
) -> Sensitivities:
    """Solve, and differentiate the outputs with respect to parameters, forwards.

    The derivatives are those of the discrete steps, which are held fixed, as in the backward pass. They cost
    one linear solve for each stage and each number in ``wrt``, with the factors of the adjoint. With fewer
    numbers than outputs they are cheaper than a gradient of every output.

    Parameters
    ----------
    func, y0, t, params, **arguments
        As for :func:`stiffml.solve`.
    wrt : sequence of str, optional
        Names of a module's parameters, ``"params[i]"`` for those passed as ``params``, and ``"y0"``. Other
        tensors that func uses have the name that func has for them, such as ``"k"`` for a variable that a
        lambda reads, or ``"layers.0.weight"``; if there is none, ``"found[i]"``. Default: all parameters that
        require gradients.

    Raises
    ------
    ValueError
        For an unknown name, a tuple y0 as ``wrt``, or a parameter that does not require a gradient.
    NonFiniteDerivativeError
        If derivatives are NaN because one of func is.
    NotImplementedError
        For Rosenbrock methods, for the mass matrix, and for y0 of a field over several processes.
    """
    wrt = None if wrt is None else texts("wrt", wrt)
    extra = collected(params)
    asked = Arguments(func, y0, t, params=extra, **arguments)
    solution = solved(asked)
    if len(solution.pieces) > 1 or solution.event is not None:
        raise NotImplementedError("sensitivities: not available with breakpoints or an event")
    run = solution.pieces[0].tape.run
    tape = solution.pieces[0].tape.with_readings(run.readings)
    tape.require_same_func()
    system = tape.replay.system
    known = _known(func, extra, system.f.parameters)
    names = list(known) if wrt is None else list(wrt)
    size, dtype = system.layout.size, system.layout.dtype
    u0_rows, directions, shapes = [], [], []
    none: Direction = [None] * len(system.parameters)
    for name in names:
        if name == "y0":
            if isinstance(y0, tuple):
                raise ValueError('wrt: "y0" needs y0 to be one tensor')
            if system.space.is_distributed:
                raise NotImplementedError('wrt: "y0" of a field that is spread over processes')
            u0_rows += list(np.eye(size))
            directions += [none] * size
            shapes.append(y0.shape)
            continue
        if name not in known:
            raise ValueError(
                f"wrt: no parameter {name!r} that requires a gradient; known are {', '.join([*known, 'y0'])}"
            )
        position, parameter = known[name]
        with torch.inference_mode(False):
            changes = torch.eye(parameter.numel(), dtype=parameter.dtype, device=parameter.device)
        for row in changes:
            direction = list(none)
            direction[position] = row.reshape(parameter.shape)
            directions.append(direction)
            u0_rows.append(np.zeros(size))
        shapes.append(parameter.shape)
    if not names:
        return Sensitivities(solution, {})
    start = np.array(u0_rows)
    with torch.inference_mode(False), torch.no_grad(), tape.at_work():
        if asked.make_consistent:
            constraints = Constraints(system, float(run.trajectory.times[0]), tape.replay.solver)
            start = consistent_tangents(constraints, tape.checkpoints.start, start, directions)
        with explained(tape):
            tangents = output_tangents(tape, start, Along(directions))
        require_finite([tangents], tape)
    tangents = tangents[run.in_time]
    parts = torch.split(tangents.to(dtype), [shape.numel() for shape in shapes], dim=1)
    found = {
        name: _last(system.layout.unflatten(part), shape)
        for name, part, shape in zip(names, parts, shapes, strict=True)
    }
    return Sensitivities(solution, found)


def _known(func: Func, extra: tuple[Tensor, ...], used: tuple[Tensor, ...]) -> dict[str, tuple[int, Tensor]]:
    """Positions and tensors of the parameters in ``used``, by name."""
    position = {id(p): i for i, p in enumerate(used)}
    return {name: (position[id(p)], p) for name, p in named_parameters(func, extra, used).items()}


def _last(value: State, shape: torch.Size) -> State:
    """(n, P, *state) -> (n, *state, *shape)"""
    if isinstance(value, tuple):
        return tuple(part.movedim(1, -1).reshape(len(part), *part.shape[2:], *shape) for part in value)
    return value.movedim(1, -1).reshape(len(value), *value.shape[2:], *shape)
