"""Forward sensitivities: how the outputs of a solve change with a few parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import texts
from stiffml.display import readable
from stiffml.gradients.directions import Directions, Units
from stiffml.gradients.initial_values import consistent_tangents
from stiffml.gradients.non_finite import explained, require_finite
from stiffml.gradients.tangent import output_tangents
from stiffml.interface.arguments import Arguments, named_arguments
from stiffml.interface.forms.form import form_of
from stiffml.interface.integrate import solved
from stiffml.interface.piece import Piece
from stiffml.interface.solution import Solution
from stiffml.native.constraints import Constraints
from stiffml.parameters.naming import named_parameters
from stiffml.parameters.passed import collected
from stiffml.stats import spend
from stiffml.system.function.batching import Func
from stiffml.system.state import State


@readable
@dataclass(frozen=True)
class Sensitivities:
    """The outputs of a solve and their derivatives.

    Attributes
    ----------
    solution : Solution
    wrt : dict of str to Tensor or tuple of Tensor
        dY/dp by the name of p, (n, \\*y0.shape, \\*p.shape); for a tuple state a tuple of such tensors.

    Examples
    --------
    >>> found = stiffml.sensitivities(func, y0.clone().requires_grad_(), t, ["y0"], rtol=1e-9)
    >>> found.solution.y.shape, found.wrt["y0"].shape
    (torch.Size([2, 2]), torch.Size([2, 2, 2]))
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
    one linear solve for each stage and each number in ``wrt``, with the factors of the adjoint; where
    Jacobians are small dense blocks, all stages of a segment are solved for at once. Gradients may be off.
    :meth:`Solution.jacobian` gives the same of a solve that has ended, by tensors instead of names.

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
        With breakpoints, jumps or an event, for y0 of a field over several processes, and with
        make_consistent if every sample has times of its own.

    Examples
    --------
    >>> k = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    >>> found = stiffml.sensitivities(lambda t, y: -k * y, y0, t, rtol=1e-9)
    >>> found.wrt["k"][-1, 0]  # d/dk exp(-k) is -exp(-2)
    tensor(-0.1353, dtype=torch.float64)
    """
    wrt = None if wrt is None else texts("wrt", wrt)
    extra = collected(params)
    if form_of(y0)[0] is not None:
        raise ValueError(
            "sensitivities: y0 must be a real tensor or a tuple of them; for other states use "
            "Solution.jacobian, or torch.func.jvp of the solve"
        )
    asked = Arguments(func, y0, t, params=extra, **arguments)
    if asked.jumps is not None:
        raise NotImplementedError("sensitivities: not available with jumps; use Solution.jacobian")
    solution = solved(asked)
    if not solution.pieces:
        raise ValueError("sensitivities: not available within torch.func; use torch.func.jvp of the solve")
    if len(solution.pieces) > 1 or solution.event is not None:
        raise NotImplementedError(
            "sensitivities: not available with breakpoints or an event; use Solution.jacobian"
        )
    piece = solution.pieces[0]
    tape, by_sample = piece.tape, piece.by_sample
    tape.require_same_func()
    system = tape.replay.system
    layout = system.layout if by_sample is None else by_sample.layout
    if by_sample is not None and asked.make_consistent:
        raise NotImplementedError(
            "sensitivities: not with make_consistent if samples have times of their own"
        )
    known = _known(func, extra, system.f.parameters)
    names = list(known) if wrt is None else list(wrt)
    size, dtype = layout.size, layout.dtype
    shapes: list[torch.Size] = []
    first: dict[int, int] = {}
    count = at_y0 = 0
    for name in names:
        if name == "y0":
            if isinstance(y0, tuple):
                raise ValueError('wrt: "y0" needs y0 to be one tensor')
            if system.space.is_distributed:
                raise NotImplementedError('wrt: "y0" of a field that is spread over processes')
            at_y0 = count
            shapes.append(y0.shape)
            count += size
            continue
        if name not in known:
            raise ValueError(
                f"wrt: no parameter {name!r} that requires a gradient; known are {', '.join([*known, 'y0'])}"
            )
        position, parameter = known[name]
        if parameter.is_complex():
            raise ValueError(f"wrt: {name!r} is complex; name a real tensor that it is made from")
        first[position] = count
        shapes.append(parameter.shape)
        count += parameter.numel()
    if not names:
        return Sensitivities(solution, {})
    directions = Units(first, count)
    start = np.zeros((count, size))
    if "y0" in names:
        start[at_y0 : at_y0 + size] = np.eye(size)
    if asked.make_consistent:
        with torch.inference_mode(False), torch.no_grad(), tape.at_work():
            constraints = Constraints(system, float(tape.run.trajectory.times[0]), tape.replay.solver)
            start = consistent_tangents(constraints, tape.checkpoints.start, start, directions)
    tangents = tangents_of(piece, start, directions)
    parts = torch.split(tangents.to(dtype), [shape.numel() for shape in shapes], dim=1)
    found = {
        name: _last(layout.unflatten(part), shape)
        for name, part, shape in zip(names, parts, shapes, strict=True)
    }
    return Sensitivities(solution, found)


def tangents_of(piece: Piece, start: np.ndarray, directions: Directions) -> Tensor:
    """The tangents (n, P, size) of the outputs of a solve that has ended, from those of y0 (P, size).

    Raises
    ------
    NonFiniteDerivativeError
        If they are NaN because a derivative of func is.
    """
    run, by_sample = piece.tape.run, piece.by_sample
    tape = piece.tape.with_readings(run.readings if by_sample is None else by_sample.readings)
    system = tape.replay.system
    evaluations, jacobians = system.rhs_evals, system.f.jacobians
    with torch.inference_mode(False), torch.no_grad(), tape.at_work():
        with explained(tape):
            tangents = output_tangents(tape, start, directions)
        require_finite([tangents], tape)
    spend(rhs_evals=system.rhs_evals - evaluations, jacobians=system.f.jacobians - jacobians)
    return tangents[run.in_time] if by_sample is None else by_sample.arranged(tangents)


def _known(func: Func, extra: tuple[Tensor, ...], used: tuple[Tensor, ...]) -> dict[str, tuple[int, Tensor]]:
    """Positions and tensors of the parameters in ``used``, by name."""
    position = {id(p): i for i, p in enumerate(used)}
    return {name: (position[id(p)], p) for name, p in named_parameters(func, extra, used).items()}


def _last(value: State, shape: torch.Size) -> State:
    """(n, P, *state) -> (n, *state, *shape)"""
    if isinstance(value, tuple):
        return tuple(part.movedim(1, -1).reshape(len(part), *part.shape[2:], *shape) for part in value)
    return value.movedim(1, -1).reshape(len(value), *value.shape[2:], *shape)
