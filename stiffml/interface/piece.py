"""One run of a solve, and the tensors that its gradients flow to."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from stiffml.gradients.tape import Tape


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
    rows : slice
        Which of its outputs are outputs of the solve; by default all.
    """

    tape: Tape
    inputs: tuple[Tensor, ...]
    event: Tensor | None = None
    rows: slice = field(default_factory=lambda: slice(None))
