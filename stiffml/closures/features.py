"""What a network is shown of time and state."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor, nn

from stiffml.checks import number
from stiffml.closures.components import beside, magnitudes

_LOG_UNIT = 5.0
"""Divides logarithms, so that a range from 1e-6 to 1 becomes one from −2.8 to 0."""


class Features(nn.Module, abc.ABC):
    """features(t, y) -> (…, count), from y (…, n) and t of one number or one for each state.

    Attributes
    ----------
    count : int
        Of numbers for each state.
    """

    typical: Tensor
    count: int

    def __init__(self, typical: Any, blocks: int, time: float | None) -> None:
        super().__init__()
        self.register_buffer("typical", magnitudes(f"{type(self).__name__}: typical", typical))
        self.time = None if time is None else number(f"{type(self).__name__}: time", time, above=0)
        self.count = blocks * len(self.typical) + (time is not None)

    @abc.abstractmethod
    def of_state(self, z: Tensor) -> list[Tensor]:
        """Parts of the features, from states in units of ``typical``."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        parts = self.of_state(y / self.typical)
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
    """

    def __init__(self, typical: Any, *, time: float | None = None) -> None:
        super().__init__(typical, 1, time)

    def of_state(self, z: Tensor) -> list[Tensor]:
        return [z]


class LogFeatures(Features):
    """ln √(z² + floor²)/5 with z = y/typical, and z itself beside it.

    Rates of stiff chemistry are powers of concentrations that span decades: logarithms show the decades, and
    z what is near 0. Fits of Robertson's problem succeeded with both, and less often with one of them.

    Parameters
    ----------
    typical, time
        As of :class:`LinearFeatures`.
    floor : float
        Of z, below which the logarithm levels off. Default 1e-6.
    linear : bool
        Whether z is among the features. Default True.

    Example
    -------
    >>> import torch
    >>> from stiffml.closures import LogFeatures
    >>> features = LogFeatures([1.0, 1e-4])
    >>> features.count, features(torch.tensor(0.0), torch.tensor([0.1, 0.0]).double())
    (4, tensor([ 0.1000,  0.0000, -0.4605, -2.7631], dtype=torch.float64))
    """

    def __init__(
        self, typical: Any, *, floor: float = 1e-6, linear: bool = True, time: float | None = None
    ) -> None:
        super().__init__(typical, 1 + bool(linear), time)
        self.floor = number("LogFeatures: floor", floor, above=0)
        self.linear = bool(linear)

    def of_state(self, z: Tensor) -> list[Tensor]:
        logarithm = torch.log(z.square() + self.floor**2) / (2 * _LOG_UNIT)
        return [z, logarithm] if self.linear else [logarithm]
