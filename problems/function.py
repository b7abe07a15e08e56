"""A problem's right-hand side as a module whose trainable parameters carry their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Rhs = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]


class ProblemFunction(nn.Module):
    """func(t, y) = rhs(t, y, p), p by name: those in ``trainable`` as parameters, the others as buffers."""

    def __init__(self, rhs: Rhs, values: Mapping[str, Any], trainable: Iterable[str]) -> None:
        super().__init__()
        self.rhs = rhs
        trainable = set(trainable)
        for name, number in values.items():
            value = torch.tensor(number, dtype=torch.float64)
            if name in trainable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self._names = tuple(values)

    def values(self) -> dict[str, Tensor]:
        """The parameters, trainable or not, by name."""
        return {name: getattr(self, name) for name in self._names}

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.rhs(t, y, self.values())


class PartFunction(nn.Module):
    """One part of a right-hand side, with the parameters of the whole."""

    def __init__(self, whole: ProblemFunction, part: Rhs) -> None:
        super().__init__()
        self.whole = whole
        self.part = part

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.part(t, y, self.whole.values())
