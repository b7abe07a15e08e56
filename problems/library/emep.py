"""EMEP: the chemistry of ozone above Europe, 66 species whose rates follow the sun for five days."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.library.emep_reactions import (
    DEPOSITION,
    PHOTOLYSIS,
    RATES,
    REACTIONS,
    SPECIES,
    VOC_SHARES,
    WET,
)
from problems.parameters import Parameter
from problems.problem import Problem
from problems.references import published

HOUR = 3600.0
SUNRISE, SUNSET = 4.0, 20.0
DARK = 1e-40
"""Photolysis in 1/s at night."""

LATITUDE, DECLINATION = math.radians(50.0), math.radians(23.5)
LOWEST_SUN = 0.01
"""Cosine of the zenith angle below which no day of the model comes; it keeps 1/cos finite at night."""


_SCALE = np.array(
    [
        *(1.9e10, 6.6e10, 2.8e11, 1.1e13, 3.5e13, 1e11, 1.1e11, 8.5e9, 3.9e9, 1.5e10, 8.8e10),
        *(4.8e10, 1.2e11, 3.3e12, 1.1e9, 4.1e10, 4.5e10, 3.9e11, 3.6e8, 4e10, 3.8e11, 1.2e10),
        *(5.8e7, 1.2e8, 5.6e10, 6.5e7, 4.3e7, 2.3e9, 1e7, 9.9e9, 4.8e6, 5.2e9, 2.6e7),
        *(5.9e9, 3.1e7, 3e4, 1.3e7, 0.16, 5.3e9, 5.1e9, 7.4e9, 6e11, 4.6e7, 7.6e9),
        *(2.1e7, 1.5e9, 9.3e9, 1.5e9, 4.6e9, 6.8e8, 2.7e8, 6.6e9, 1.4e9, 6.8e9, 1.7e10),
        *(2.4e9, 5e6, 2.8e9, 1.2e7, 5.6e9, 5e7, 1.1e9, 4.5e8, 2e10, 1.3e9, 1.6e8),
    ]
)
"""Largest concentrations of the five days."""


def _side(text: str) -> list[tuple[int, float]]:
    """(species, how many) of one side of a reaction."""
    terms = [term.split() for term in text.split(" + ") if term.strip()]
    return [(SPECIES.index(term[-1]), float(term[0]) if len(term) == 2 else 1.0) for term in terms]


def _tables() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Stoichiometry (reactions, 66); each reaction's first and second species, 66 where none is; its rate."""
    known = {name: at for at, name in enumerate((*RATES, *PHOTOLYSIS, *map(str, DEPOSITION)))}
    lines = [(rate, equation) for rate, equation, _ in REACTIONS]
    factors = [factor for _, _, factor in REACTIONS]
    for velocity, lost in DEPOSITION.items():
        lines += [(str(velocity), f"{name} ->") for name in lost]
    factors += [1.0] * (len(lines) - len(factors))
    stoichiometry = torch.zeros(len(lines), len(SPECIES), dtype=torch.float64)
    species = torch.full((2, len(lines)), len(SPECIES))
    for number, (_, equation) in enumerate(lines):
        consumed, produced = map(_side, equation.split("->"))
        together = [one for one, count in consumed for _ in range(round(count))]
        species[: len(together), number] = torch.tensor(together)
        for sign, side in ((-1, consumed), (1, produced)):
            for one, count in side:
                stoichiometry[number, one] += sign * count
    stoichiometry *= torch.tensor(factors, dtype=torch.float64)[:, None]
    return stoichiometry, species[0], species[1], torch.tensor([known[rate] for rate, _ in lines])


_STOICHIOMETRY, _FIRST, _SECOND, _RATE = _tables()
_POWER, _ENERGY = torch.tensor([rate[1:] for rate in RATES.values()], dtype=torch.float64).unbind(-1)
_SHADE = torch.tensor([shade for _, shade in PHOTOLYSIS.values()], dtype=torch.float64)
_VELOCITY = torch.tensor(list(DEPOSITION), dtype=torch.float64)


def _emissions() -> tuple[tuple[str, ...], Tensor]:
    """Names of what is emitted, and how much of each species (names, 66) with one of it."""
    moles = {name: share / weight for name, (share, weight) in VOC_SHARES.items()}
    into = {
        "NOx": {"NO": 1.0},
        "SO2": {"SO2": 1.0, "SA": 0.05},
        "CO": {"CO": 1.0},
        "VOC": {name: amount / sum(moles.values()) for name, amount in moles.items()},
        "isoprene": {"ISOPRE": 1.0},
    }
    return tuple(into), torch.stack([torch.from_numpy(_row(**amounts)) for amounts in into.values()])


def _row(default: float = 0.0, **values: float) -> np.ndarray:
    return np.array([values.get(name, default) for name in SPECIES])


_EMITTED, _SHARES = _emissions()


def water(hour: Tensor, T: Tensor) -> Tensor:
    """Molecules of water in a cm3: saturated at T, times a relative humidity that follows the hours."""
    latent = (597.3 - 0.57 * (T - 273.16)) * 18 / 1.986
    saturated = 6.1078 * torch.exp(-latent * (1 / T - 1 / 273.16))
    humidity = 23 * torch.sin(2.43 - 7.93e-5 * HOUR * hour) + 66.5
    return saturated * 10 / (1.38e-16 * T) * humidity


