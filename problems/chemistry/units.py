"""Units of mechanism files, as Cantera understands them: everything becomes kg, m, s, K and kmol."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GAS_CONSTANT = 8314.46261815324
"""J/kmol/K, exact since the SI of 2019."""

ONE_ATMOSPHERE = 101325.0
"""Pa."""

_AVOGADRO = 6.02214076e26  # 1/kmol, exact
_ELECTRON_CHARGE = 1.602176634e-19  # C, exact

# Exponents of kg, m, s, K, A, kmol.
Dimensions = tuple[float, float, float, float, float, float]

_NONE: Dimensions = (0, 0, 0, 0, 0, 0)
_MASS: Dimensions = (1, 0, 0, 0, 0, 0)
_LENGTH: Dimensions = (0, 1, 0, 0, 0, 0)
_TIME: Dimensions = (0, 0, 1, 0, 0, 0)
_TEMPERATURE: Dimensions = (0, 0, 0, 1, 0, 0)
_QUANTITY: Dimensions = (0, 0, 0, 0, 0, 1)
_ENERGY: Dimensions = (1, 2, -2, 0, 0, 0)
_PRESSURE: Dimensions = (1, -1, -2, 0, 0, 0)
_MOLAR_ENERGY: Dimensions = (1, 2, -2, 0, 0, -1)

_UNITS: dict[str, tuple[float, Dimensions]] = {
    "1": (1.0, _NONE),
    "kg": (1.0, _MASS),
    "g": (1e-3, _MASS),
    "m": (1.0, _LENGTH),
    "micron": (1e-6, _LENGTH),
    "angstrom": (1e-10, _LENGTH),
    "Å": (1e-10, _LENGTH),
    "s": (1.0, _TIME),
    "min": (60.0, _TIME),
    "hr": (3600.0, _TIME),
    "K": (1.0, _TEMPERATURE),
    "mol": (1e-3, _QUANTITY),
    "gmol": (1e-3, _QUANTITY),
    "mole": (1e-3, _QUANTITY),
    "kmol": (1.0, _QUANTITY),
    "kgmol": (1.0, _QUANTITY),
    "molec": (1.0 / _AVOGADRO, _QUANTITY),
    "J": (1.0, _ENERGY),
    "cal": (4.184, _ENERGY),
    "erg": (1e-7, _ENERGY),
    "eV": (_ELECTRON_CHARGE, _ENERGY),
    "N": (1.0, (1, 1, -2, 0, 0, 0)),
    "dyn": (1e-5, (1, 1, -2, 0, 0, 0)),
    "Pa": (1.0, _PRESSURE),
    "atm": (ONE_ATMOSPHERE, _PRESSURE),
    "bar": (1e5, _PRESSURE),
    "m^3": (1.0, (0, 3, 0, 0, 0, 0)),
    "liter": (1e-3, (0, 3, 0, 0, 0, 0)),
    "L": (1e-3, (0, 3, 0, 0, 0, 0)),
    "l": (1e-3, (0, 3, 0, 0, 0, 0)),
    "cc": (1e-6, (0, 3, 0, 0, 0, 0)),
}

_PREFIXES = {
    **{"E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "h": 1e2},
    **{"d": 1e-1, "c": 1e-2, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15, "a": 1e-18},
}

# What a file may declare, and the dimensions its unit must have.
_DECLARABLE = {
    "mass": _MASS,
    "length": _LENGTH,
    "time": _TIME,
    "quantity": _QUANTITY,
    "pressure": _PRESSURE,
    "energy": _ENERGY,
}


def parse(text: str) -> tuple[float, Dimensions]:
    """The factor to kg, m, s, K, kmol and the dimensions of a unit such as ``"cm^3/mol/s"``.

    Raises
    ------
    ValueError
        For a unit that is not known.
    """
    factor, dimensions = 1.0, _NONE
    sign = 1.0
    for part in text.replace("/", " / ").replace("*", " * ").split():
        if part in "*/":
            sign = -1.0 if part == "/" else 1.0
            continue
        name, _, exponent = part.partition("^")
        try:
            power = sign * float(exponent or 1)
        except ValueError:
            raise ValueError(f"{exponent!r} is not an exponent, in the unit {text!r}") from None
        scale, unit = _named(name, text)
        factor *= scale**power
        dimensions = _combined(dimensions, unit, power)
    return factor, dimensions


def _combined(left: Dimensions, right: Dimensions, power: float) -> Dimensions:
    a, b, c, d, e, f = (x + power * y for x, y in zip(left, right, strict=True))
    return (a, b, c, d, e, f)


def _named(name: str, text: str) -> tuple[float, Dimensions]:
    if name in _UNITS:
        return _UNITS[name]
    if name[:1] in _PREFIXES and name[1:] in _UNITS:
        factor, dimensions = _UNITS[name[1:]]
        return _PREFIXES[name[0]] * factor, dimensions
    raise ValueError(f"unknown unit {name!r}" + (f" in {text!r}" if name != text else ""))


def number(value: Any) -> float:
    """A finite number of a file, as a float.

    Raises
    ------
    ValueError
        For anything else, booleans included.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


