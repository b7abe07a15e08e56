"""What all runs of a set have in common: names, units, and the noise of observations."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from stiffml.checks import described, number, texts
from stiffml.training.data.run import Run, distinct


@dataclass(frozen=True, eq=False)
class Labels:
    """Names, units and noise.

    Attributes
    ----------
    components : tuple of str
    units : mapping of str to str
        By the name of a component, an input or a forcing; ``"1"`` where there is none.
    time_units : str
    noise : ndarray
        (components,) standard deviation of the errors of observations, NaN where it is not known.
    """

    components: tuple[str, ...]
    units: Mapping[str, str] = field(default_factory=dict)
    time_units: str = "1"
    noise: Any = None

    def __post_init__(self) -> None:
        components = distinct("components", self.components)
        if not components:
            raise ValueError("components must not be empty")
        object.__setattr__(self, "components", components)
        object.__setattr__(self, "units", _units(components, self.units))
        if not isinstance(self.time_units, str):
            raise TypeError(f"time_units must be a text, not {described(self.time_units)}")
        object.__setattr__(self, "noise", self._noise(self.noise))

    def units_of(self, name: str) -> str:
        return self.units.get(name, "1")

    def with_noise(self, noise: Any) -> Labels:
        return replace(self, noise=noise)

    def _noise(self, value: Any) -> np.ndarray:
        if value is None:
            return np.full(len(self.components), np.nan)
        if isinstance(value, np.ndarray) and value.shape == (len(self.components),) and value.dtype == float:
            if (np.isnan(value) | ((value > 0) & np.isfinite(value))).all():
                return value
            raise ValueError(f"noise must be positive, or NaN where it is not known, not {value}")
        if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
            example = ", ".join(f'"{c}": …' for c in self.components[:2])
            raise TypeError(f"noise must be one number, or a mapping by name, {{{example}}}, not {value}")
        by_name = named("noise", value, self.components)
        return np.array(
            [number(f"noise: {c}", by_name[c], above=0) if c in by_name else np.nan for c in self.components]
        )


def named(argument: str, value: Any, components: tuple[str, ...]) -> dict[str, Any]:
    """One value for all components, or a mapping of some of them to theirs, as such a mapping.

    Raises
    ------
    ValueError
        For a name that no component has.
    """
    if not isinstance(value, Mapping):
        return dict.fromkeys(components, value)
    require_known(argument, value, components)
    return dict(value)


def require_known(argument: str, names: Iterable[Any], known: Iterable[str]) -> None:
    """Raise ValueError for a name that is not among those known; the message has the nearest ones.

    What is no text is a TypeError.
    """
    known = tuple(known)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"{argument} must be a name, such as {shortened(known, 1)}, not {described(name)}"
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {shortened(known)}"
            raise ValueError(f"{argument}: there is no {described(name)}; {hint}")


def shortened(names: Iterable[str], most: int = 8) -> str:
    """Names in a row, the first and the number of the others."""
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"


def started(run: Run, initial: Any, labels: Labels) -> Run:
    """The run with initial values as ``initial`` says; see :meth:`Runs.with_initial`."""
    y0, noise = run.y0.copy(), run.y0_noise.copy()
    for name, what in named("initial", initial, labels.components).items():
        c = labels.components.index(name)
        # A known start may have weight 0; a measured one counts as an observation.
        present, seen = not np.isnan(run.values[0, c]), bool(run.mask[0, c])
        if not isinstance(what, str):
            y0[c], noise[c] = number(f"initial: {name}", what), 0.0
        elif what == "learned":
            noise[c] = np.inf
        elif what == "known":
            if noise[c] != 0 and not present:
                raise ValueError(
                    f'initial: {name} is to be "known", but run {run.name} has no observation of it at '
                    f'its first time, {run.times[0]:g}; give its value, initial={{"{name}": 0.0}}, or take '
                    '"learned"'
                )
            if noise[c] != 0:
                y0[c], noise[c] = run.values[0, c], 0.0
        elif what == "measured":
            if np.isnan(labels.noise[c]):
                raise ValueError(
                    f'initial: {name} is to be "measured", which needs the standard deviation of its errors: '
                    f'noise={{"{name}": …}}'
                )
            y0[c] = run.values[0, c] if seen else y0[c]
            noise[c] = labels.noise[c] if seen else np.inf
        else:
            raise ValueError(
                f'initial: {name} must be "known", "measured", "learned" or a number, not {described(what)}'
            )
    return replace(run, y0=y0, y0_noise=noise)


def _units(components: tuple[str, ...], value: Any) -> dict[str, str]:
    if isinstance(value, str):
        return dict.fromkeys(components, value)
    if not isinstance(value, Mapping):
        return dict(zip(components, texts("units", value, len(components)), strict=True))
    texts("units: names", value)
    texts("units", value.values())
    return dict(value)
