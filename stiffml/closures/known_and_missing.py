"""The sum of a known and a missing part, whatever the missing one is made of."""

from __future__ import annotations

import abc
from collections.abc import Callable

from torch import Tensor, nn

from stiffml.closures.heads import Rates

Known = Callable[[Tensor, Tensor], Tensor]
"""known(t, y) -> dy/dt in the shape of y."""


class KnownAndMissing(nn.Module, abc.ABC):
    """f(t, y) = known(t, y) + missing(t, y).

    Attributes
    ----------
    known : callable or None
    network : nn.Module
        From features to the numbers that ``rates`` makes rates of.
    rates : Rates
    components, where : tuple of str
        All components, and those that the missing part acts on.
    """

    known: Known | None
    network: nn.Module
    rates: Rates
    components: tuple[str, ...]
    where: tuple[str, ...]

    @abc.abstractmethod
    def missing(self, t: Tensor, y: Tensor) -> Tensor:
        """The missing part of dy/dt, in the shape of y."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        missing = self.missing(t, y)
        return missing if self.known is None else self.known(t, y) + missing
