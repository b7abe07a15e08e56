"""A driven pendulum, whose angle passes through zero at times that depend on all inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stiffml import Newton

TIGHT = Newton(rtol=1e-13, atol=1e-16)


class Pendulum(nn.Module):
    """Damped and driven."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor([1.3, 0.4], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        angle, speed = y[..., :1], y[..., 1:]
        drive = 0.2 * torch.cos(2 * t)
        return torch.cat([speed, -self.k[0] * torch.sin(angle) - self.k[1] * speed + drive], dim=-1)


Y0 = torch.tensor([1.0, 0.3], dtype=torch.float64)
