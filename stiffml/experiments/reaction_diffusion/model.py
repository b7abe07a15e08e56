"""Gray and Scott's field with a network for its reaction, as a ``Field``; run as a script, on processes.

``mpiexec -n 2 python -m stiffml.experiments.reaction_diffusion.model WEIGHTS.pt SIZE …`` prints JSON: for
each size the seconds of a solve and its gradient, the loss and the length of the gradient.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import problems
from problems import Problem
from stiffml import GMRES, Assembled, odeint
from stiffml.closures import mlp
from stiffml.distributed import Field

TYPICAL = (1.0, 0.3)
"""Of u and v."""

RATE = 0.02
"""Of what the network says, per unit of time."""

SPAN, OUTPUTS = 20.0, 3
"""Of what is timed."""


def gray_scott(size: int) -> Problem:
    return problems.load("gray_scott", size=size)


class Model:
    """dy/dt of fields (2, n, n): diffusion by five points, and a network of u and v at each point.

    Attributes
    ----------
    field : Field
        Over all processes, each with its part.
    network : nn.Module
        (…, 2) -> (…, 2), in units of ``TYPICAL`` and ``RATE``.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        problem = gray_scott(size)
        self.field = Field(shape=(size, size), species=2, periodic=True, width=1)
        spacing = float(problem.grid["x"][1])
        rates = torch.tensor([problem.parameters[name].value for name in ("Du", "Dv")])
        self.diffusion = rates.double()[:, None, None] / spacing**2
        self.typical = torch.tensor(TYPICAL, dtype=torch.float64)
        self.network: nn.Module = mlp([2, 16, 16, 2], seed=seed)
        self.rhs = self.field.rhs(self.local)

    def diffused(self, ghosted: Tensor) -> Tensor:
        """(…, 2, n0, n1) of fields with a row of neighbours around them."""
        middle = ghosted[..., 1:-1, 1:-1]
        around = ghosted[..., 2:, 1:-1] + ghosted[..., :-2, 1:-1]
        around = around + ghosted[..., 1:-1, 2:] + ghosted[..., 1:-1, :-2]
        return self.diffusion * (around - 4 * middle)

    def reaction(self, y: Tensor) -> Tensor:
        """(…, 2, n0, n1) of fields."""
        return RATE * self.network(y.movedim(-3, -1) / self.typical).movedim(-1, -3)

    def local(self, t: Tensor, ghosted: Tensor) -> Tensor:
        return self.diffused(ghosted) + self.reaction(ghosted[..., 1:-1, 1:-1])

    def solved(self, y0: Tensor, times: Tensor, rtol: float = 1e-4) -> Tensor:
        """(times, 2, n0, n1) by BDF, with GMRES and algebraic multigrid for the Jacobian."""
        linear = GMRES(Assembled(self.rhs, "gamg"))
        y = odeint(self.rhs, y0, times, method="bdf3", rtol=rtol, atol=rtol / 100, linear=linear)
        assert isinstance(y, Tensor)
        return y


def timed(weights: dict[str, Tensor], size: int) -> dict[str, float]:
    """A solve and its gradient from a smooth field; the slowest process counts."""
    model = Model(size)
    model.network.load_state_dict(weights)
    y0 = model.field.create(lambda x, y: [1 - 0.5 * _wave(x, y), 0.25 * _wave(x, y)])
    times = torch.linspace(0.0, SPAN, OUTPUTS, dtype=torch.float64)
    model.solved(y0, times[:2])  # once, so that nothing is made for the first time
    began = time.perf_counter(), time.process_time()
    loss = model.field.sum(model.solved(y0, times)[-1] ** 2)
    loss.backward()
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    gradient = torch.cat([p.grad.ravel() for p in model.network.parameters() if p.grad is not None])
    return {
        "size": size,
        "wall_s": wall,
        "cpu_s": cpu,
        "loss": float(loss.detach()),
        "gradient": float(gradient.norm()),
    }


def _wave(x: Any, y: Any) -> Any:
    return np.sin(np.pi * np.asarray(x)) ** 2 * np.sin(np.pi * np.asarray(y)) ** 2


def main() -> None:
    torch.set_num_threads(1)
    weights = torch.load(sys.argv[1])
    rows = [timed(weights, int(size)) for size in sys.argv[2:]]
    if Model(int(sys.argv[2])).field.rank == 0:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
