"""The right-hand sides of the comparison of explicit methods: a module, y0, t, tolerance, steps of rk4."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class System:
    """``rk4`` is the number of its steps; ``rtol``, also as atol, those of dopri5."""

    func: nn.Module
    y0: Tensor
    t: Tensor
    rtol: float
    rk4: int


class ConvBlock(nn.Module):
    """The block of an ODE network for images: two convolutions with time as a channel, and norms."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(32, channels) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(channels + 1, channels, 3, padding=1) for _ in range(2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        for norm, conv in zip(self.norms[:2], self.convs, strict=True):
            y = torch.relu(norm(y))
            y = conv(torch.cat([torch.ones_like(y[:, :1]) * t, y], 1))
        return self.norms[2](y)


class Squeeze(nn.Module):
    """A fire module: squeezed channels, then two kinds of expansion."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.one = nn.Conv2d(channels // 4, channels // 2, 1)
        self.three = nn.Conv2d(channels // 4, channels // 2, 3, padding=1)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        squeezed = torch.relu(self.squeeze(self.norm(y)))
        return torch.tanh(torch.cat([self.one(squeezed), self.three(squeezed)], 1))


class Flow(nn.Module):
    """A continuous normalising flow: samples and their log density, the last component.

    The trace is exact, or with ``noise`` (samples, dims) Hutchinson's estimate.
    """

    def __init__(self, dims: int, hidden: int, noise: Tensor | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dims + 1, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, dims),
        )
        self.dims = dims
        self.register_buffer("noise", noise)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            z = y[:, : self.dims]
            if not z.requires_grad:
                z = z.detach().requires_grad_()
            slope = self.net(torch.cat([z, t.expand(len(z), 1)], 1))
            if self.noise is None:
                parts = [
                    torch.autograd.grad(slope[:, i].sum(), z, create_graph=True)[0][:, i]
                    for i in range(self.dims)
                ]
                trace = torch.stack(parts).sum(0)
            else:
                (along,) = torch.autograd.grad(slope, z, self.noise, create_graph=True)
                trace = (along * self.noise).sum(1)
        return torch.cat([slope, -trace[:, None]], 1)


class Latent(nn.Module):
    """The dynamics of a latent ODE."""

    def __init__(self, width: int = 4, hidden: int = 20) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, width)
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


def _flow(dims: int, samples: int, hidden: int, hutchinson: bool = False) -> System:
    noise = torch.randn(samples, dims).sign() if hutchinson else None
    y0 = torch.cat([torch.randn(samples, dims), torch.zeros(samples, 1)], 1)
    return System(Flow(dims, hidden, noise), y0, torch.tensor([0.0, 1.0]), 1e-4, 10)


SYSTEMS: dict[str, Callable[[], System]] = {
    "convolutional block": lambda: System(
        ConvBlock(), torch.randn(16, 64, 7, 7), torch.tensor([0.0, 1.0]), 1e-3, 4
    ),
    "CNF, 2 dims": lambda: _flow(2, 500, 64),
    "CNF, 43 dims": lambda: _flow(43, 20, 100),
    "FFJORD, 63 dims": lambda: _flow(63, 200, 128, hutchinson=True),
    "SqueezeNext block": lambda: System(
        Squeeze(), torch.randn(16, 32, 12, 12), torch.tensor([0.0, 1.0]), 1e-4, 8
    ),
    "latent ODE, 100 outputs": lambda: System(
        Latent(), torch.randn(1000, 4), torch.linspace(0, 1.9, 100), 1e-4, 99
    ),
}
