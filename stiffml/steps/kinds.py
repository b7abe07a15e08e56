"""The kinds of steps: adaptive, or known in advance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from stiffml.checks import described, flag, number, whole
from stiffml.display import readable

Fractions = tuple[np.ndarray, ...]
"""For each output interval, the ends of its steps as increasing fractions in (0, 1], the last one 1."""


@dataclass(frozen=True)
class Adaptive:
    """Steps chosen by the method's error estimate, ending exactly on every output time.

    If outputs are closer than 1e-9 of their size and of the whole span, a step ends on the last of them only,
    and the others are interpolated. This holds for all kinds of steps.

    Parameters
    ----------
    initial : float, optional
        First step size to try. By default it follows from the size of func and its first difference (Hairer,
        Nørsett & Wanner, Solving ODEs I, section II.4). Either is at least 256 spacings of double precision
        numbers at the initial time, which time needs to resolve it. ``beuler``, ``cn`` and ``theta`` have no
        error estimate for a first step and take the shorter of the two.
    minimum, maximum : float, optional
        Bounds on the step size. A solve that needs steps shorter than ``minimum`` fails.
    max_steps : int
        Accepted steps after which the solve fails. Default 100 000.
    stop_if_stiff : bool
        Whether an explicit method stops with advice if the stability of fast modes, and not accuracy, keeps
        its steps short (Hairer & Wanner, Solving ODEs II, section IV.2) and more than 10 000 steps remain.
        Default True. False: it goes on up to ``max_steps``. Implicit methods ignore it, and so do samples
        with times of their own, which go on.

    Raises
    ------
    TypeError, ValueError
        For numbers out of range, or a ``minimum`` above ``maximum``.

    Examples
    --------
    >>> sol = stiffml.solve(func, y0, t, steps=stiffml.Adaptive(maximum=0.1))
    >>> bool(sol.step_times.diff().max() < 0.1 + 1e-12)
    True
    """

    initial: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    max_steps: int = 100_000
    stop_if_stiff: bool = True

    def __post_init__(self) -> None:
        for name in ("initial", "minimum", "maximum"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, number(f"Adaptive: {name}", value, above=0))
        object.__setattr__(self, "max_steps", whole("Adaptive: max_steps", self.max_steps))
        object.__setattr__(self, "stop_if_stiff", flag("Adaptive: stop_if_stiff", self.stop_if_stiff))
        low, high = self.minimum, self.maximum
        if low is not None and high is not None and low > high:
            raise ValueError(f"Adaptive: minimum {low:g} is above maximum {high:g}")


@dataclass(frozen=True)
class Fixed:
    """Equal steps in every output interval: as few as possible with a size of at most ``h``.

    Parameters
    ----------
    h : float
        In the units of t, positive.

    Raises
    ------
    TypeError, ValueError
        For anything else.

    Examples
    --------
    >>> stiffml.solve(func, y0, t, method="cn", steps=stiffml.Fixed(0.3)).step_times
    tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """

    h: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "h", number("Fixed: h", self.h, above=0))

    def counts(self, times: np.ndarray) -> np.ndarray:
        """(intervals,) float, steps in each; an int could overflow."""
        # The factor slightly above 1 keeps an interval of 10 h at 10 steps in spite of rounding.
        with np.errstate(over="ignore"):
            return np.maximum(1.0, np.ceil(np.diff(times) / (self.h * (1 + 1e-9))))

    def fractions(self, times: np.ndarray) -> Fractions:
        """(steps,) for each interval between times the ends of its steps, as fractions in (0, 1]."""
        return tuple(np.arange(1, n + 1) / n for n in self.counts(times).astype(int))


@dataclass(frozen=True)
class Grid:
    """Exactly ``substeps`` equal steps in every output interval.

    Parameters
    ----------
    substeps : int
        Default 1.

    Raises
    ------
    TypeError, ValueError
        For what is no positive whole number.

    Examples
    --------
    >>> stiffml.solve(func, y0, t, method="cn", steps=stiffml.Grid(4)).step_times
    tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """

    substeps: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "substeps", whole("Grid: substeps", self.substeps))

    def counts(self, times: np.ndarray) -> np.ndarray:
        """(intervals,) float, steps in each; an int could overflow."""
        return np.full(len(times) - 1, float(self.substeps))

    def fractions(self, times: np.ndarray) -> Fractions:
        """(steps,) for each interval between times the ends of its steps, as fractions in (0, 1]."""
        ends = np.arange(1, self.substeps + 1) / self.substeps
        return (ends,) * (len(times) - 1)


@readable
@dataclass(frozen=True)
class Recorded:
    """The very steps of an earlier solve, as ``Solution.steps`` holds them.

    They repeat or differentiate an adaptive run with its steps held fixed. A run that ended early has the
    steps of the output intervals it completed, which belong to the times it reached:
    ``solve(func, y0, part.t, steps=part.steps)``.

    Parameters
    ----------
    ends : sequence of array_like
        For each output interval the ends of its steps, as increasing fractions in (0, 1] of which the last
        is 1. Arrays, tensors or lists of numbers.

    Raises
    ------
    TypeError, ValueError
        For anything else; the message names the interval and the entry, both counted from 0.

    Examples
    --------
    >>> chosen = stiffml.solve(func, y0, t)
    >>> again = stiffml.solve(func, 2 * y0, t, steps=chosen.steps)
    >>> bool((again.step_times == chosen.step_times).all())
    True
    >>> stiffml.solve(func, y0, t, method="cn", steps=stiffml.Recorded([[0.1, 0.5, 1.0]])).step_times
    tensor([0.0000, 0.1000, 0.5000, 1.0000], dtype=torch.float64)
    """

    ends: Fractions

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", _fractions(self.ends))

    @classmethod
    def of_run(cls, ends: Callable[[], Fractions]) -> Recorded:
        """The steps of a run, unchecked: they may be too short for their ends to differ as fractions.

        They are found when first asked for.
        """
        recorded = cls.__new__(cls)
        object.__setattr__(recorded, "_find", ends)
        return recorded

    def __getattr__(self, name: str) -> Fractions:
        known = vars(self)
        find = known.get("_find") if name == "ends" else None
        if find is not None:
            known["ends"] = find()
            known.pop("_find", None)
        elif name != "ends" or "ends" not in known:  # another thread may just have found them
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        ends: Fractions = known["ends"]
        return ends

    def __getstate__(self) -> dict[str, object]:
        return {"ends": self.ends, **vars(self)}

    def between(self, first: int, last: int) -> Recorded:
        """The steps of the intervals ``first`` … ``last`` − 1."""
        return Recorded.of_run(lambda: self.ends[first:last])

    def counts(self, times: np.ndarray) -> np.ndarray:
        """(intervals,) float, steps in each."""
        return np.array([len(ends) for ends in self.ends], dtype=float)

    def fractions(self, times: np.ndarray) -> Fractions:
        """(steps,) for each interval between times the ends of its steps, as fractions in (0, 1]."""
        intervals = len(times) - 1
        if len(self.ends) != intervals:
            raise ValueError(
                f"steps: Recorded holds {len(self.ends)} output intervals, but t has {intervals}. A run that "
                "ended early has those of the outputs it reached: pass its Solution's t along with its steps"
            )
        return _fractions(self.ends)  # arrays may have been written to


def _fractions(ends: object) -> Fractions:
    """``Recorded.ends``, checked, as float64 arrays."""
    if isinstance(ends, str | bytes | Mapping) or not isinstance(ends, Iterable):
        raise TypeError(
            "Recorded: ends must be a sequence with one array for each output interval, such as "
            f"Solution.steps.ends, not {described(ends)}"
        )
    found = tuple(ends)
    if not _are_right(found):
        found = tuple(_interval(number, one) for number, one in enumerate(found))
    return found


def _are_right(ends: tuple[Any, ...]) -> bool:
    """Whether ends are float64 arrays with nothing to say against them, looked at all together."""
    kinds = {(part.dtype, part.ndim) if type(part) is np.ndarray and part.size else None for part in ends}
    if kinds != {(np.dtype(np.float64), 1)}:
        return False
    joined, lasts = np.concatenate(ends), np.cumsum([len(part) for part in ends]) - 1
    before = np.concatenate([[0.0], joined[:-1]])
    before[lasts[:-1] + 1] = 0.0
    return bool((joined > before).all() and (joined[lasts] == 1).all())


def _interval(number: int, ends: Any) -> np.ndarray:
    where = f"Recorded: interval {number}"
    try:
        found = np.asarray(ends.detach().cpu() if isinstance(ends, Tensor) else ends)
    except Exception:
        found = np.empty((), dtype=object)
    if found.ndim != 1 or found.dtype.kind not in "fiu":
        # An empty list is an array of floats.
        raise TypeError(
            f"{where} must be a one-dimensional array of the ends of its steps, as increasing fractions in "
            f"(0, 1], not {described(ends)}"
        )
    if not len(found):
        raise ValueError(f"{where} is empty, but every interval takes a step: pass [1.0] for a single one")
    found = found.astype(np.float64, copy=False)
    rising = np.diff(found, prepend=0.0) > 0
    if not rising.all():
        at = int(np.argmin(rising))
        before = f"more than the {found[at - 1]:.17g} before it" if at else "more than 0"
        raise ValueError(f"{where}, entry {at} is {found[at]:.17g}, but must be {before}")
    if found[-1] != 1:
        beyond = int(np.argmax(found > 1)) if found[-1] > 1 else len(found) - 1
        why = "but the last must be 1, the end of the interval" if found[-1] < 1 else "which is beyond 1"
        raise ValueError(f"{where}, entry {beyond} is {found[beyond]:.17g}, {why}")
    return found


Steps = Adaptive | Fixed | Grid | Recorded
