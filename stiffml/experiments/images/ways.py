"""The ways to a gradient that are compared, by name: those of stiffml, of torchdiffeq, and three others."""

from __future__ import annotations

import tempfile

import torch
import torchdiffeq
from torch import Tensor, nn

from stiffml import Discrete, Disk, Grid, odeint
from stiffml.experiments.images import rivals

FOLDER = tempfile.gettempdir()
KEPT: dict[str, str | int | Disk] = {
    "stages": "stages",
    "solutions": "solutions",
    "2 states": 2,
    "4 states": 4,
    "8 states": 8,
    "disk": Disk(FOLDER),
}
"""What stiffml keeps for the backward pass."""

TAPE, CONTINUOUS, CHECKPOINTED, ACA, MALI = "odeint", "odeint_adjoint", "checkpointed tape", "ACA", "MALI"
OTHERS = (TAPE, CONTINUOUS, CHECKPOINTED, ACA, MALI)
ACCURATE = (TAPE, CHECKPOINTED, ACA, MALI)
"""Those of the others whose gradient is that of the steps taken."""

ADAPTIVE = ("stages", "solutions", "2 states", TAPE, CONTINUOUS, ACA)
"""Those that choose their steps."""

TIMES = torch.tensor([0.0, 1.0])


def ways() -> tuple[str, ...]:
    """All names."""
    return (*KEPT, *OTHERS)


def solve(
    way: str, func: nn.Module, y0: Tensor, method: str, steps: int | None, rtol: float = 1e-3
) -> Tensor:
    """The state at t = 1 by one of the ways: by equal steps, or for ``steps=None`` by adaptive ones."""
    if way in KEPT:
        adjoint = Discrete(checkpoints=KEPT[way])
        if steps is None:
            return odeint(func, y0, TIMES, method=method, rtol=rtol, atol=rtol, adjoint=adjoint)[-1]
        return odeint(func, y0, TIMES, method=method, steps=Grid(steps), adjoint=adjoint)[-1]
    if way in (TAPE, CONTINUOUS):
        other = torchdiffeq.odeint if way == TAPE else torchdiffeq.odeint_adjoint
        options = {} if steps is None else {"options": {"step_size": 1 / steps}}
        return other(func, y0, TIMES, method=method, rtol=rtol, atol=rtol, **options)[-1]
    if way == ACA:
        return rivals.aca(func, y0, method, steps, rtol)
    assert steps is not None, f"{way} does not choose its steps"
    return (
        rivals.checkpointed(func, y0, method, steps) if way == CHECKPOINTED else rivals.mali(func, y0, steps)
    )


class Block(nn.Module):
    """A solve to t = 1 as a layer, by one of the ways."""

    func: nn.Module

    def __init__(self, way: str, func: nn.Module, method: str, steps: int | None) -> None:
        super().__init__()
        self.way, self.func, self.method, self.steps = way, func, method, steps

    def forward(self, y0: Tensor) -> Tensor:
        return solve(self.way, self.func, y0, self.method, self.steps)[None]