@dataclass(frozen=True)
class UnitSystem:
    """The units in which a part of a file gives bare numbers, as factors to kg, m, s, kmol, Pa and J.

    ``activation_energy`` is a factor to J/kmol; without one it is energy per quantity.
    """

    mass: float = 1.0
    length: float = 1.0
    time: float = 1.0
    quantity: float = 1.0
    pressure: float = 1.0
    energy: float = 1.0
    activation_energy: float | None = None

    def updated(self, declared: Any) -> UnitSystem:
        """With what a ``units`` mapping declares.

        Raises
        ------
        ValueError
            For an unknown kind or unit, or a unit of another kind.
        """
        if not isinstance(declared, Mapping):
            raise ValueError(f"units must be a mapping such as {{length: cm}}, not {declared!r}")
        changes: dict[str, float] = {}
        for kind, unit in declared.items():
            factor, dimensions = parse(str(unit))
            if kind == "activation-energy":
                changes["activation_energy"] = _molar_energy(factor, dimensions, str(unit))
            elif kind in _DECLARABLE and dimensions == _DECLARABLE[kind]:
                changes[kind] = factor
            elif (kind, unit) not in {("temperature", "K"), ("current", "A")}:
                raise ValueError(f"{unit!r} cannot be the unit of {kind!r}")
        return dataclasses.replace(self, **changes)

    def rate_constant(self, value: Any, order: float) -> float:
        """A in (kmol/m³)^(1-order)/s: a bare number, or one with its unit such as "1e13 cm^3/mol/s".

        Raises
        ------
        ValueError
            For a unit that a rate of this order does not have.
        """
        dimensions: Dimensions = (0, 3 * (order - 1), -1, 0, 0, 1 - order)
        bare = self.length ** (3 * (order - 1)) * self.quantity ** (1 - order) / self.time
        return _converted(value, dimensions, bare, f"a rate constant of order {order:g}")

    def molar_energy(self, value: Any) -> float:
        """An activation energy in J/kmol; its unit may also be a temperature or eV a molecule."""
        if not isinstance(value, str):
            return number(value) * (self.activation_energy or self.energy / self.quantity)
        amount, factor, dimensions, unit = _split(value)
        return amount * _molar_energy(factor, dimensions, unit)

    def pressure_in_pascal(self, value: Any) -> float:
        return _converted(value, _PRESSURE, self.pressure, "a pressure")

    def temperature_in_kelvin(self, value: Any) -> float:
        return _converted(value, _TEMPERATURE, 1.0, "a temperature")


def _split(text: str) -> tuple[float, float, Dimensions, str]:
    """The number, the factor and the dimensions of its unit, and the unit, of "5.0 kcal/mol"."""
    amount, _, unit = text.strip().partition(" ")
    try:
        value = float(amount)
    except ValueError:
        unit = ""
    if not unit:
        raise ValueError(f"{text!r} is neither a number nor a number, a space and a unit")
    return number(value), *parse(unit.strip()), unit.strip()


def _converted(value: Any, dimensions: Dimensions, bare: float, what: str) -> float:
    if not isinstance(value, str):
        return number(value) * bare
    amount, factor, found, unit = _split(value)
    if found != dimensions:
        raise ValueError(f"{unit!r} in {value!r} is not a unit of {what}")
    return amount * factor


def _molar_energy(factor: float, dimensions: Dimensions, unit: str) -> float:
    if dimensions == _MOLAR_ENERGY:
        return factor
    if dimensions == _TEMPERATURE:
        return factor * GAS_CONSTANT
    if dimensions == _ENERGY:  # a molecule's
        return factor * _AVOGADRO
    raise ValueError(f"{unit!r} is not a unit of activation energy")
