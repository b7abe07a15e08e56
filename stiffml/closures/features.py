"""What a network is shown of time and state."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stiffml.checks import number
from stiffml.closures.components import beside, magnitudes, named, places

_LOG_UNIT = 5.0
"""Divides logarithms, so that a range from 1e-6 to 1 becomes one from −2.8 to 0."""


class Features(nn.Module, abc.ABC):
    """features(t, y) -> (…, count), from y (…, n) and t of one number or one for each state.

    Attributes
    ----------
    count : int
        Of numbers for each state.

    Examples
    --------
    >>> from stiffml.closures.features import Features
    >>> class Squares(Features):
    ...     def __init__(self, typical):
    ...         super().__init__(typical, blocks=2, time=None, of=None)  # blocks of n numbers each
    ...
    ...     def of_state(self, z):
    ...         return [z, z**2]
    >>> Squares([1.0, 1e-4])(t[0], torch.tensor([0.5, 1e-4]).double())
    tensor([0.5000, 1.0000, 0.2500, 1.0000], dtype=torch.float64)
    """

    typical: Tensor
    seen: Tensor
    count: int

    def __init__(self, typical: Any, blocks: int, time: float | None, of: Any) -> None:
        super().__init__()
        kind = type(self).__name__
        self.register_buffer("typical", magnitudes(f"{kind}: typical", typical))
        chosen = places(f"{kind}: of", of, named(None, len(self.typical)))
        self.register_buffer("seen", torch.tensor(chosen), persistent=False)
        self.time = None if time is None else number(f"{kind}: time", time, above=0)
        self.count = blocks * len(chosen) + (time is not None)

    @abc.abstractmethod
    def of_state(self, z: Tensor) -> list[Tensor]:
        """Parts of the features, from states in units of ``typical``."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        z = y / self.typical
        if len(self.seen) < len(self.typical):
            z = z.index_select(-1, self.seen)
        parts = self.of_state(z)
        if self.time is not None:
            parts.append(beside(t, y) / self.time)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class LinearFeatures(Features):
    """y/typical.

    Parameters
    ----------
    typical : array_like
        (n,) typical magnitude of each component, such as the largest of its observations.
    time : float, optional
        Where the network is to see time too: t/time.
    of : sequence of int, optional
        Numbers of the components that are shown. Default: all. Of a reaction that is missing, what determines
        its rate is what it consumes, and that lacks something: showing only ``Closure(where=…)`` leaves fewer
        weights that data do not determine. On POLLU rates at states never seen were then 5 times as accurate.

    Examples
    --------
    >>> from stiffml.closures import LinearFeatures
    >>> LinearFeatures([1.0, 1e-4], time=10.0)(torch.tensor(5.0), torch.tensor([0.5, 1e-4]).double())
    tensor([0.5000, 1.0000, 0.5000], dtype=torch.float64)
    """

    def __init__(self, typical: Any, *, time: float | None = None, of: Sequence[int] | None = None) -> None:
        super().__init__(typical, 1, time, of)

    def of_state(self, z: Tensor) -> list[Tensor]:
        return [z]


class LogFeatures(Features):
    """ln √(z² + floor²)/5 with z = y/typical, and z itself beside it.

    Rates of stiff chemistry are powers of concentrations that span decades: logarithms show the decades, and
    z what is near 0. Fits of Robertson's problem succeeded with both, and less often with one of them.

    Parameters
    ----------
    typical, time, of
        As of :class:`LinearFeatures`.
    floor : float
        Of z, below which the logarithm levels off. Default 1e-6. Where states of data do not come near 0 but
        their beginning is 0, take 1e-2: a network is then not asked about what is far from all that it saw.
    linear : bool
        Whether z is among the features. Default True.

    Examples
    --------
    >>> import torch
    >>> from stiffml.closures import LogFeatures
    >>> features = LogFeatures([1.0, 1e-4])
    >>> features.count, features(torch.tensor(0.0), torch.tensor([0.1, 0.0]).double())
    (4, tensor([ 0.1000,  0.0000, -0.4605, -2.7631], dtype=torch.float64))
    """

    def __init__(
        self,
        typical: Any,
        *,
        floor: float = 1e-6,
        linear: bool = True,
        time: float | None = None,
        of: Sequence[int] | None = None,
    ) -> None:
        super().__init__(typical, 1 + bool(linear), time, of)
        self.floor = number("LogFeatures: floor", floor, above=0)
        self.linear = bool(linear)

    def of_state(self, z: Tensor) -> list[Tensor]:
        logarithm = torch.log(z.square() + self.floor**2) / (2 * _LOG_UNIT)
        return [z, logarithm] if self.linear else [logarithm]
