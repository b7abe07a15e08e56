"""The right-hand sides of the small systems as torch modules, whose parameter ``p`` the constants are."""

from __future__ import annotations

import torch
from hydrogen import PRESSURE
from systems import System
from torch import Tensor, nn

from problems.chemistry import GAS_CONSTANT, Mechanism
from problems.chemistry.reactors import constant_pressure


class ByComponents(nn.Module):
    """The equations that all sides read."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.rhs, self.p = system.rhs, nn.Parameter(torch.tensor(system.p))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        assert self.rhs is not None
        return torch.stack(self.rhs(t, y.unbind(-1), self.p.unbind()), dim=-1)


class Hydrogen(nn.Module):
    """Cantera's mechanism as the library of problems evaluates it."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.mechanism = Mechanism.from_yaml("h2o2.yaml")
        self.register_buffer("factor", torch.tensor([GAS_CONSTANT / PRESSURE], dtype=torch.float64))
        self.p = nn.Parameter(torch.tensor(system.p))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return constant_pressure(self.mechanism, self.factor, y, {"log_A": self.mechanism.log_A + self.p})


def model_of(system: System) -> nn.Module:
    """The module of a system."""
    return Hydrogen(system) if system.rhs is None else ByComponents(system)
