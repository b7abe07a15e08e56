"""What a fit returns: the model, its history, how well it is determined, how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from stiffml.checks import number
from stiffml.display import Table, printed, short, table, with_units
from stiffml.training.band import Band, band_of
from stiffml.training.data import Run, Runs
from stiffml.training.data.run import increasing
from stiffml.training.lm.covariance import Covariance
from stiffml.training.lm.profile import Profile, Profiler
from stiffml.training.resolving import (
    ATOL,
    MAX_STEPS,
    RTOL,
    Report,
    Resolved,
    draw,
    drift_of,
    errors,
    mean_of,
    resolve,
)
from stiffml.training.starts import start_of, units_of

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


def _runs(runs: Runs) -> str:
    count = len(runs)
    return f"{count} run{'s' if count != 1 else ''} of {len(runs.components)} components"


@printed
@dataclass(frozen=True)
class Result:
    """The result of :func:`stiffml.training.fit`.

    Attributes
    ----------
    model : nn.Module
        With the fitted weights.
    error : float
        The mean absolute residual over all observations, in units of ``scale``, along the steps of the fit.
        Where weights are given, each residual is multiplied by the root of its weight, as it is in the fit.
    outcome : str
        Why the fit ended.
    history : xarray.Dataset
        A row for each iteration.
    attempts : list
        Of each attempt its ``error``, and why it ended.
    failures : list
        Solves that failed on the way: attempt, iteration, run, time and cause of each.
    scale : ndarray
        (components,) in whose units errors are.
    initial : dict of str to ndarray
        By run, its initial state (components,), with the fitted values in it.
    covariance : Covariance or None
        Of all that was fitted; None with a first-order optimizer, and for more than 2 000 numbers.

    Examples
    --------
    >>> from stiffml.training import fit
    >>> result = fit(Decay(), runs, steps=stiffml.Grid(10))
    >>> round(result.model.k.item(), 3), bool(result.error < 1e-3), result.failures
    (3.0, True, [])
    """

    model: nn.Module
    error: float
    outcome: str
    history: xarray.Dataset
    attempts: list[Any]
    failures: list[Any]
    scale: np.ndarray
    initial: dict[str, np.ndarray]
    covariance: Covariance | None
    data: Runs = field(repr=False)
    validate: Runs | None = field(repr=False, default=None)
    equations: Mapping[str, Any] = field(repr=False, default_factory=dict)
    compile: bool = field(repr=False, default=False)
    profiler: Profiler | None = field(repr=False, default=None, compare=False)

    def _rows(self) -> list[tuple[str, str]]:
        rows = [
            ("outcome", self.outcome),
            ("error", f"{self.error:.3g} in units of the scale, along the steps of the fit"),
            ("model", short(self.model)),
            ("iterations", str(self.history.sizes.get("iteration", 0))),
            ("attempts", str(len(self.attempts))),
            ("failed solves", str(len(self.failures))),
            ("data", _runs(self.data)),
        ]
        if self.validate is not None:
            rows.append(("held out", _runs(self.validate)))
        if self.covariance is not None:
            determined = f"{self.covariance.rank} of {len(self.covariance.names)} directions determined"
            rows.append(("covariance", determined))
        return rows

    def __str__(self) -> str:
        return table("Result", self._rows())

    def _table(self) -> Table:
        return (), self._rows()

    def profile(self, name: str, *, level: float = 0.95, points: int = 12) -> Profile:
        """The profile likelihood of one number: how the misfit rises where it is held and all others fitted.

        Its interval holds where the model bends, unlike that of ``covariance``, and shows on which side a
        number is not determined at all. From the fit outwards, each value takes a fit of the others, which
        begins with those of the value before.

        Parameters
        ----------
        name : str
            As in ``covariance.names``: ``"k"``, ``"layer.weight[0, 1]"``, ``"y0 of exp00: A"``.
        level : float
            Of the interval. Default 0.95.
        points : int
            Values on each side, at most; it ends before where the misfit has risen well above the level.
            Default 12, which reach 64 standard errors.

        Raises
        ------
        ValueError
            For an unknown name, or a fit by an optimizer of torch or without a covariance.

        References
        ----------
        A. Raue et al., Structural and practical identifiability analysis of partially observed dynamical
        models by exploiting the profile likelihood, Bioinformatics 25 (2009) 1923.

        Examples
        --------
        >>> from stiffml.training import fit
        >>> low, high = fit(Decay(), runs, steps=stiffml.Grid(10)).profile("k").interval
        >>> low < 3 < high
        True
        """
        if self.profiler is None:
            raise ValueError(
                "profile: this fit has no covariance; it needs optimizer='lm' and at most 2 000 numbers"
            )
        return self.profiler.profile(name, level, points)

    def resolved(self, runs: Runs | None = None, *, rtol: float = RTOL, atol: float = ATOL) -> list[Resolved]:
        """The model solved again with BDF and adaptive steps of tight tolerances, at the times of runs.

        Runs that were fitted to, in whatever set, start where the fit found them to. Others start from their
        y0 as far as it is known exactly; what of it was measured with an error, or has to be learned, is
        fitted to the run with the model held, so that errors are those of the model, not of one observation.

        Parameters
        ----------
        runs : Runs
            Default: those to validate on, or else those fitted to.
        rtol, atol : float
            Default 1e-7, and 1e-10 of the smallest scale.

        Examples
        --------
        >>> from stiffml.training import fit
        >>> again = fit(Decay(), runs, steps=stiffml.Grid(10)).resolved()
        >>> [one.run.name for one in again], bool(abs(again[0].y - exact).max() < 1e-4)
        (['a', 'b'], True)
        """
        runs = (self.data if self.validate is None else self.validate) if runs is None else runs
        if not isinstance(runs, Runs):
            raise TypeError(f"runs must be Runs, not {type(runs).__name__}")
        rtol, atol = number("rtol", rtol, above=0), number("atol", atol, above=0) * float(self.scale.min())
        found = []
        for run in runs:
            if self._is_fitted(run):
                y0 = self.initial[run.name]
            else:
                units = units_of(runs, self.scale)
                y0 = start_of(self.model, run, units, rtol=rtol, atol=atol, **self.equations)
            found.append(resolve(self.model, run, y0, rtol, atol, compile=self.compile, **self.equations))
        return found

    def _is_fitted(self, run: Run) -> bool:
        """Whether it was fitted to: a run of this name, with these times, values and start."""
        if run.name not in self.data.names:
            return False
        own = self.data[run.name]
        return own is run or all(
            np.array_equal(getattr(own, name), getattr(run, name), equal_nan=True)
            for name in ("times", "values", "y0", "y0_noise")
        )

    def report(
        self,
        runs: Runs | None = None,
        *,
        invariants: Mapping[str, Any] | None = None,
        rtol: float = RTOL,
        atol: float = ATOL,
    ) -> Report:
        """Errors by run and component of the model solved again; print it as a table.

        They are means of √weight · |error| in units of ``scale``, as ``error`` is along the steps of the fit.

        Parameters
        ----------
        runs : Runs
            Default: those to validate on, or else those fitted to.
        invariants : mapping
            What should not change: by name the weights (components,) of a sum, or a function of states
            (n, components) -> (n,). Reported is the largest change along any run.
        rtol, atol : float
            As for :meth:`resolved`.

        Examples
        --------
        >>> from stiffml.training import fit
        >>> report = fit(Decay(), runs[:1], steps=stiffml.Grid(10)).report(runs[1:])
        >>> report.components, bool(report.errors.max() < 1e-3)
        (('A',), True)
        """
        found = self.resolved(runs, rtol=rtol, atol=atol)
        fitted = [one.run.name for one in found if self._is_fitted(one.run)]
        return Report(
            runs=tuple(one.run.name for one in found),
            components=self.data.components,
            errors=np.stack([errors(one, self.scale) for one in found]),
            mean=mean_of(found, self.scale),
            scale=self.scale,
            drift=drift_of(found, invariants or {}),
            messages={one.run.name: one.message for one in found if one.message},
            training=self.error,
            unseen=len(fitted) < len(found),
            complete=sorted(fitted) == sorted(self.data.names) and len(fitted) == len(found),
        )

    def band(
        self, run: str, times: Any, *, level: float = 0.95, rtol: float = RTOL, atol: float = ATOL
    ) -> Band:
        """The solution of a run that was fitted to, with intervals from the covariance of the fit.

        To first order in the errors of all that was fitted, initial values included; a prior counts as
        observations at its centre.

        Parameters
        ----------
        run : str
            Its name.
        times : array_like
            (n,), increasing, from the beginning of the run on.
        level : float
            Default 0.95.
        rtol, atol : float
            As for :meth:`resolved`.

        Raises
        ------
        ValueError
            For another run, times that do not begin with the run's, or a fit without a covariance.

        Examples
        --------
        >>> from stiffml.training import fit
        >>> band = fit(Decay(), runs, steps=stiffml.Grid(10)).band("a", np.linspace(0, 2, 200))
        >>> axes.fill_between(band.times, band.low[:, 0], band.high[:, 0], alpha=0.3)  # doctest: +SKIP
        >>> band.y.shape, bool((band.high >= band.low).all())
        ((200, 1), True)
        """
        if self.covariance is None:
            raise ValueError(
                "band: this fit has no covariance, which optimizer='lm' finds for up to 2 000 numbers"
            )
        if run not in self.initial:
            raise ValueError(f"run: none of those fitted to is {run!r}; they are {', '.join(self.initial)}")
        level = number("level", level, above=0)
        if level >= 1:
            raise ValueError(f"level must lie between 0 and 1, not {level}")
        at, fitted = increasing("times", times), self.data[run]
        if at[0] != fitted.times[0]:
            raise ValueError(f"times must begin with that of the run, {fitted.times[0]:g}, not {at[0]:g}")
        names = list(self.covariance.names)
        learned = [
            (c, names.index(name))
            for c, component in enumerate(self.data.components)
            if (name := f"y0 of {run}: {component}") in names
        ]
        rtol, atol = number("rtol", rtol, above=0), number("atol", atol, above=0) * float(self.scale.min())
        asked = {"rtol": rtol, "atol": atol, **self.equations}
        return band_of(self.model, at, self.initial[run], self.covariance, learned, level, MAX_STEPS, **asked)

    def plot(self, runs: Runs | None = None) -> Figure:
        """Observations as points, the model solved again as lines, a panel for each component, at most 16."""
        labels = [with_units(name, self.data.units_of(name)) for name in self.data.components]
        return draw(self.resolved(runs), self.data.components, labels, self.data.labels.time_units)
