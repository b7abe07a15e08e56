"""Many gradients of a run at once: those for a batch of cotangents, as ``is_grads_batched`` asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from stiffml.gradients.adjoints_at_once import adjoints_at_once
from stiffml.gradients.jacobian import Columns, units_of
from stiffml.gradients.non_finite import all_finite, explained, require_finite
from stiffml.gradients.tape import Tape

LARGEST = 10_000_000
"""Numbers in all gradients together, up to which they are computed by one sweep."""


def gradients_in_one_sweep(tape: Tape, cotangents: Tensor) -> tuple[Tensor, list[Tensor]] | None:
    """The gradients by u0 (R, size) and by each parameter (R, \\*shape), of R cotangents (R, n, size).

    None where one sweep for all of them is not to be had.
    """
    system, parameters = tape.replay.system, tape.replay.system.parameters
    numbers = sum(p.numel() for p in parameters)
    if (
        system.mass_has_gradient
        or system.space.is_distributed
        or len(tape.replay.trajectory.starts) > 1
        or any(p.is_complex() for p in parameters)
        or len(cotangents) * numbers > LARGEST
    ):
        return None
    units = units_of(tape, Columns(False, tuple(range(len(parameters)))))
    with tape.at_work():
        tape.require_same_func()
        with explained(tape):
            found = adjoints_at_once(tape, units, np.moveaxis(cotangents.numpy(), 0, -1))
        if found is None:
            return None
        if all_finite(cotangents):
            require_finite(found, tape)
    u0, by_parameter = (torch.from_numpy(values) for values in found)
    split = by_parameter.split([p.numel() for p in parameters], dim=1)
    pairs = zip(split, parameters, strict=True)
    return u0, [values.reshape(len(cotangents), *p.shape).to(p) for values, p in pairs]


def taken_apart(batched: Tensor) -> tuple[Tensor, int] | None:
    """The tensors in a batch of ``is_grads_batched``, (R, …), and its level; None for any other tensor."""
    if not torch._C._functorch.is_legacy_batchedtensor(batched):
        return None
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    return torch._remove_batch_dim(batched, level, 0, 0), level


@contextmanager
def outside_of_batches() -> Iterator[None]:
    """While open, no batch of ``is_grads_batched`` is under way: within one, torch refuses random numbers."""
    levels = torch._C._vmapmode_increment_nesting()
    for _ in range(levels):
        torch._C._vmapmode_decrement_nesting()
    try:
        yield
    finally:
        for _ in range(levels - 1):
            torch._C._vmapmode_increment_nesting()


def put_together(values: Tensor | None, level: int) -> Tensor | None:
    """Tensors (R, …) as a batch of that level."""
    return None if values is None else torch._add_batch_dim(values, 0, level)
