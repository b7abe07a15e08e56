"""The sum of a known and a missing part, whatever the missing one is made of."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from stiffml.closures.heads import Rates

Known = Callable[[Tensor, Tensor], Tensor]
"""known(t, y) -> dy/dt in the shape of y."""


@runtime_checkable
class WithDependent(Protocol):
    """A known part of which some components follow from others, as a temperature from species by their heat.

    Attributes
    ----------
    dependent : tuple of str
        Their names.

    Examples
    --------
    >>> from problems.chemistry import ConstantPressureReactor, Mechanism
    >>> from stiffml.closures import WithDependent
    >>> isinstance(ConstantPressureReactor(Mechanism.from_yaml("h2o2.yaml")), WithDependent)
    True
    """

    dependent: tuple[str, ...]

    def follow(self, t: Tensor, y: Tensor, rates: Tensor) -> Tensor:
        """Rates (…, n) of further physics, with those of the dependent components that follow from others."""
        ...


def dependent_of(known: Known | None, components: Sequence[str]) -> tuple[int, ...]:
    """The places of what follows from other components.

    Raises
    ------
    ValueError
        If ``known`` names one that is not among the components.
    """
    if not isinstance(known, WithDependent):
        return ()
    unknown = [name for name in known.dependent if name not in components]
    if unknown:
        raise ValueError(
            f"components: {unknown[0]}, which follows from others in known, is not among "
            f"{', '.join(components)}; name the components as known does"
        )
    return tuple(components.index(name) for name in known.dependent)


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
