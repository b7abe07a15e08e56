"""The Jacobian of all outputs of a solve that has ended, with respect to tensors that it depends on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import described
from stiffml.gradients.jacobian import Columns, output_jacobian
from stiffml.gradients.non_finite import explained, require_finite
from stiffml.interface.piece import Piece
from stiffml.system.state import Layout, State


def jacobian_of(
    pieces: Sequence[Piece], t: Tensor, y: State, inputs: Tensor | Sequence[Tensor]
) -> State | tuple[State, ...]:
    """dY/dp for each input p; see :meth:`stiffml.Solution.jacobian`."""
    if not pieces:
        raise ValueError(
            "jacobian: not available within torch.vmap and torch.func, which have jacrev and jacfwd"
        )
    wanted = _checked(inputs)
    parts = y if isinstance(y, tuple) else (y,)
    if not any(part.requires_grad for part in parts):
        raise ValueError(
            "jacobian: the solution has no graph, because gradients were off during the solve, or nothing "
            "that it depends on requires one"
        )
    flat = torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)
    numbers = [p.numel() for p in wanted]
    system = pieces[0].tape.replay.system
    if system.space.is_distributed:
        raise NotImplementedError("jacobian: not available for a field that is spread over processes")
    if _only_through_states(pieces, t, wanted):
        rows = [_of_piece(piece, wanted)[piece.rows] for piece in pieces]
        found = _in_order(torch.cat(rows), system.layout).to(flat)
    else:
        found = torch.stack([_gradients(flat, i, wanted) for i in range(flat.numel())])
        found = found.view(*flat.shape, -1)
    each = [_shaped(part, parts, p, y) for part, p in zip(found.split(numbers, dim=2), wanted, strict=True)]
    return each[0] if isinstance(inputs, Tensor) else tuple(each)


def _checked(inputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for number, p in enumerate(wanted):
        if isinstance(p, Tensor) and p.is_complex():
            raise ValueError(
                f"jacobian: inputs[{number}] is complex, whose derivative is no single number; use "
                "torch.autograd.functional.jacobian, or a real tensor that it is made from"
            )
        if not isinstance(p, Tensor) or not p.requires_grad:
            what = described(p) if not isinstance(p, Tensor) else "a tensor that requires no gradient"
            raise ValueError(
                f"jacobian: inputs must be tensors that require gradients; inputs[{number}] is {what}"
            )
    return wanted


def _shaped(found: Tensor, parts: Sequence[Tensor], p: Tensor, y: State) -> State:
    """(n, size, numbers) -> (n, \\*y0.shape, \\*p.shape), for a tuple state a tuple of these."""
    sizes = [part[0].numel() for part in parts]
    split = [
        values.reshape(*part.shape, *p.shape)
        for values, part in zip(found.split(sizes, dim=1), parts, strict=True)
    ]
    return tuple(split) if isinstance(y, tuple) else split[0]


def _in_order(found: Tensor, layout: Layout) -> Tensor:
    """(n, size, columns) for flat states -> the same for the parts of states one after the other."""
    states = layout.unflatten(found.movedim(1, 2))
    parts = states if isinstance(states, tuple) else (states,)
    return torch.cat([part.reshape(*part.shape[:2], -1) for part in parts], dim=2).movedim(1, 2)


def _only_through_states(pieces: Sequence[Piece], t: Tensor, wanted: Sequence[Tensor]) -> bool:
    """Whether the inputs matter through initial states and parameters alone, not through any times."""
    if any(piece.by_sample is not None for piece in pieces):
        return False
    times = [t, *(piece.inputs[0] for piece in pieces)]
    return all(piece.event is None for piece in pieces) and not any(
        _depends(time, wanted) for time in times if time.requires_grad
    )


def _depends(tensor: Tensor, on: Sequence[Tensor]) -> bool:
    if any(tensor is p for p in on):
        return True
    return tensor.grad_fn is not None and any(g is not None for g in _vjp(tensor.sum(), on))


def _vjp(output: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(output, list(inputs), retain_graph=True, allow_unused=True)


def _gradients(flat: Tensor, i: int, inputs: Sequence[Tensor]) -> Tensor:
    """The gradient of one number of ``flat`` with respect to all inputs, (columns,)."""
    gradients = zip(_vjp(flat.reshape(-1)[i], inputs), inputs, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1).to(flat) for g, p in gradients])


def _of_piece(piece: Piece, wanted: Sequence[Tensor]) -> Tensor:
    """Of the outputs of one run, (n, size, columns), by the chain rule through its own inputs."""
    tape = piece.tape.with_readings(piece.tape.run.readings)
    _, u0, *parameters = piece.inputs
    through = [_rows(a, wanted) for a in (u0, *parameters)]
    positions = tuple(position for position, rows in enumerate(through[1:]) if rows is not None)
    columns = Columns(through[0] is not None, positions)
    total, used = sum(p.numel() for p in wanted), [rows for rows in through if rows is not None]
    size = tape.replay.system.layout.size
    if not used:
        return torch.zeros(len(tape.run.in_time), size, total, dtype=torch.float64)
    with torch.inference_mode(False), torch.no_grad(), tape.at_work():
        tape.require_same_func()
        with explained(tape):
            found = output_jacobian(tape, columns)
        require_finite([found], tape)
    found, numbers = found[tape.run.in_time], columns.numbers(tape)
    if len(used) == 1 and numbers == [total] and used[0] == 0:
        return found
    whole = found.new_zeros(len(found), size, total)
    for part, rows in zip(found.split(numbers, dim=2), used, strict=True):
        if isinstance(rows, int):
            whole[..., rows : rows + part.shape[-1]] += part
        else:
            whole += part @ rows
    return whole


def _rows(tensor: Tensor, wanted: Sequence[Tensor]) -> Tensor | int | None:
    """The derivative of an input of a run by all that is wanted, (numbers, columns).

    For one that is wanted itself its first column; None for zero.
    """
    if tensor.grad_fn is None:
        firsts = np.cumsum([0, *(p.numel() for p in wanted)])
        return next((int(first) for p, first in zip(wanted, firsts, strict=False) if tensor is p), None)
    if all(g is None for g in _vjp(tensor.reshape(-1)[0], wanted)):
        return None
    rows = [_gradients(tensor, i, wanted) for i in range(tensor.numel())]
    return torch.stack(rows).to("cpu", torch.float64)
