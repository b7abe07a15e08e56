"""A network with decay, whole and in two parts."""

from __future__ import annotations

import torch
from small_problems import SmallNetwork
from torch import Tensor, nn

from stiffml import Split


class Part(nn.Module):
    """The stiff or the other part of a network with decay."""

    def __init__(self, network: nn.Module, rates: nn.Parameter, stiff: bool, other: bool) -> None:
        super().__init__()
        self.network, self.rates, self.stiff, self.other = network, rates, stiff, other

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        value = -self.rates * y if self.stiff else torch.zeros_like(y)
        return value + self.network(t, y) if self.other else value


def parts() -> tuple[Part, Split]:
    network, rates = SmallNetwork(), nn.Parameter(torch.tensor([5.0, 2.0, 30.0], dtype=torch.float64))
    whole = Part(network, rates, True, True)
    return whole, Split(Part(network, rates, True, False), Part(network, rates, False, True))


WHOLE, SPLIT = parts()
