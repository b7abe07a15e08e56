"""What tests/training kill: ``kept_training_script.py FOLDER ITERATIONS`` trains there, or resumes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from stiffml import KeptSteps, ODEBlock, solve
from stiffml.training import Trainer

D = torch.float64
T = torch.tensor([0.0, 0.3, 2.0], dtype=D)
START = torch.tensor([1.5, 0.3], dtype=D)
TOLERANCES = {"rtol": 1e-4, "atol": 1e-5}


class Oscillator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([5.0, 1.0], dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        (x, v), (mu, a) = y.unbind(-1), self.p
        return torch.stack([v, mu * ((1 - x**2) * v - x) + a * torch.sin(3 * t)], dim=-1)


def training(folder: Path) -> tuple[Trainer, KeptSteps, KeptSteps]:
    """Two solves in an iteration: by a block, whose state has its steps, and by a solve with others."""
    block = ODEBlock(Oscillator(), T, method="bdf3", steps=KeptSteps(renew=5), **TOLERANCES)
    kept = KeptSteps(renew=4)

    def loss() -> Tensor:
        by_solve = solve(block.func, 0.8 * START, T, method="dirk-es324sal", steps=kept, **TOLERANCES).y
        assert isinstance(by_solve, Tensor)
        return (block(START)[-1] - 0.5).pow(2).sum() + by_solve[-1].pow(2).sum()

    optimizer = torch.optim.Adam(block.parameters(), lr=0.05)
    trainer = Trainer(block, optimizer, loss, folder, {"what": "kept steps"}, save_every=3, kept=[kept])
    return trainer, kept, block.kept_steps.kept


if __name__ == "__main__":
    trainer, _, _ = training(Path(sys.argv[1]))
    trainer.resume()
    trainer.run(int(sys.argv[2]), report=lambda i, loss: time.sleep(0.05))
