"""What the fields of a problem must be: each message names the problem and the field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stiffml.checks import array, described, number, texts

if TYPE_CHECKING:
    from problems.problem import Problem

KINDS = ("ode", "dae", "pde")
TEXTS = ("title", "equations", "citation", "stiffness", "time_units")


def checked_fields(problem: Problem) -> dict[str, Any]:
    """The fields of a problem that are kept in another form than they may be given in.

    Raises
    ------
    TypeError, ValueError
        For a field that is wrong.
    """
    if not isinstance(problem.name, str) or not problem.name:
        raise TypeError(f"Problem: name must be a text, not {described(problem.name)}")

    def of(field: str) -> str:
        return f"{problem.name}: {field}"

    for field in ("rhs", "sparsity", "initial", "resized"):
        value = getattr(problem, field)
        if not callable(value) and (field == "rhs" or value is not None):
            raise TypeError(f"{of(field)} must be callable, not {described(value)}")
    for field in TEXTS:
        if not isinstance(getattr(problem, field), str):
            raise TypeError(f"{of(field)} must be a text, not {described(getattr(problem, field))}")
    if not isinstance(problem.kind, str) or problem.kind not in KINDS:
        raise ValueError(f"{of('kind')} must be one of {', '.join(KINDS)}, not {described(problem.kind)}")
    if not isinstance(problem.time_grid, str) or problem.time_grid not in ("log", "linear"):
        raise ValueError(f'{of("time_grid")} is "log" or "linear", not {described(problem.time_grid)}')
    y0 = array(of("y0"), problem.y0)
    components = texts(of("components"), problem.components)
    if not components and y0.ndim:
        components = tuple(f"y{i}" for i in range(1, len(y0) + 1))
    grid = {axis: array(of(f"grid: {axis}"), x) for axis, x in _mapping(of("grid"), problem.grid).items()}
    if any(x.ndim != 1 for x in grid.values()):
        raise ValueError(f"{of('grid')} must have coordinates of one dimension along each axis")
    shape = (len(components), *(len(x) for x in grid.values()))
    if y0.shape != shape:
        raise ValueError(f"{problem.name}: y0 has shape {y0.shape}, but components and grid make {shape}")
    return {
        "y0": y0,
        "components": components,
        "grid": grid,
        "t_span": checked_span(of("t_span"), problem.t_span),
        "parameters": _parameters(of("parameters"), problem.parameters),
        "units": _units(of("units"), problem.units, len(components)),
        "mass": _mass(of("mass"), problem.mass, y0.size),
        "parts": _parts(of("parts"), problem.parts),
        "invariants": _invariants(of("invariants"), problem.invariants, y0.size),
        "bounds": _bounds(of("bounds"), problem.bounds, len(components)),
        "scale": _sizes(of("scale"), problem.scale, len(components)),
        "threshold": _sizes(of("threshold"), problem.threshold, len(components)),
        "first_time": _first(of("first_time"), problem.first_time),
        "breakpoints": _breakpoints(of("breakpoints"), problem.breakpoints),
        "references": _references(of("references"), problem.references),
    }


def checked_span(name: str, span: Any) -> tuple[float, float]:
    """Where a problem begins and ends."""
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
    """A sequence; an empty one has no type of its own."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence, not {described(value)}")
    found = list(value)
    return found or np.zeros(0)


def _parameters(name: str, parameters: Any) -> Mapping[str, Any]:
    from problems.problem import Parameter

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
    from problems.problem import Parts

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
    from problems.references import Reference

    found = tuple(_listed(name, references)) if not isinstance(references, tuple) else references
    for reference in found:
        if not isinstance(reference, Reference):
            raise TypeError(f"{name} must be a sequence of Reference(…), but has {described(reference)}")
    return found
