"""One run of a solve, and the tensors that its gradients flow to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stiffml.discretization.interpolation import Reading
from stiffml.gradients.tape import Tape
from stiffml.system.state import Layout


@dataclass(frozen=True)
class SampleOutputs:
    """How the outputs of samples with times of their own follow from the states of all steps.

    Attributes
    ----------
    layout : Layout
        Of the whole batch.
    readings : sequence of Reading
    index : Tensor
        (n, samples) int: which reading an output is; −1 where a sample that failed has none.
    """

    layout: Layout
    readings: Sequence[Reading]
    index: Tensor

    def arranged(self, u: Tensor) -> Tensor:
        """The values of all readings (readings, …, width) as outputs (n, …, size), NaN where it has none."""
        rows = u[self.index.clamp(min=0)]
        missing = (self.index < 0).reshape(*self.index.shape, *(1,) * (u.dim() - 1))
        if missing.any():
            rows = torch.where(missing, torch.full_like(rows, float("nan")), rows)
        return rows.movedim(1, -2).flatten(-2)


@dataclass(frozen=True)
class Piece:
    """A run between two breakpoints; without breakpoints the whole solve.

    Attributes
    ----------
    tape : Tape
    inputs : tuple of Tensor
        The times that steps end on, u0, and the parameters: what gradients flow to.
    event : Tensor or None
        The time of the event that ended the run, differentiable.
    by_sample : SampleOutputs or None
        The outputs, if every sample has times of its own.
    rows : slice
        Which of its outputs are outputs of the solve; by default all.
    follows_jump : bool
        Whether it begins with another state than that in which the one before has ended.
    """

    tape: Tape
    inputs: tuple[Tensor, ...]
    event: Tensor | None = None
    by_sample: SampleOutputs | None = None
    rows: slice = field(default_factory=lambda: slice(None))
    follows_jump: bool = False
