"""Strategies: which intervals are fitted one after the other, until whole trajectories are.

On a whole trajectory of a stiff system that is far from the data, the misfit has many bad minima, and often
there is no trajectory at all. So fits begin with what is always solvable, and go on from there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from stiffml.checks import number, whole
from stiffml.display import readable
from stiffml.training.data import Run
from stiffml.training.lm.intervals import Rung, observed_rows, shot, up_to
from stiffml.training.lm.intervals import whole as whole_runs


@dataclass(frozen=True, kw_only=True)
class Strategy(ABC):
    """A sequence of rungs; the last one has the whole runs.

    Parameters
    ----------
    iterations : int
        Iterations of each rung but the last, at most.
    last : int
        Iterations of the last rung, at most.
    tolerance : float
        A rung ends after three iterations that lower the cost by less than this fraction.
    last_tolerance : float
        The same of the last rung.

    Examples
    --------
    >>> from stiffml.training import MultipleShooting, Strategy
    >>> strategy = MultipleShooting(lengths=(1, 4), iterations=20, last=100)
    >>> isinstance(strategy, Strategy), len(strategy.rungs(runs))  # 1, 4 and whole runs
    (True, 3)
    """

    iterations: int = 80
    last: int = 400
    tolerance: float = 1e-3
    last_tolerance: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("iterations", "last"):
            object.__setattr__(self, name, whole(f"{type(self).__name__}: {name}", getattr(self, name)))
        for name in ("tolerance", "last_tolerance"):
            value = number(f"{type(self).__name__}: {name}", getattr(self, name), least=0)
            object.__setattr__(self, name, value)

    def rungs(self, runs: Sequence[Run]) -> list[Rung]:
        """The rungs for these runs."""
        final = Rung("whole", whole_runs(runs), self.last, self.last_tolerance)
        return [*self._before(runs, max(len(run) - 1 for run in runs)), final]

    @abstractmethod
    def _before(self, runs: Sequence[Run], longest: int) -> list[Rung]:
        """The rungs before the last one; the longest run has ``longest`` + 1 rows."""


@readable
@dataclass(frozen=True)
class Whole(Strategy):
    """Whole trajectories from the beginning: for models that are near the data, such as rate constants.

    Parameters
    ----------
    iterations, last, tolerance, last_tolerance
        As of :class:`Strategy`. Default 80, 300, 1e-3 and 1e-6.

    Examples
    --------
    >>> from stiffml.training import Whole, fit
    >>> result = fit(Decay(), runs, strategy=Whole(last=50))
    >>> round(result.model.k.item(), 1)
    3.0
    """

    def _before(self, runs: Sequence[Run], longest: int) -> list[Rung]:
        return []


@readable
@dataclass(frozen=True)
class MultipleShooting(Strategy):
    """Intervals that start from the observations, of growing length: 1, 2, 4, 8, 16 rows, then whole runs.

    With length 1 it is collocation with the method's own formula, which is always solvable. It needs
    observations of all components with little noise: gaps are filled by straight lines.

    Parameters
    ----------
    lengths : tuple of int
        Increasing.
    iterations, last, tolerance, last_tolerance
        As of :class:`Strategy`. Default 80, 300, 1e-3 and 1e-6.

    References
    ----------
    H. G. Bock, Recent advances in parameter identification techniques for ODE (1983), here without unknown
    states between the intervals.

    Examples
    --------
    >>> from stiffml.training import MultipleShooting, fit
    >>> result = fit(Decay(), runs, strategy=MultipleShooting(lengths=(1, 4)))
    >>> round(result.model.k.item(), 1)
    3.0
    """

    lengths: tuple[int, ...] = (1, 2, 4, 8, 16)

    def __post_init__(self) -> None:
        super().__post_init__()
        lengths = tuple(whole("MultipleShooting: lengths", length) for length in self.lengths)
        if list(lengths) != sorted(set(lengths)):
            raise ValueError(f"MultipleShooting: lengths must increase, not {lengths}")
        object.__setattr__(self, "lengths", lengths)

    def _before(self, runs: Sequence[Run], longest: int) -> list[Rung]:
        return [
            Rung(f"intervals of {length}", shot(runs, length), self.iterations, self.tolerance)
            for length in self.lengths
            if length < longest
        ]


@readable
@dataclass(frozen=True)
class GrowingHorizon(Strategy):
    """Whole trajectories up to a time that grows by ``rows`` observations at a time.

    The trajectory of each rung is that of the one before, continued step by step. It needs no complete
    observations. Rows in which nothing is observed do not count: they only add steps.

    Parameters
    ----------
    rows : int
        Default 2. Longer extensions more often lead to where no trajectory exists: a model that was fitted
        up to a time holds for a while beyond it, not for long. With 1, parameters that the first observation
        does not determine may run away.
    iterations, last, tolerance, last_tolerance
        As of :class:`Strategy`. Default 60, 400, 1e-3 and 1e-6.

    Examples
    --------
    >>> from stiffml.training import GrowingHorizon, fit
    >>> result = fit(Decay(), runs, strategy=GrowingHorizon(rows=4))
    >>> round(result.model.k.item(), 1)
    3.0
    """

    rows: int = 2
    iterations: int = field(default=60, kw_only=True)
    last: int = field(default=400, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rows", whole("GrowingHorizon: rows", self.rows))

    def _before(self, runs: Sequence[Run], longest: int) -> list[Rung]:
        most = max(len(observed_rows(run)) for run in runs)
        return [
            # Fitted as closely as it goes: the better it is, the further it goes on rightly.
            Rung(f"the first {rows}", up_to(runs, rows), self.iterations, self.tolerance, to_target=False)
            for rows in range(self.rows, most, self.rows)
        ]


@readable
@dataclass(frozen=True)
class FullSpace(Strategy):
    """States and parameters together: the defects of the steps get a weight that grows, then steps hold.

    What is minimised is the misfit of the states, which are unknowns, plus weight · |defects|², in the same
    units. No trajectory need exist before the last rung, and neither
    noise nor gaps matter much: states begin as the observations, and leave them where the model says so. For
    known steps of small systems.

    Parameters
    ----------
    weights : tuple of float
        Increasing. Default 1 to 1e6 by factors of √10: at first a step may be off by as much as the
        observations, in units of the scale. The units of the defects are renewed with each weight, so that
        many weights with few iterations each reach more than few weights with many.
    iterations, last, tolerance, last_tolerance
        As of :class:`Strategy`. Default 25, 300, 1e-3 and 1e-6.

    References
    ----------
    J. O. Ramsay, G. Hooker, D. Campbell & J. Cao, Parameter estimation for differential equations, J. R.
    Stat. Soc. B 69 (2007) 741, for the weight that grows.

    Examples
    --------
    >>> from stiffml.training import FullSpace, fit
    >>> noisy = exact + 0.01 * np.random.default_rng(0).standard_normal(exact.shape)
    >>> noisy[3] = np.nan  # a gap
    >>> result = fit(Decay(), Runs([Run("a", times, noisy)], ["A"], noise=0.01), strategy=FullSpace())
    >>> bool(abs(result.model.k.item() - 3) < 0.2)
    True
    """

    weights: tuple[float, ...] = tuple(10.0 ** (k / 2) for k in range(13))
    iterations: int = field(default=25, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = tuple(number("FullSpace: weights", weight, above=0) for weight in self.weights)
        if not weights or list(weights) != sorted(set(weights)):
            raise ValueError(f"FullSpace: weights must increase, not {weights}")
        object.__setattr__(self, "weights", weights)

    def _before(self, runs: Sequence[Run], longest: int) -> list[Rung]:
        intervals = whole_runs(runs)
        return [
            Rung(f"weight {w:g}", intervals, self.iterations, self.tolerance, to_target=False, weight=w)
            for w in self.weights
        ]
