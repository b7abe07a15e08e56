"""Classifiers with an ODE in the middle: what makes a state of an image, its dynamics, what reads the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHANNELS = 16


class Convolutions(nn.Module):
    """dy/dt by two 3×3 convolutions, each after a norm and with the time as one more channel."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(channels + 1, channels, 3, padding=1) for _ in range(2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        time = t.to(y).expand_as(y[:, :1])
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            y = convolution(torch.cat([time, torch.relu(norm(y))], 1))
        return y


class SqueezeNext(nn.Module):
    """dy/dt by the five convolutions of a SqueezeNext block: 1×1, 1×1, 3×1, 1×3, 1×1.

    Two of them squeeze the channels to a quarter, the last restores them (Gholami et al., arXiv 1803.10615).
    Norms are of groups of channels: those of a batch keep statistics, and f would change from call to call.
    """

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        shapes = [
            (channels, half, (1, 1)),
            (half, quarter, (1, 1)),
            (quarter, half, (3, 1)),
            (half, half, (1, 3)),
            (half, channels, (1, 1)),
        ]
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in shapes:
            layers += [
                nn.GroupNorm(4, inputs),
                nn.ReLU(),
                nn.Conv2d(inputs, outputs, kernel, padding=(kernel[0] // 2, kernel[1] // 2)),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layers(y)


def stem(side: int, channels: int = CHANNELS) -> nn.Module:
    """From images (n, 1, side, side) to states (n, channels, 8, 8) or (n, channels, 7, 7)."""
    if side == 8:
        return nn.Conv2d(1, channels, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(1, channels // 2, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
    )


def head(channels: int = CHANNELS) -> nn.Module:
    """From states to one number for each of ten digits."""
    return nn.Sequential(
        nn.GroupNorm(8, channels),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * channels, 10),
    )


class Classifier(nn.Module):
    """Stem, a block that returns states at several times, and a head that reads the last."""

    def __init__(self, side: int, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block, self.head = stem(side), block, head()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.block(self.stem(images))[-1])
