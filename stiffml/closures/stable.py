"""A linear part that is stable whatever is learned, to be taken implicitly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stiffml.checks import array, described
from stiffml.closures.components import magnitudes
from stiffml.system.split import Split


class StableLinear(nn.Module):
    """dz/dt = ((S − Sᵀ)/2 − L Lᵀ) z with z = y/typical, L lower triangular: no direction grows.

    |z|² falls, as its derivative −2 |Lᵀ z|² says, whatever S and L are, both of which are learned.
    :meth:`split` has this part taken implicitly and a closure explicitly, by ``arkimex-…`` methods, which
    then factorise one matrix for each step size.

    Parameters
    ----------
    typical : array_like
        (n,) typical magnitude of each component.
    rates : array_like
        (n,) or one number, positive: the rates at which components decay at first, 1 per unit of time.

    Examples
    --------
    >>> import torch, stiffml
    >>> from stiffml.closures import Closure, Linear, StableLinear
    >>> model = StableLinear([1.0, 1.0], rates=[1.0, 1e4]).split(
    ...     Closure(None, [8], typical=[1.0, 1.0], head=Linear()))
    >>> y0 = torch.ones(2, dtype=torch.float64)
    >>> t = torch.linspace(0, 1, 3, dtype=torch.float64)
    >>> model.linear, stiffml.solve(model, y0, t, method="arkimex-4", rtol=1e-3).status.name
    (True, 'SUCCESS')
    """

    typical: Tensor

    def __init__(self, typical: Any, rates: Any) -> None:
        super().__init__()
        sizes = magnitudes("StableLinear: typical", typical)
        n = len(sizes)
        self.register_buffer("typical", sizes)
        start = magnitudes("StableLinear: rates", array("StableLinear: rates", rates), n).sqrt()
        self.lower = nn.Parameter(torch.diag(start))
        self.skew = nn.Parameter(torch.zeros(n, n, dtype=torch.float64))

    @property
    def matrix(self) -> Tensor:
        """(n, n) of dy/dt = matrix · y."""
        lower = self.lower.tril()
        inner = (self.skew - self.skew.mT) / 2 - lower @ lower.mT
        return self.typical[:, None] * inner / self.typical

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.matrix.mT

    def split(self, func: Callable) -> Split:
        """``Split(self, func, linear=True)``."""
        if not callable(func):
            raise TypeError(f"func must be callable as func(t, y), not {described(func)}")
        return Split(self, func, linear=True)
