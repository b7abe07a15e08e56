"""Entries of a mechanism file: one species, one reaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from problems.chemistry.equations import Equation, parse
from problems.chemistry.errors import UnsupportedMechanismError
from problems.chemistry.specification import Arrhenius, Falloff, Reaction, Species, ThirdBody
from problems.chemistry.units import ONE_ATMOSPHERE, UnitSystem, number

ABSENT_T2 = 1e30
"""K: Troe's T2 of a reaction without one, for which exp(-T2/T) and its derivatives are zero."""

_KINDS = ("elementary", "Arrhenius", "three-body", "falloff")
_SUPPORTED = "supported are elementary, three-body and falloff (Lindemann and Troe) reactions"
_OTHER_NAMES = {"pressure-dependent-Arrhenius": " (PLOG)"}

# Fields that change what the rate is. Surface reactions may have no type, only such a field.
_UNSUPPORTED_FIELDS = {
    "orders": "explicit reaction orders",
    "sticking-coefficient": "sticking coefficients",
    "coverage-dependencies": "coverage dependencies",
    "SRI": "SRI falloff",
    "Tsang": "Tsang falloff",
}


def field(entry: Mapping[Any, Any], name: str, kind: Any, what: str) -> Any:
    """``entry[name]``, which must be of a class or a union of them; ``what`` says it in words.

    Raises
    ------
    ValueError
        If it is missing or of another kind.
    """
    if name not in entry:
        raise ValueError(f"{name!r} is missing")
    if not isinstance(entry[name], kind):
        raise ValueError(f"{name!r} must be {what}, not {entry[name]!r}")
    return entry[name]


def numbers(entry: Mapping[Any, Any], name: str) -> dict[str, float]:
    """``entry[name]`` as a mapping of names to numbers."""
    return {str(key): number(value) for key, value in field(entry, name, dict, "a mapping").items()}


def read_species(entry: Mapping[Any, Any], units: UnitSystem) -> Species:
    """A species from its entry.

    Raises
    ------
    UnsupportedMechanismError
        For another thermodynamic model than NASA7.
    ValueError
        For a field that is missing or impossible.
    """
    thermo = field(entry, "thermo", dict, "a mapping")
    model = field(thermo, "model", str, "a name")
    if model != "NASA7":
        raise UnsupportedMechanismError(f"the thermodynamic model {model!r} is not supported; NASA7 is")
    if "units" in thermo:
        units = units.updated(thermo["units"])
    ranges = [units.temperature_in_kelvin(t) for t in field(thermo, "temperature-ranges", list, "a list")]
    data = field(thermo, "data", list, "a list of lists of 7 coefficients")
    if len(data) not in (1, 2) or len(ranges) != len(data) + 1:
        raise ValueError("NASA7 has one or two lists in 'data', and one temperature more")
    if sorted(set(ranges)) != ranges:
        raise ValueError(f"the temperatures {ranges} do not increase")
    if any(not isinstance(row, list) or len(row) != 7 for row in data):
        raise ValueError("each list in 'data' must have 7 coefficients")
    low, high = tuple(number(x) for x in data[0]), tuple(number(x) for x in data[-1])
    pressure = thermo.get("reference-pressure", entry.get("reference-pressure"))
    return Species(
        name=field(entry, "name", str, "a name"),
        composition=numbers(entry, "composition"),
        middle=ranges[1],
        low=low,
        high=high,
        reference_pressure=ONE_ATMOSPHERE if pressure is None else units.pressure_in_pascal(pressure),
    )


def read_reaction(
    entry: Mapping[Any, Any],
    units: UnitSystem,
    species: Mapping[str, Species],
    only_declared: bool = False,
    skip_third_bodies: bool = False,
) -> Reaction | None:
    """A reaction from its entry; None if it is to be left out.

    Parameters
    ----------
    species : mapping of str to Species
        Those of the phase.
    only_declared : bool
        Leave out reactions of other species, rather than refuse them.
    skip_third_bodies : bool
        Leave out efficiencies of other species, and reactions whose only third body is one.

    Raises
    ------
    UnsupportedMechanismError
        For a kind of rate that is not supported.
    ValueError
        For a field that is missing or impossible, or an equation that does not balance.
    """
    kind = entry.get("type")
    supported = kind is None or kind in _KINDS  # if not, refused further down: only if it is to be read
    given = numbers(entry, "efficiencies") if supported and "efficiencies" in entry else None
    text = field(entry, "equation", str, "an equation")
    equation = parse(text, kind if supported else None, given)
    in_brackets = equation.collider is not None and equation.collider.startswith("(+")
    collider = equation.collider[2:-1] if equation.collider and in_brackets else equation.collider
    taking_part = dict.fromkeys((*equation.reactants, *equation.products))
    unknown = [name for name in taking_part if name not in species]
    if collider not in (None, "M", *species):
        if skip_third_bodies:
            return None
        unknown.append(str(collider))
    if unknown and only_declared:
        return None
    if not supported:
        raise UnsupportedMechanismError(
            f"the rate type {kind!r}{_OTHER_NAMES.get(str(kind), '')} is not supported; {_SUPPORTED}"
        )
    if unknown:
        raise ValueError(f"no species {', '.join(unknown)} in this phase")
    for name, what in _UNSUPPORTED_FIELDS.items():
        if name in entry:
            raise UnsupportedMechanismError(f"{what} ({name!r}) are not supported; {_SUPPORTED}")
    _check_coefficients(equation, species)
    third_body = _third_body(entry, collider, given, species, skip_third_bodies)
    if "units" in entry:
        units = units.updated(entry["units"])
    order = sum(equation.reactants.values())
    if (kind == "falloff") != in_brackets:
        raise ValueError("a reaction of type 'falloff', and no other, has a third body in brackets, (+M)")
    negative = entry.get("negative-A") is True
    falloff = None
    if kind == "falloff":
        rate = _arrhenius(entry, "high-P-rate-constant", units, order, negative)
        low = _arrhenius(entry, "low-P-rate-constant", units, order + 1, negative)
        if rate.A * low.A < 0:
            raise ValueError("the A of the two limits must have the same sign")
        falloff = Falloff(low, _troe(entry))
    else:
        rate = _arrhenius(entry, "rate-constant", units, order + (third_body is not None), negative)
    return Reaction(
        equation=" ".join(text.split()),
        reactants=equation.reactants,
        products=equation.products,
        reversible=equation.reversible,
        rate=rate,
        third_body=third_body,
        falloff=falloff,
    )


