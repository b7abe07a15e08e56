"""The Jacobian of all outputs of a run: by tangents or by adjoints, whichever are fewer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stiffml.gradients.adjoint import reverse
from stiffml.gradients.adjoints_at_once import adjoints_at_once
from stiffml.gradients.directions import Units
from stiffml.gradients.tangent import output_tangents
from stiffml.gradients.tape import Tape


class Columns(NamedTuple):
    """What outputs are differentiated with respect to: u0, if ``u0``, then parameters, by position.

    A column of the Jacobian belongs to each of their numbers.
    """

    u0: bool
    parameters: tuple[int, ...]

    def numbers(self, tape: Tape) -> list[int]:
        """How many columns each takes; those of u0 come first."""
        system = tape.replay.system
        own = [system.layout.size] if self.u0 else []
        return own + [system.parameters[position].numel() for position in self.parameters]


def output_jacobian(tape: Tape, columns: Columns) -> Tensor:
    """∂(outputs)/∂(columns) of a run with its steps held, (n_outputs, size, columns), float64."""
    system, numbers = tape.replay.system, columns.numbers(tape)
    rows = len(tape.readings) * system.layout.size
    of_mass = system.mass_has_gradient and len(system.f.parameters) in columns.parameters
    if sum(numbers) <= rows and not of_mass:
        start = np.eye(sum(numbers), system.layout.size) if columns.u0 else None
        return by_tangents(tape, units_of(tape, columns), start)
    return by_adjoints(tape, columns, of_mass)


def units_of(tape: Tape, columns: Columns) -> Units:
    """The directions of the columns in the space of the parameters."""
    numbers = columns.numbers(tape)
    ends = np.cumsum(numbers)[-len(columns.parameters) or len(numbers) :]
    begins = {
        position: int(end) - tape.replay.system.parameters[position].numel()
        for position, end in zip(columns.parameters, ends, strict=True)
    }
    return Units(begins, sum(numbers))


def by_tangents(tape: Tape, units: Units, start: np.ndarray | None) -> Tensor:
    """The Jacobian from tangents; ``start`` (columns, size) are those of u0, by default zero."""
    if start is None:
        start = np.zeros((units.count, tape.replay.system.layout.size))
    return output_tangents(tape, start, units).movedim(1, 2)


def by_adjoints(tape: Tape, columns: Columns, of_mass: bool) -> Tensor:
    """The Jacobian from one adjoint for each component of each output."""
    count, size = len(tape.readings), tape.replay.system.layout.size
    each = np.eye(count * size).reshape(count, size, -1)
    found = None if of_mass else adjoints_at_once(tape, units_of(tape, columns), each)
    if found is not None:
        u0, parameters = found
        if columns.u0:
            parameters[:, :size] = u0
        return torch.from_numpy(parameters).view(count, size, -1)
    rows = []
    for unit in torch.eye(count * size, dtype=torch.float64).view(-1, count, size):
        gradients = reverse(tape, unit)
        rows.append(torch.cat([gradients.u0] * columns.u0 + _flat(tape, columns, gradients.parameters)))
    return torch.stack(rows).view(count, size, -1)


def _flat(tape: Tape, columns: Columns, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    found = []
    for position in columns.parameters:
        gradient, like = gradients[position], tape.replay.system.parameters[position]
        gradient = torch.zeros_like(like) if gradient is None else gradient
        found.append(gradient.detach().reshape(-1).to("cpu", torch.float64))
    return found