def rate_constants(t: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """Those of RATES, PHOTOLYSIS and DEPOSITION at t, in this order, in molecules, cm and s."""
    T, hour = p["T"], torch.remainder(t / HOUR, 24.0)
    day = (hour >= SUNRISE) & (hour < SUNSET)
    k = torch.exp(p["log_A"] + _POWER * torch.log(T / 300) + _ENERGY / T)
    wet = water(hour, T)
    factors = torch.stack([wet, *[1 + 1.4e-21 * wet * torch.exp(2200 / T)] * (WET - 1)])
    k = torch.cat([k[:-WET], k[-WET:] * factors])
    cosine = torch.cos((1 + hour / 12) * math.pi) * math.cos(LATITUDE) * math.cos(DECLINATION)
    sun = (cosine + math.sin(LATITUDE) * math.sin(DECLINATION)).clamp(min=LOWEST_SUN)
    light = torch.where(day, torch.exp(p["log_J"] - _SHADE / sun), DARK)
    return torch.cat([k, light, _VELOCITY * torch.where(day, 1.0, 0.25) / p["height"]])


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """Mass action, emissions into a layer of mixed air, and deposition from it."""
    with_one = torch.cat([y, torch.ones_like(y[..., :1])], dim=-1)
    rates = rate_constants(t, p)[_RATE] * with_one[..., _FIRST] * with_one[..., _SECOND]
    emitted = torch.stack([p[name] for name in _EMITTED]) @ _SHARES / p["height"]
    return rates @ _STOICHIOMETRY + emitted


def _equations() -> str:
    lines = [
        "y' = Σ stoichiometry · rate + emissions/height − v y/height",
        "k = A (T/300)^n exp(E/T),  J = A exp(−B/cos θ) from 4 to 20 h,  θ: the sun at 50° N, at midsummer",
        "k8 OD H2O;  k36 and k36M times 1 + 1.4e-21 H2O exp(2200/T);  v is four times smaller at night",
        "",
    ]
    for rate, equation, factor in REACTIONS:
        lines.append(f"{'2 ' * (factor == 2)}{rate:<5} {equation}")
    lines += [f"v = {velocity} cm/s: {' '.join(lost)}" for velocity, lost in DEPOSITION.items()]
    return "\n".join(lines)


def problem() -> Problem:
    hours = [24.0 * day + hour for day in range(5) for hour in (0.0, SUNRISE, SUNSET)]
    flux = "molecules/(cm2 s)"
    return Problem(
        name="emep",
        title="Ozone above Europe: 66 species of the EMEP model through five days",
        rhs=rhs,
        equations=_equations(),
        y0=_row(
            **dict(NO=1e9, NO2=5e9, SO2=5e9, CO=3.8e12, CH4=3.5e13, O3=5e11, OD=1e-3),
            **dict.fromkeys(("C2H6", "NC4H10", "C2H4", "C3H6", "OXYL", "HCHO", "CH3CHO", "MEK"), 1e7),
            default=1e2,
        ),
        t_span=(4 * HOUR, 116 * HOUR),
        parameters={
            "T": Parameter(298.0, "K", "temperature"),
            "NOx": Parameter(2.5e11, flux, "emission of NO"),
            "SO2": Parameter(2.5e11, flux, "emission of SO2, and a twentieth of it of sulphuric acid"),
            "CO": Parameter(2.5e12, flux, "emission of CO"),
            "VOC": Parameter(2.5e11, flux, "emission of volatile organic compounds"),
            "isoprene": Parameter(1.25e11, flux, "emission of isoprene, by plants"),
            "height": Parameter(1.2e5, "cm", "of the layer of mixed air"),
            "log_A": Parameter(
                [math.log(rate[0]) for rate in RATES.values()],
                "log of 1/s or cm3/(molecule s)",
                ", ".join(RATES),
            ),
            "log_J": Parameter(
                [math.log(one) for one, _ in PHOTOLYSIS.values()], "log of 1/s", ", ".join(PHOTOLYSIS)
            ),
        },
        components=SPECIES,
        units="molecules/cm3",
        time_units="s",
        breakpoints=tuple(hour * HOUR for hour in hours if 4 <= hour <= 116),
        bounds=(0.0, 1e15),
        scale=_SCALE,
        threshold=1e-5 * _SCALE,  # NO and OH fall by a thousand at night, and their digits count
        references=(published("emep", rtol_valid=1e-10),),
        stiffness="eigenvalues down to -7e8 (O1D in air), others between -1e5 and -1e-6, over 112 h; rates "
        "jump at sunrise, sunset and midnight",
        citation="D. Simpson, Photochemical model calculations over Europe for two extended summer periods: "
        "1985 and 1989, Atmospheric Environment 27A (1993) 921-943; J. G. Verwer & D. Simpson, Explicit "
        "methods for stiff ODEs from atmospheric chemistry, CWI report NM-R9409 (1994); Test Set "
        "for Initial Value Problem Solvers (University of Bari), problem EMEP",
    )
