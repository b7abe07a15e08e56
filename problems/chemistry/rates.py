"""Rates of progress of all reactions of a mechanism at once, as functions of their rate parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from problems.chemistry.specification import Reaction
from problems.chemistry.thermodynamics import INVERSE, LOGARITHM
from problems.chemistry.units import GAS_CONSTANT

PARAMETERS = ("log_A", "b", "Ea", "log_A_low", "b_low", "Ea_low", "troe", "efficiencies")
"""Names of the rate parameters."""

_ZERO = 1e-200
"""Stands for an A of zero inside logarithms; the rate itself is then multiplied by zero."""

# Cantera bounds the reciprocal of Kc by 1e300. Far below, exp gives an exact zero, as irreversible
# reactions need.
_LOG_LARGEST, _LOG_NOTHING = 300 * math.log(10), -1e4


class Rates(nn.Module):
    """The structure of n reactions among k species: everything but the rate parameters.

    Attributes
    ----------
    third_body_reactions : tuple of int
        Indices, from 0, of the reactions that the rows of ``efficiencies`` belong to: those of three-body
        reactions first, then those of falloff reactions.
    falloff_reactions : tuple of int
        Indices of the reactions that ``log_A_low``, ``b_low`` and ``Ea_low`` belong to.
    troe_reactions : tuple of int
        Indices of the reactions that the rows of ``troe`` belong to: the first of ``falloff_reactions``. The
        rest have Lindemann's form.
    stoichiometry : Tensor
        (k, n) coefficients of products less those of reactants.
    """

    stoichiometry: Tensor
    factors: Tensor
    allowed: Tensor
    limit: Tensor
    one: Tensor
    falloff: Tensor
    sign: Tensor
    sign_low: Tensor
    troe_slopes: Tensor
    troe_offsets: Tensor

    def __init__(self, reactions: Sequence[Reaction], species: Sequence[str]) -> None:
        super().__init__()
        place = {name: k for k, name in enumerate(species)}
        numbered = list(enumerate(reactions))
        self.troe_reactions = tuple(i for i, r in numbered if r.falloff and r.falloff.troe)
        lindemann = tuple(i for i, r in numbered if r.falloff and not r.falloff.troe)
        self.falloff_reactions = self.troe_reactions + lindemann
        three_body = tuple(i for i, r in numbered if r.third_body and not r.falloff)
        self.third_body_reactions = three_body + self.falloff_reactions
        self._three_body = len(three_body)
        n, k = len(reactions), len(species)

        stoichiometry = torch.zeros(k, n, dtype=torch.float64)
        for i, reaction in numbered:
            for name, count in reaction.products.items():
                stoichiometry[place[name], i] += count
            for name, count in reaction.reactants.items():
                stoichiometry[place[name], i] -= count
        self._buffer("stoichiometry", stoichiometry)

        # Places in the vector (concentrations, third bodies, 1) of the factors of each rate, forward rates
        # first: molecules, filled up with 1, and the third body last.
        one = k + len(self.third_body_reactions)
        molecules = [[place[s] for s, c in r.reactants.items() for _ in range(int(c))] for r in reactions]
        molecules += [
            [place[s] for s, c in r.products.items() for _ in range(int(c))] if r.reversible else []
            for r in reactions
        ]
        slots = max((len(m) for m in molecules), default=1)
        collider = {i: k + row for row, i in enumerate(self.third_body_reactions)}
        factors = [m + [one] * (slots - len(m)) + [collider.get(j % n, one)] for j, m in enumerate(molecules)]
        places = torch.tensor(factors, dtype=torch.long).reshape(2 * n, slots + 1)
        self._shape = (slots + 1, 2 * n)
        self._buffer("factors", places.T.reshape(-1))
        # As in Cantera, a rate with two negative factors is zero, and one of more than three molecules
        # with one: the product of two negative concentrations would be a positive rate.
        self._buffer("allowed", torch.tensor([1 if len(m) <= 3 else 0 for m in molecules]))
        limits = [_LOG_LARGEST if r.reversible else _LOG_NOTHING for r in reactions]
        self._buffer("limit", torch.tensor(limits, dtype=torch.float64))
        self._buffer("one", torch.ones(1, dtype=torch.float64))
        self._buffer("falloff", torch.tensor(self.falloff_reactions, dtype=torch.long))

        # x and y of Troe's form, from the logarithms of Fcent and Pr.
        x, y = (-0.67, 1.0, -0.4), (-1.27 + 0.14 * 0.67, -0.14, 0.75 + 0.14 * 0.4)
        coefficients = torch.tensor([x, y], dtype=torch.float64).T
        self._buffer("troe_slopes", coefficients[:2].contiguous())
        self._buffer("troe_offsets", coefficients[2].contiguous())

        # Signs belong to the structure, so that log|A| can be trained; most mechanisms need none.
        sign = torch.tensor([r.rate.A for r in reactions], dtype=torch.float64).sign()
        low = [f.low.A for i in self.falloff_reactions if (f := reactions[i].falloff) is not None]
        sign_low = torch.tensor(low, dtype=torch.float64).sign().abs()  # Pr is a ratio of equal signs
        self._buffer("sign", torch.cat([sign, sign]))
        self._buffer("sign_low", sign_low)
        self._signed = bool((sign != 1).any())
        self._signed_low = bool((sign_low != 1).any())

    def _buffer(self, name: str, value: Tensor) -> None:
        """A buffer that moves with ``to`` and is not saved, since the file determines it."""
        self.register_buffer(name, value, persistent=False)

    def forward(
        self, T: Tensor, basis: Tensor, gibbs: Tensor, concentrations: Tensor, p: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Forward and reverse rates of progress in kmol/m³/s, each (…, n).

        Parameters
        ----------
        T : Tensor
            (…, 1) in K.
        basis, gibbs : Tensor
            (…, 7) and (…, k), from :class:`~problems.chemistry.thermodynamics.Thermodynamics`.
        concentrations : Tensor
            (…, k) in kmol/m³.
        p : mapping of str to Tensor
            The rate parameters, by the names in ``PARAMETERS``.
        """
        inverse, logarithm = basis.narrow(-1, INVERSE, 1), basis.narrow(-1, LOGARITHM, 1)
        log_k = _log_arrhenius(p["log_A"], p["b"], p["Ea"], inverse, logarithm)
        everything = [concentrations]
        if self.third_body_reactions:
            third = concentrations @ p["efficiencies"].mT
            if self.falloff_reactions:
                log_low = _log_arrhenius(p["log_A_low"], p["b_low"], p["Ea_low"], inverse, logarithm)
                log_ratio = log_low - log_k.index_select(-1, self.falloff)
                third, pressing = third.split((self._three_body, len(self.falloff_reactions)), dim=-1)
                everything.append(third)
                everything += self._falloff(T, inverse, pressing, log_ratio, p["troe"])
            else:
                everything.append(third)
        everything.append(self.one.expand(*concentrations.shape[:-1], 1))

        factors = torch.cat(everything, dim=-1).index_select(-1, self.factors)
        factors = factors.reshape(*factors.shape[:-1], *self._shape)
        product, *others, collider = factors.unbind(-2)
        for other in others:  # rather than prod, whose derivatives at zero are costly
            product = product * other
        if others:
            negative = (factors.narrow(-2, 0, len(others) + 1) < 0).sum(dim=-2)
            product = product.masked_fill(negative > self.allowed, 0.0)

        log_reverse = torch.clamp(log_k + gibbs @ self.stoichiometry, max=self.limit)
        rates = torch.exp(torch.cat([log_k, log_reverse], dim=-1)) * collider * product
        if self._signed:
            rates = rates * self.sign
        forward, reverse = rates.chunk(2, dim=-1)
        return forward, reverse

    def _falloff(
        self, T: Tensor, inverse: Tensor, third: Tensor, log_ratio: Tensor, troe: Tensor
    ) -> list[Tensor]:
        """What the high-pressure limits are multiplied by, Pr/(1 + Pr) F, in the order of ``falloff``.

        Pr = k0 [M] / k∞, and F is 1 in Lindemann's form.
        """
        reduced = third * torch.exp(log_ratio)
        if self._signed_low:
            reduced = reduced * self.sign_low
        lindemann = reduced / (1 + reduced)
        count = len(self.troe_reactions)
        if not count:
            return [lindemann]
        head, rest = lindemann.split((count, len(self.falloff_reactions) - count), dim=-1)
        return [head * self._broadening(T, inverse, reduced.narrow(-1, 0, count), troe), rest]

    def _broadening(self, T: Tensor, inverse: Tensor, reduced: Tensor, troe: Tensor) -> Tensor:
        """F of R. G. Gilbert, K. Luther, J. Troe (Ber. Bunsenges. Phys. Chem. 87, 1983, 169), as in Cantera.

        With x = log Pr - 0.4 - 0.67 log Fcent and y = 0.75 - 1.27 log Fcent - 0.14 x,
        log F = log Fcent / (1 + (x/y)²), and Fcent = (1 - A) exp(-T/T3) + A exp(-T/T1) + exp(-T2/T).
        """
        a, t3, t1, t2 = troe.unbind(-1)
        minus = -T
        center = torch.lerp(torch.exp(minus / t3), torch.exp(minus / t1), a) + torch.exp(-t2 * inverse)
        # Cantera's logarithm of nothing or less is -300; no derivative there may be infinity times zero.
        both = torch.stack([center.expand_as(reduced), reduced], dim=-1)
        nothing = both < 1e-100
        logs = torch.log10(both.masked_fill(nothing, 1.0)).masked_fill(nothing, -300.0)
        squares = (logs @ self.troe_slopes + self.troe_offsets).square()  # of x and y
        weight = squares.select(-1, 1) / squares.sum(dim=-1)  # no pole where y is zero
        return torch.exp(math.log(10) * logs.select(-1, 0) * weight)


