"""Rate constants of temperature, and networks whose weights are reaction orders and stoichiometry."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.checks import array, described, number, whole
from stiffml.closures.components import invariant_rows, named, places
from stiffml.closures.conservation import constraints

GAS_CONSTANT = 8.31446261815324
"""J/mol/K."""


class Arrhenius(nn.Module):
    """Rate constants k = A T^b exp(−E/(R T)), trainable; arrhenius(T) -> (…, r) from T (…) in K.

    What is learned is ln k at a reference temperature, b, and E/(R T_ref): A and E alone are nearly
    indistinguishable in data of a narrow range of temperatures, these three are not.

    Parameters
    ----------
    A : array_like
        (r,) positive, in units of k and K^−b.
    b, E : array_like
        (r,) or one number; E in J/mol. Default 0.
    reference : float
        K; the middle of the temperatures at hand. Default 1000.

    Examples
    --------
    >>> import torch
    >>> from stiffml.closures import Arrhenius
    >>> k = Arrhenius([1e10], E=8.31446e4)
    >>> k(torch.tensor(1000.0).double()).item() / (1e10 * 2.718281828**-10)  # doctest: +ELLIPSIS
    1.0000...
    """

    def __init__(self, A: Any, b: Any = 0.0, E: Any = 0.0, *, reference: float = 1000.0) -> None:
        super().__init__()
        A = array("Arrhenius: A", A).reshape(-1)
        if not len(A) or (A <= 0).any():
            raise ValueError(f"Arrhenius: A must be positive, not {described(A)}")
        try:
            b, E = (
                np.broadcast_to(array(f"Arrhenius: {name}", x), A.shape) for name, x in (("b", b), ("E", E))
            )
        except ValueError as error:
            raise ValueError(f"Arrhenius: b and E must be numbers, or one for each A: {error}") from error
        self.reference = number("Arrhenius: reference", reference, above=0)
        unit = GAS_CONSTANT * self.reference
        self.log_k = nn.Parameter(torch.from_numpy(np.log(A) + b * math.log(self.reference) - E / unit))
        self.b = nn.Parameter(torch.from_numpy(b.copy()))
        self.energy = nn.Parameter(torch.from_numpy(E / unit))

    def forward(self, T: Tensor) -> Tensor:
        ratio = T.unsqueeze(-1) / self.reference
        return torch.exp(self.log_k + self.b * ratio.log() + self.energy * (1 - 1 / ratio))

    @property
    def A(self) -> Tensor:
        """(r,)"""
        return torch.exp(self.log_k - self.b * math.log(self.reference) + self.energy)

    @property
    def E(self) -> Tensor:
        """(r,) in J/mol."""
        return self.energy * (GAS_CONSTANT * self.reference)


class CRNN(nn.Module):
    """A chemical reaction neural network: each hidden unit is a reaction, dy_i/dt = size_i Σ_r ν_ri rate_r.

    ::

        rate_r = exp(ln k_r(T) + Σ_i o_ri ln max(y_i/size_i, floor))

    of W. Ji & S. Deng, Autonomous discovery of unknown reaction pathways from data by chemical reaction
    neural network, J. Phys. Chem. A 125 (2021) 1082. The orders are o = max(−ν, 0): what is consumed
    determines the rate. Below the floor a rate is linear in each component that it consumes, and 0 at 0, so
    that no component at 0 falls. (In the paper the rate stays that of the floor there.)

    Parameters
    ----------
    size : array_like
        (n,) typical magnitude of each species; ν is in these units.
    reactions : int
    temperature : float or int or str, optional
        K of all states; or the component of the state that holds it, by name or number, whose rate is 0 here
        and whose ``size`` does not count. Default: rates do not depend on temperature.
    reference : float, optional
        K, where ln k is what is learned, as of :class:`Arrhenius`; for a temperature in the state, the middle
        of those at hand: k and its activation energy are else nearly indistinguishable. Default 1000.
    components : sequence of str, optional
    conserve : mapping or array_like, optional
        As of :class:`Closure`: ν is projected on what conserves, nearest in units of ``size``, and orders
        follow the projected ν.
    floor : float
        Of y/size. Default 1e-6.
    seed : int
        ν begins normal with deviation 0.5, ln k at 0, activation energies at 0.

    Examples
    --------
    >>> import torch
    >>> from stiffml.closures import CRNN
    >>> model = CRNN(torch.ones(3), 2, conserve=torch.ones(1, 3))
    >>> y = torch.tensor([1.0, 0.5, 0.0]).double()
    >>> bool(model(torch.tensor(0.0), y).sum().abs() < 1e-15), bool(model(torch.tensor(0.0), y)[2] >= 0)
    (True, True)
    """

    size: Tensor
    basis: Tensor

    def __init__(
        self,
        size: Any,
        reactions: int,
        *,
        temperature: Any = None,
        reference: float | None = None,
        components: Any = None,
        conserve: Any = None,
        floor: float = 1e-6,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = array("CRNN: size", size)
        if sizes.ndim != 1 or (sizes <= 0).any():
            raise ValueError(
                f"CRNN: size must be positive, one number for each component, not {described(size)}"
            )
        n, r = len(sizes), whole("CRNN: reactions", reactions)
        names = named(components, n)
        self.floor = number("CRNN: floor", floor, above=0)
        self.place, self.fixed = _temperature(temperature, names)
        self.register_buffer("size", torch.from_numpy(sizes.copy()))
        rows = invariant_rows(conserve, n)
        if self.place is not None:  # the temperature takes part in no reaction
            rows = np.concatenate([rows, np.eye(n)[[self.place]] / sizes])
        self.register_buffer("basis", torch.from_numpy(constraints(rows, sizes).copy()))
        generator = torch.Generator().manual_seed(whole("seed", seed, least=0))
        self.weights = nn.Parameter(0.5 * torch.randn(r, n, generator=generator, dtype=torch.float64))
        if reference is not None and self.place is None:
            raise ValueError(
                "CRNN: reference is for a temperature that is a component of the state; leave it out"
            )
        at = self.fixed or (1000.0 if reference is None else number("CRNN: reference", reference, above=0))
        self.constants = Arrhenius(np.ones(r), reference=at)
        if temperature is None or self.place is None:  # at one temperature b and E cannot be told from A
            self.constants.b.requires_grad_(False)
            self.constants.energy.requires_grad_(False)

    @property
    def stoichiometry(self) -> Tensor:
        """(r, n) ν, in units of ``size``: consumed species negative."""
        return self.weights - (self.weights @ self.basis.mT) @ self.basis

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        nu = self.stoichiometry
        z = y / self.size
        orders = torch.relu(-nu)
        T = torch.full_like(y[..., 0], self.fixed or 1000.0) if self.place is None else y[..., self.place]
        if self.place is not None:
            z = torch.where(torch.arange(z.shape[-1], device=z.device) == self.place, torch.ones_like(z), z)
        rate = self.constants(T) * torch.exp(z.clamp(min=self.floor).log() @ orders.mT)
        low = (z / self.floor).clamp(min=0.0, max=1.0)  # 1 above the floor
        empty = torch.where(orders > 0, low.unsqueeze(-2), 1.0).prod(dim=-1)
        return self.size * ((rate * empty) @ nu)


def _temperature(value: Any, names: tuple[str, ...]) -> tuple[int | None, float | None]:
    """The component that holds it, or the number that it is."""
    if value is None:
        return None, None
    if isinstance(value, str | int) and not isinstance(value, bool):
        return places("CRNN: temperature", value, names)[0], None
    return None, number("CRNN: temperature", value, above=0)
