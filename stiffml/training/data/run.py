"""One run of an experiment: what was observed, when, under which conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from stiffml.checks import described, number, texts
from stiffml.checks import times as checked_times


@dataclass(frozen=True, eq=False)
class Forcing:
    """A table of what acts on a run from outside, with times of its own; linear in between.

    Attributes
    ----------
    times : ndarray
        (m,), increasing.
    values : ndarray
        (m, k), complete.
    names : tuple of str
        Of the k columns.

    Examples
    --------
    >>> from stiffml.training.data import Forcing
    >>> heating = Forcing([0.0, 60.0], [[300.0], [360.0]], ("T",))  # K, linear over a minute
    >>> heated = Run("a", [0.0, 30.0], [[1.0], [0.2]], forcing=heating)
    >>> Runs([heated], ["A"]).padded().forcing_at(30.0)
    tensor([[330.]], dtype=torch.float64)
    """

    times: np.ndarray
    values: np.ndarray
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", increasing("Forcing: times", self.times))
        values = numbers("Forcing: values", self.values, 2)
        names = distinct("Forcing: names", self.names)
        if values.shape != (len(self.times), len(names)):
            raise ValueError(
                f"Forcing: values have shape {values.shape}, which must be that of times and names, "
                f"{(len(self.times), len(names))}"
            )
        if np.isnan(values).any():
            row, column = np.argwhere(np.isnan(values))[0]
            raise ValueError(
                f"Forcing: values: {names[column]} is missing at time {self.times[row]:g}; leave that row "
                "out, or fill it: a solve needs forcing everywhere"
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "names", names)


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """What was observed in one run. Arrays are copied, and cannot be written to.

    Attributes
    ----------
    name : str
    times : ndarray
        (n,), increasing; the solve begins at the first.
    values : ndarray
        (n, components), NaN where nothing was observed.
    inputs : mapping of str to float
        Conditions of the whole run, such as a temperature.
    forcing : Forcing or None
        Conditions that change in time.
    weights : ndarray
        (n, components), not negative. Default 1. A value of weight 0 is as good as missing, except that the
        first row may hold the known start whatever its weight.
    y0 : ndarray
        (components,) the state at the first time, or what is guessed of it. Default: of each component the
        earliest observation that has a weight, or the first value if none has, or 0 if there is none.
    y0_noise : ndarray
        (components,) the standard deviation of y0: 0 where it is known exactly, infinite where it has to be
        learned. Default 0 where y0 was given, else infinite.
    source : str
        The run that this one is a window of. Default: its own name.

    Examples
    --------
    >>> run = Run("a", [0, 1, 3], [[2.0, float("nan")], [1.0, 0.5], [0.4, 0.9]])
    >>> run.y0, run.y0_noise
    (array([2. , 0.5]), array([inf, inf]))
    """

    name: str
    times: np.ndarray
    values: np.ndarray
    inputs: Mapping[str, float] = field(default_factory=dict)
    forcing: Forcing | None = None
    weights: Any = None
    y0: Any = None
    y0_noise: Any = None
    source: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"Run: name must be a text, not {described(self.name)}")
        run = f"Run {self.name}"
        if not isinstance(self.source, str):
            raise TypeError(f"{run}: source must be a text, not {described(self.source)}")
        if self.forcing is not None and not isinstance(self.forcing, Forcing):
            raise TypeError(f"{run}: forcing must be a Forcing, not {described(self.forcing)}")
        times = increasing(f"{run}: times", self.times)
        values = numbers(f"{run}: values", self.values, 2)
        if len(values) != len(times) or values.shape[1] == 0:
            raise ValueError(f"{run}: values must have shape ({len(times)}, components), not {values.shape}")
        weights = _weights(f"{run}: weights", self.weights, values.shape)
        y0, noise = _initial(run, values, weights, self.y0, self.y0_noise)
        found = {
            "times": times,
            "values": values,
            "inputs": _scalars(f"{run}: inputs", self.inputs),
            "weights": weights,
            "y0": _constant(y0),
            "y0_noise": _constant(noise),
            "source": self.source or self.name,
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @property
    def mask(self) -> np.ndarray:
        """(n, components), true where something was observed that has a weight above 0."""
        return ~np.isnan(self.values) & (self.weights > 0)

    @property
    def observations(self) -> np.ndarray:
        """(n, components) the values that count, NaN elsewhere: those of ``mask``, and the known start."""
        found = np.where(self.mask, self.values, np.nan)
        start = (self.y0_noise == 0) & (self.values[0] == self.y0)
        found[0, start] = self.y0[start]
        return found

    def __len__(self) -> int:
        return len(self.times)

    def __repr__(self) -> str:
        rows, components = self.values.shape
        seen = int(self.mask.sum())
        return (
            f"Run({self.name!r}, {rows} times from {self.times[0]:g} to {self.times[-1]:g}, {components} "
            f"components, {seen} of {rows * components} values)"
        )

    def starting_at(self, time: float) -> Run:
        """The run with a row before its first, without observations, at a time at which it began.

        What y0 says of the first time it does not say of the new one: it is to be learned.

        Raises
        ------
        ValueError
            If there are earlier observations.
        """
        time = number("start", time)
        if time > self.times[0]:
            raise ValueError(
                f"start = {time:g} lies after the first time of run {self.name}, {self.times[0]:g}; leave "
                "out the rows before it"
            )
        if time == self.times[0]:
            return self
        return replace(
            self,
            times=np.concatenate([[time], self.times]),
            values=np.pad(self.values, ((1, 0), (0, 0)), constant_values=np.nan),
            weights=np.pad(self.weights, ((1, 0), (0, 0)), constant_values=1.0),
            y0_noise=np.full_like(self.y0, np.inf),
        )

    def cut(self, first: int, stop: int, noise: np.ndarray, name: str = "") -> Run:
        """Rows ``first`` to ``stop`` − 1 as a run that starts from what was observed in the first of them.

        ``noise`` has the standard deviation of each component's observations, NaN where it is not known; the
        observations are then taken for exact. A start at row 0 is that of the run itself.
        """
        y0, y0_noise = self.y0, self.y0_noise
        if first > 0:
            y0 = np.where(self.mask[first], self.values[first], np.nan)
            y0_noise = np.where(np.isnan(y0), np.inf, np.where(np.isnan(noise), 0.0, noise))
        rows = slice(first, stop)
        return replace(
            self,
            name=name or self.name,
            times=self.times[rows],
            values=self.values[rows],
            weights=self.weights[rows],
            y0=y0,
            y0_noise=y0_noise,
        )


def earliest(values: np.ndarray) -> np.ndarray:
    """Of each component its first value that is not missing, 0 where all are."""
    seen = ~np.isnan(values)
    first = np.take_along_axis(values, seen.argmax(axis=0)[None], axis=0)[0]
    return np.where(seen.any(axis=0), first, 0.0)


def numbers(name: str, value: Any, dims: int) -> np.ndarray:
    """Real numbers in double precision, NaN allowed, as an array of its own that cannot be written to."""
    found = _reals(name, value)
    if found.ndim != dims:
        raise ValueError(f"{name} must have {dims} dimensions, not {found.ndim}")
    if np.isinf(found).any():
        place = [int(i) for i in np.argwhere(np.isinf(found))[0]]
        raise ValueError(
            f"{name} must be finite, or NaN where missing, not {found[tuple(place)]:g} at {place}"
        )
    return _constant(found)


def _reals(name: str, value: Any) -> np.ndarray:
    """A new array of what real numbers there are, in double precision."""
    try:
        found = np.asarray(value.detach().cpu().resolve_neg() if isinstance(value, Tensor) else value)
    except Exception:
        found = np.empty((), dtype=object)
    if found.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, NaN where they are missing, not {described(value)}")
    return np.array(found, dtype=float)


def increasing(name: str, value: Any) -> np.ndarray:
    """Times that increase, as an array of its own."""
    times = _constant(np.array(checked_times(name, value).detach().cpu().numpy(), dtype=float))
    if not np.isfinite(times).all():
        raise ValueError(f"{name} must be finite, not {times[~np.isfinite(times)][0]:g}")
    steps = np.diff(times)
    if (steps <= 0).any():
        row = int(np.argmax(steps <= 0))
        how = (
            f"{times[row]:g} is there twice"
            if steps[row] == 0
            else f"{times[row]:g} comes before {times[row + 1]:g}"
        )
        raise ValueError(f"{name} must increase, but {how}")
    return times


def distinct(name: str, value: Any) -> tuple[str, ...]:
    """Names of which no two are equal."""
    names = texts(name, value)
    twice = sorted({one for one in names if names.count(one) > 1})
    if twice:
        raise ValueError(f"{name} must differ, but {', '.join(twice)} is there more than once")
    return names


def _initial(
    run: str, values: np.ndarray, weights: np.ndarray, y0: Any, noise: Any
) -> tuple[np.ndarray, np.ndarray]:
    shape = values.shape[1:]
    given = np.full(shape, np.nan) if y0 is None else numbers(f"{run}: y0", y0, 1)
    if given.shape != shape:
        raise ValueError(f"{run}: y0 must have {shape[0]} components, not {len(given)}")
    noise = np.where(np.isnan(given), np.inf, 0.0) if noise is None else _reals(f"{run}: y0_noise", noise)
    if noise.shape != shape or not (noise >= 0).all():
        raise ValueError(f"{run}: y0_noise must be {shape[0]} numbers from 0 to inf, not {described(noise)}")
    unknown = np.isnan(given) & np.isfinite(noise)
    if unknown.any():
        raise ValueError(f"{run}: y0 is missing at {int(np.argmax(unknown))}, where y0_noise is finite")
    counting = np.where(weights > 0, values, np.nan)
    counting[0] = np.where(np.isnan(counting).all(axis=0), values[0], counting[0])
    return np.where(np.isnan(given), earliest(counting), given), noise


def _weights(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    if value is None:
        return _constant(np.ones(shape))
    weights = numbers(name, value, 2)
    if weights.shape != shape:
        raise ValueError(f"{name} must have the shape of values, {shape}, not {weights.shape}")
    if not (weights >= 0).all():
        raise ValueError(f"{name} must not be negative nor missing, not {weights[~(weights >= 0)][0]:g}")
    return weights


def _scalars(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of names to numbers, not {described(value)}")
    keys = texts(f"{name}: names", value)
    return {key: number(f"{name}: {key}", value[key]) for key in keys}


def _constant(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
