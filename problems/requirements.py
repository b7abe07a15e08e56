"""What the fields of a problem must be: each message names the problem and the field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from problems.function import Parts
from problems.parameters import Parameter
from problems.references import Reference
from stiffml.checks import array, described, number, texts

KINDS = ("ode", "dae", "pde")
TEXTS = ("title", "equations", "citation", "stiffness", "time_units", "grid_units")


def checked_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the fields of a problem, by name; return those that are kept in one form but given in several.

    Raises
    ------
    TypeError, ValueError
        For a field that is wrong.
    """
    problem = given["name"]
    if not isinstance(problem, str) or not problem:
        raise TypeError(f"Problem: name must be a text, not {described(problem)}")

    def of(field: str) -> str:
        return f"{problem}: {field}"

    for field in ("rhs", "sparsity", "initial", "resized"):
        value = given[field]
        if not callable(value) and (field == "rhs" or value is not None):
            raise TypeError(f"{of(field)} must be callable, not {described(value)}")
    for field in TEXTS:
        if not isinstance(given[field], str):
            raise TypeError(f"{of(field)} must be a text, not {described(given[field])}")
    if not isinstance(given["kind"], str) or given["kind"] not in KINDS:
        raise ValueError(f"{of('kind')} must be one of {', '.join(KINDS)}, not {described(given['kind'])}")
    if not isinstance(given["time_grid"], str) or given["time_grid"] not in ("log", "linear"):
        raise ValueError(f'{of("time_grid")} is "log" or "linear", not {described(given["time_grid"])}')
    y0 = array(of("y0"), given["y0"])
    components = texts(of("components"), given["components"])
    if not components and y0.ndim:
        components = tuple(f"y{i}" for i in range(1, len(y0) + 1))
    grid = {axis: array(of(f"grid: {axis}"), x) for axis, x in _mapping(of("grid"), given["grid"]).items()}
    if any(x.ndim != 1 for x in grid.values()):
        raise ValueError(f"{of('grid')} must have coordinates of one dimension along each axis")
    shape = (len(components), *(len(x) for x in grid.values()))
    if y0.shape != shape:
        raise ValueError(f"{problem}: y0 has shape {y0.shape}, but components and grid make {shape}")
    return {
        "y0": y0,
        "components": components,
        "grid": grid,
        "t_span": checked_span(of("t_span"), given["t_span"]),
        "parameters": _parameters(of("parameters"), given["parameters"]),
        "units": _units(of("units"), given["units"], len(components)),
        "mass": _mass(of("mass"), given["mass"], y0.size),
        "parts": _parts(of("parts"), given["parts"]),
        "invariants": _invariants(of("invariants"), given["invariants"], y0.size),
        "bounds": _bounds(of("bounds"), given["bounds"], len(components)),
        "scale": _sizes(of("scale"), given["scale"], len(components)),
        "threshold": _sizes(of("threshold"), given["threshold"], len(components)),
        "first_time": _first(of("first_time"), given["first_time"]),
        "breakpoints": _breakpoints(of("breakpoints"), given["breakpoints"]),
        "references": _references(of("references"), given["references"]),
    }


def checked_span(name: str, span: Any) -> tuple[float, float]:
    """A span as two numbers (start, end) that differ."""
    if isinstance(span, str | bytes | Mapping) or not isinstance(span, Iterable):
        raise TypeError(f"{name} must be (start, end), not {described(span)}")
    ends = [number(f"{name}[{i}]", end) for i, end in enumerate(span)]
    if len(ends) != 2 or ends[0] == ends[1]:
        raise ValueError(f"{name} must be (start, end), which differ, not {described(span)}")
    return ends[0], ends[1]


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name} must be a mapping of names, not {described(value)}")
    return value


def _listed(name: str, value: Any) -> Any:
    """The values as a list; an array of no floats if there are none."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence, not {described(value)}")
    found = list(value)
    return found or np.zeros(0)


def _parameters(name: str, parameters: Any) -> Mapping[str, Any]:
    for key, parameter in _mapping(name, parameters).items():
        if not isinstance(parameter, Parameter):
            raise TypeError(f"{name}: {key} must be a Parameter(value, units), not {described(parameter)}")
    return parameters


def _units(name: str, units: Any, components: int) -> str | tuple[str, ...]:
    return units if isinstance(units, str) else texts(name, units, components)


def _first(name: str, first: Any) -> float | None:
    return None if first is None else number(name, first, above=0)


def _breakpoints(name: str, breakpoints: Any) -> tuple[float, ...]:
    found = array(name, _listed(name, breakpoints))
    if found.ndim != 1:
        raise ValueError(f"{name} must be a sequence of times, not of shape {found.shape}")
    return tuple(found.tolist())


def _mass(name: str, mass: Any, size: int) -> np.ndarray | None:
    if mass is None:
        return None
    found = array(name, mass)
    if found.shape not in ((size,), (size, size)):
        raise ValueError(f"{name} must have shape ({size},) or ({size}, {size}), not {found.shape}")
    return found


def _parts(name: str, parts: Any) -> Any:
    if parts is not None and not isinstance(parts, Parts):
        raise TypeError(f"{name} must be Parts(implicit, explicit) or None, not {described(parts)}")
    return parts


def _invariants(name: str, invariants: Any, size: int) -> dict[str, Any]:
    found = {}
    for key, invariant in _mapping(name, invariants).items():
        found[key] = invariant if callable(invariant) else array(f"{name}: {key}", invariant)
        if not callable(invariant) and found[key].shape != (size,):
            raise ValueError(f"{name}: {key} must have shape ({size},), not {found[key].shape}")
    return found


def _bounds(name: str, bounds: Any, components: int) -> tuple[Any, Any] | None:
    if bounds is None:
        return None
    pair = _listed(name, bounds)
    if len(pair) != 2:
        raise ValueError(f"{name} must be (low, high), not {described(bounds)}")
    low, high = (_per_component(name, array(name, side, finite=False), components) for side in pair)
    if (low > high).any():
        raise ValueError(f"{name}: low is above high")
    return low[()], high[()]


def _sizes(name: str, sizes: Any, components: int) -> np.ndarray | None:
    if sizes is None:
        return None
    found = _per_component(name, array(name, sizes), components)
    if not (found > 0).all():
        raise ValueError(f"{name} must be positive, not {described(sizes)}")
    return found


def _per_component(name: str, values: np.ndarray, components: int) -> np.ndarray:
    if values.shape not in ((), (1,), (components,)):
        raise ValueError(f"{name} must be one number or one of each of {components}, not {values.shape}")
    return values


def _references(name: str, references: Any) -> tuple[Any, ...]:
    found = tuple(_listed(name, references)) if not isinstance(references, tuple) else references
    for reference in found:
        if not isinstance(reference, Reference):
            raise TypeError(f"{name} must be a sequence of Reference(…), but has {described(reference)}")
    return found
