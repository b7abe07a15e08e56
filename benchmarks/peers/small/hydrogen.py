"""Hydrogen that ignites in air, for the comparison on small systems: equations on arrays of any library.

The mechanism is Cantera's h2o2.yaml: 10 species, 29 reactions, of which some have third bodies and one has
Troe's falloff. Its numbers are read once, by stiffml's library of problems, and handed to the other sides.
stiffml solves its library's own problem; the right-hand sides are compared before anything is timed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

PRESSURE = 101325.0
LARGEST = 300 * math.log(10)


def constants() -> dict[str, np.ndarray]:
    """The mechanism's numbers, and y0. Needs stiffml."""
    import problems
    from problems.chemistry import GAS_CONSTANT, Mechanism

    mechanism = Mechanism.from_yaml("h2o2.yaml")
    rates, thermodynamics = mechanism.rates, mechanism.thermodynamics
    names = ("log_A", "b", "Ea", "log_A_low", "b_low", "Ea_low", "troe", "efficiencies")
    found = {name: getattr(mechanism, name) for name in names}
    found |= {
        "stoichiometry": rates.stoichiometry,
        "places": rates.factors.reshape(rates._shape),
        "limit": rates.limit,
        "falloff": rates.falloff,
        "middle": thermodynamics.middle,
        "mixing": thermodynamics.mixing,
        "inverse_weights": mechanism.inverse_weights,
        "weights": mechanism.molecular_weights,
    }
    arrays = {name: tensor.detach().numpy() for name, tensor in found.items()}
    y0 = np.array(problems.load("h2air").y0, dtype=float)
    return {**arrays, "y0": y0, "gas_constant": np.array(GAS_CONSTANT)}


def slopes(xp: Any, c: Mapping[str, Any], y: Any, p: Any) -> Any:
    """dy/dt (11,) at y (11,): K and mass fractions; p (29,) is added to the logarithms of the constants A.

    ``xp`` is numpy or jax.numpy, ``c`` what :func:`constants` returned, as its arrays.
    """
    T, moles = y[0], y[1:] * c["inverse_weights"]
    volume = T * moles.sum() * c["gas_constant"] / PRESSURE
    basis = xp.stack([T**0, T, T**2, T**3, T**4, 1 / T, xp.log(T)])
    low, high = (basis @ c["mixing"]).reshape(2, 3, -1)
    heat, enthalpy, gibbs = xp.where(c["middle"] < T.real, high, low)
    source = _production(xp, c, T, basis, gibbs, moles / volume, p) * volume
    slope = -T * (enthalpy * source).sum() / (heat * moles).sum()
    return xp.concatenate([slope[None], source * c["weights"]])


def _production(xp: Any, c: Mapping[str, Any], T: Any, basis: Any, gibbs: Any, moles: Any, p: Any) -> Any:
    """Net production rates (10,) in kmol/m³/s, from concentrations (10,) in kmol/m³."""
    inverse, logarithm, falloff = basis[5], basis[6], c["falloff"]
    per_gas = inverse / c["gas_constant"]
    log_k = c["log_A"] + p + c["b"] * logarithm - c["Ea"] * per_gas
    log_low = c["log_A_low"] + c["b_low"] * logarithm - c["Ea_low"] * per_gas
    bodies = c["efficiencies"] @ moles
    plain = len(bodies) - len(falloff)
    reduced = bodies[plain:] * xp.exp(log_low - log_k[falloff])
    pressed = reduced / (1 + reduced) * _broadening(xp, T, reduced, c["troe"])
    factors = xp.concatenate([moles, bodies[:plain], pressed, xp.ones(1)])[c["places"]]
    product = xp.where((factors[:-1].real < 0).sum(axis=0) > 1, 0.0, factors[:-1].prod(axis=0))
    reverse = log_k + gibbs @ c["stoichiometry"]
    reverse = xp.where(reverse.real < c["limit"], reverse, c["limit"])
    rates = xp.exp(xp.concatenate([log_k, reverse])) * factors[-1] * product
    n = len(log_k)
    return c["stoichiometry"] @ (rates[:n] - rates[n:])


def _broadening(xp: Any, T: Any, reduced: Any, troe: Any) -> Any:
    """Troe's F of falloff reactions (Gilbert, Luther, Troe, Ber. Bunsenges. Phys. Chem. 87 (1983) 169)."""
    a, t3, t1, t2 = troe.T
    center = (1 - a) * xp.exp(-T / t3) + a * xp.exp(-T / t1) + xp.exp(-t2 / T)
    log_center, log_reduced = (_log10(xp, v) for v in (center, reduced))
    x = log_reduced - 0.4 - 0.67 * log_center
    ratio = x / (0.75 - 1.27 * log_center - 0.14 * x)
    return xp.exp(math.log(10) * log_center / (1 + ratio**2))


def _log10(xp: Any, value: Any) -> Any:
    """Cantera's logarithm of nothing is -300."""
    nothing = value.real < 1e-100
    return xp.where(nothing, -300.0, xp.log(xp.where(nothing, 1.0, value)) / math.log(10))
