"""NASA polynomials of all species of a mixture at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from problems.chemistry.specification import Species
from problems.chemistry.units import GAS_CONSTANT

_EXPONENTS = (0.0, 1.0, 2.0, 3.0, 4.0, -1.0)

INVERSE, LOGARITHM = 5, 6
"""Where a basis holds 1/T and ln T."""


class Thermodynamics(nn.Module):
    """Dimensionless heat capacities, enthalpies, entropies and Gibbs functions of k species.

    With NASA's a0 … a6 (B. J. McBride, S. Gordon, M. A. Reno, NASA TM-4513, 1993)

        cp/R = a0 + a1 T + a2 T² + a3 T³ + a4 T⁴
        h/RT = a0 + a1/2 T + a2/3 T² + a3/4 T³ + a4/5 T⁴ + a5/T
        s/R = a0 ln T + a1 T + a2/2 T² + a3/3 T³ + a4/4 T⁴ + a6

    each is a matrix product with the basis (1, T, T², T³, T⁴, 1/T, ln T). Both temperature ranges are
    evaluated and one is picked, so that no branch depends on a tensor; both are finite everywhere.
    """

    middle: Tensor
    mixing: Tensor
    entropies: Tensor
    exponents: Tensor

    def __init__(self, species: Sequence[Species]) -> None:
        super().__init__()
        self.register_buffer("exponents", _float64(_EXPONENTS), persistent=False)
        self.register_buffer("middle", _float64([s.middle for s in species]), persistent=False)
        mixing, entropies = [], []
        for rows in ([s.low for s in species], [s.high for s in species]):
            a = _float64(rows).reshape(-1, 7)
            heat = a * _float64([1, 1, 1, 1, 1, 0, 0])
            enthalpy = a * _float64([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1, 0])
            entropy = a * _float64([0, 1, 1 / 2, 1 / 3, 1 / 4, 0, 0])
            entropy[:, 0], entropy[:, LOGARITHM] = a[:, 6], a[:, 0]
            # g/RT + ln(RT/p0). Products less reactants of a reaction, this is -ln Kc, with Kc in kmol/m³.
            gibbs = enthalpy - entropy
            gibbs[:, 0] += _float64([math.log(GAS_CONSTANT / s.reference_pressure) for s in species])
            gibbs[:, LOGARITHM] += 1
            mixing += [heat, enthalpy, gibbs]
            entropies.append(entropy)
        self.register_buffer("mixing", torch.cat(mixing).T.contiguous(), persistent=False)  # (7, 6 k)
        self.register_buffer("entropies", torch.cat(entropies).T.contiguous(), persistent=False)  # (7, 2 k)

    def basis(self, T: Tensor) -> Tensor:
        """(…, 7) from T (…, 1) in K."""
        return torch.cat([T.pow(self.exponents), T.log()], dim=-1)

    def mixture(self, T: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """cp/R, h/RT and g/RT + ln(RT/p0), each (…, k), at T (…, 1); p0 is the reference pressure.

        The last gives equilibrium constants: with x its sum over a reaction's products less that over its
        reactants, Kc = exp(-x), in kmol/m³.
        """
        both = basis @ self.mixing
        low, high = both.reshape(*both.shape[:-1], 2, 3, -1).unbind(-3)
        heat, enthalpy, gibbs = torch.where((self.middle < T).unsqueeze(-2), high, low).unbind(-2)
        return heat, enthalpy, gibbs

    def entropy(self, T: Tensor, basis: Tensor) -> Tensor:
        """s/R (…, k) at the reference pressure, at T (…, 1)."""
        low, high = (basis @ self.entropies).chunk(2, dim=-1)
        return torch.where(self.middle < T, high, low)


def _float64(values: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