def _check_coefficients(equation: Equation, species: Mapping[str, Species]) -> None:
    """Whole coefficients where they are reaction orders, and as many atoms on each side."""
    orders = [*equation.reactants.values(), *(equation.products.values() if equation.reversible else ())]
    if any(value != int(value) for value in orders):
        raise UnsupportedMechanismError(f"coefficients that are not whole are not supported; {_SUPPORTED}")
    elements = {e for name in (*equation.reactants, *equation.products) for e in species[name].composition}
    for element in sorted(elements):
        left, right = (
            sum(count * species[name].composition.get(element, 0.0) for name, count in side.items())
            for side in (equation.reactants, equation.products)
        )
        # As loose as Cantera: coefficients such as 0.3333 do occur.
        if abs(left - right) > 1e-4 * abs(left + right):
            raise ValueError(f"{left:g} atoms of {element} on the left, {right:g} on the right")


def _third_body(
    entry: Mapping[Any, Any],
    collider: str | None,
    given: Mapping[str, float] | None,
    species: Collection[str],
    skip: bool,
) -> ThirdBody | None:
    """The third body, with its efficiencies of species in the phase."""
    default = number(entry["default-efficiency"]) if "default-efficiency" in entry else None
    if collider is None:
        if given is not None or default is not None:
            raise ValueError("efficiencies are given, but the equation has no third body")
        return None
    if collider != "M":
        if default or (given is not None and list(given) != [collider]):
            raise ValueError(f"the third body is {collider}: no other can have an efficiency")
        return ThirdBody(given or {collider: 1.0}, 0.0)
    efficiencies = given or {}
    unknown = [name for name in efficiencies if name not in species]
    if unknown and not skip:
        raise ValueError(f"efficiencies of {', '.join(unknown)}, which this phase does not have")
    known = {name: value for name, value in efficiencies.items() if name in species}
    return ThirdBody(known, 1.0 if default is None else default)


def _arrhenius(
    entry: Mapping[Any, Any], name: str, units: UnitSystem, order: float, negative: bool
) -> Arrhenius:
    """A rate constant, given as a mapping with A, b and Ea or as a list of the three."""
    value = field(entry, name, dict | list, "a mapping with A, b and Ea or a list of the three")
    if isinstance(value, list):
        if len(value) != 3:
            raise ValueError(f"{name!r} must have three entries, A, b and Ea, not {len(value)}")
        value = dict(zip(("A", "b", "Ea"), value, strict=True))
    for key in ("A", "b", "Ea"):
        if key not in value:
            raise ValueError(f"{key!r} is missing in {name!r}")
    if "units" in value:
        units = units.updated(value["units"])
    rate = Arrhenius(
        units.rate_constant(value["A"], order), number(value["b"]), units.molar_energy(value["Ea"])
    )
    if rate.A < 0 and not negative:
        raise ValueError(f"A in {name!r} is negative; 'negative-A: true' allows it")
    return rate


def _troe(entry: Mapping[Any, Any]) -> tuple[float, float, float, float] | None:
    """Troe's A, T3, T1 and T2, with what stands for temperatures that are zero or missing."""
    if "Troe" not in entry:
        return None
    values = numbers(entry, "Troe")
    for key in ("A", "T3", "T1"):
        if key not in values:
            raise ValueError(f"{key!r} is missing in 'Troe'")
    # Cantera takes 1/T3 and 1/T1 for infinite where they are zero, and omits a T2 of zero.
    tiny, t2 = 1e-30, values.get("T2", 0.0)
    t3, t1 = (values[key] or tiny for key in ("T3", "T1"))
    return values["A"], t3, t1, t2 or ABSENT_T2
