"""A problem's right-hand side as a module whose trainable parameters carry their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stiffml.checks import described, flag
from stiffml.display import readable

Rhs = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]


@readable
@dataclass(frozen=True)
class Parts:
    """A right-hand side as implicit(t, y, p) + explicit(t, y, p).

    Parameters
    ----------
    implicit, explicit : callable
        (t, y, p) -> a part of dy/dt, in torch, batched over leading dimensions of y.
    linear : bool
        Whether the first is linear in y. Default False.

    Examples
    --------
    >>> import problems
    >>> parts = problems.Parts(implicit=lambda t, y, p: -1e3 * y, explicit=lambda t, y, p: y.sin())
    >>> rhs = lambda t, y, p: parts.implicit(t, y, p) + parts.explicit(t, y, p)
    >>> problem = problems.Problem("split", rhs, np.ones(1), (0.0, 1.0), parts=parts)
    >>> problem.solve(method="arkimex-3", rtol=1e-4).success
    True
    """

    implicit: Rhs
    explicit: Rhs
    linear: bool = False

    def __post_init__(self) -> None:
        for name in ("implicit", "explicit"):
            if not callable(getattr(self, name)):
                raise TypeError(f"Parts: {name} must be callable, not {described(getattr(self, name))}")
        flag("Parts: linear", self.linear)


class ProblemFunction(nn.Module):
    """func(t, y) = rhs(t, y, p). Values named in ``trainable`` are parameters, the others buffers."""

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