def _log_arrhenius(log_A: Tensor, b: Tensor, Ea: Tensor, inverse: Tensor, logarithm: Tensor) -> Tensor:
    """ln k = ln A + b ln T - Ea/(R T)."""
    return torch.addcmul(torch.addcmul(log_A, b, logarithm), Ea, inverse, value=-1 / GAS_CONSTANT)


def initial_parameters(
    reactions: Sequence[Reaction], rates: Rates, species: Sequence[str]
) -> dict[str, Tensor]:
    """The rate parameters as the file gives them, float64.

    ``log_A``, ``b``, ``Ea`` (n,): natural logarithm of |A| in kmol, m³, s; Ea in J/kmol; the high-pressure
    limits of falloff reactions, whose low-pressure limits are ``log_A_low``, ``b_low``, ``Ea_low``.
    ``troe`` (…, 4): A, T3, T1, T2 in K. ``efficiencies`` (…, k).
    """
    falloff = [f for i in rates.falloff_reactions if (f := reactions[i].falloff) is not None]
    low = [f.low for f in falloff]
    high = [r.rate for r in reactions]
    values: dict[str, list] = {}
    for suffix, constants in (("", high), ("_low", low)):
        values[f"log_A{suffix}"] = [math.log(max(abs(c.A), _ZERO)) for c in constants]
        values[f"b{suffix}"] = [c.b for c in constants]
        values[f"Ea{suffix}"] = [c.Ea for c in constants]
    values["troe"] = [f.troe for f in falloff if f.troe is not None]
    bodies = [body for i in rates.third_body_reactions if (body := reactions[i].third_body) is not None]
    values["efficiencies"] = [[body.efficiencies.get(s, body.default) for s in species] for body in bodies]
    shapes = {"troe": (-1, 4), "efficiencies": (-1, len(species))}
    return {
        name: torch.tensor(values[name], dtype=torch.float64).reshape(shapes.get(name, (-1,)))
        for name in PARAMETERS
    }
