"""Hydrogen and methane that ignite in air, adiabatic and at constant pressure, by Cantera's mechanisms."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from problems.chemistry import GAS_CONSTANT, ONE_ATMOSPHERE, Mechanism
from problems.chemistry.reactors import constant_pressure
from problems.library.shipped import shipped
from problems.parameters import Parameter, Values
from problems.problem import Problem

AIR = "O2:1, N2:3.76"

_RATES = {
    "log_A": ("ln of kmol, m3, s", "logarithms of the pre-exponential factors, by reaction"),
    "b": ("1", "temperature exponents"),
    "Ea": ("J/kmol", "activation energies"),
    "log_A_low": ("ln of kmol, m3, s", "the same for the low pressure limits of falloff reactions"),
    "b_low": ("1", ""),
    "Ea_low": ("J/kmol", ""),
    "troe": ("1, K, K, K", "A, T3, T1 and T2 of Troe's falloff reactions"),
    "efficiencies": ("1", "of each species as a third body"),
}


def hydrogen() -> Problem:
    return _ignition(
        name="h2air",
        title="Hydrogen that ignites in air: 10 species, 29 reactions",
        file="h2o2.yaml",
        fuel="H2",
        temperature=1000.0,
        t_span=(0.0, 1e-3),
        stiffness="eigenvalues down to -4.8e6 before the ignition and -8.3e8 after it; one of up to 2e5 is "
        "positive until then, and the delay is 3.12e-4 s",
        citation="h2o2.yaml of Cantera 3.2, from GRI-Mech; for illustration",
    )


def methane() -> Problem:
    return _ignition(
        name="ch4air",
        title="Methane that ignites in air: 53 species, 325 reactions",
        file="gri30.yaml",
        fuel="CH4",
        temperature=1400.0,
        t_span=(0.0, 1e-2),
        stiffness="eigenvalues down to about -1e9 after the ignition; the delay is 3.44e-3 s",
        citation="G. P. Smith et al., GRI-Mech 3.0, as gri30.yaml of Cantera 3.2",
    )


@functools.cache
def _mechanism(file: str) -> Mechanism:
    return Mechanism.from_yaml(file)


def _ignition(
    name: str, title: str, file: str, fuel: str, temperature: float, t_span: tuple[float, float], **about: Any
) -> Problem:
    mechanism = _mechanism(file)
    rates = tuple(name for name, _ in mechanism.named_parameters(recurse=False))

    def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        factor = GAS_CONSTANT / p["pressure"][..., None]
        return constant_pressure(mechanism, factor, y, {name: p[name] for name in rates})

    def initial(values: Values) -> np.ndarray:
        Y = mechanism.premixed(values["phi"], fuel, AIR).numpy()
        return np.concatenate([[values["temperature"]], Y])

    conditions = {
        "temperature": Parameter(temperature, "K", "at the start", initial=True),
        "phi": Parameter(1.0, "1", "equivalence ratio", initial=True),
        "pressure": Parameter(ONE_ATMOSPHERE, "Pa", "constant"),
    }
    weights = mechanism.composition * mechanism.atomic_weights[:, None] / mechanism.molecular_weights
    species = mechanism.species
    return Problem(
        name=name,
        title=title,
        rhs=rhs,
        equations=_equations(mechanism, file),
        y0=initial({key: parameter.value for key, parameter in conditions.items()}),
        initial=initial,
        t_span=t_span,
        parameters=conditions
        | {rate: Parameter(getattr(mechanism, rate).numpy(), *_RATES[rate]) for rate in rates},
        components=("T", *species),
        units=("K", *["1"] * len(species)),
        time_units="s",
        invariants={
            element: np.concatenate([[0.0], row.numpy()])
            for element, row in zip(mechanism.elements, weights, strict=True)
        },
        bounds=(0.0, np.array([5000.0, *[1.0] * len(species)])),
        scale=np.array([2000.0, *[0.1] * len(species)]),
        threshold=np.array([1.0, *[1e-9] * len(species)]),
        references=shipped(name),
        **about,
    )


def _equations(mechanism: Mechanism, file: str) -> str:
    shown = [f"{number:>4}  {text}" for number, text in enumerate(mechanism.equations, start=1)]
    if len(shown) > 40:
        shown = [f"      ({len(shown)} reactions)"]
    return "\n".join(
        [
            "T'   = −Σ h_k ω_k / (ρ cp)        ρ = p / (R T Σ Y_k/W_k)",
            "Y_k' = ω_k W_k / ρ                T in K, Y mass fractions",
            f"with net production rates ω and enthalpies h of {file}, and its reactions",
            *shown,
        ]
    )
