"""What an experiment is, and what it leaves: data, findings beside published numbers, pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

Form = Literal["quick", "medium", "full"]
FORMS: tuple[Form, ...] = ("quick", "medium", "full")
"""Seconds, at most a minute, and the size of the published set-up."""

Report = Callable[[int, int, str], None]
"""Told after each part of the work: how many are done, of how many, and what the last one was."""


@dataclass(frozen=True)
class Finding:
    """One number that an experiment yields, beside what was published and what it was meant to reach.

    Parameters
    ----------
    what : str
        What was measured, and where: "mean error at unseen times, bdf at rtol 1e-8".
    value : float
        NaN where there is none, which misses every bound.
    units : str
        Default "1", for numbers without.
    at_most, at_least : float, optional
        The bounds.
    published : str
        The number that the source gives, as text; "" for none.
    differs : str
        In what the set-up differs from the published one, or why a bound is missed.

    Examples
    --------
    >>> from stiffml.experiments import Finding
    >>> Finding("mean error", 2e-6, at_most=1e-5).met, Finding("mean error", 2e-6, at_most=1e-6).met
    (True, False)
    """

    what: str
    value: float
    units: str = "1"
    at_most: float | None = None
    at_least: float | None = None
    published: str = ""
    differs: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bounds are met; None where there are none."""
        if self.at_most is None and self.at_least is None:
            return None
        above = self.at_least is None or self.value >= self.at_least
        below = self.at_most is None or self.value <= self.at_most
        return above and below

    @property
    def bound(self) -> str:
        """The bounds, to read."""
        parts = [("≥", self.at_least), ("≤", self.at_most)]
        return ", ".join(f"{sign} {limit:g}" for sign, limit in parts if limit is not None)


@dataclass(frozen=True)
class Outcome:
    """What a run of an experiment yields.

    Parameters
    ----------
    data : xarray.Dataset
        All that the pictures show, with names, units and attributes.
    findings : tuple of Finding

    Examples
    --------
    >>> import xarray
    >>> from stiffml.experiments import Finding, Outcome
    >>> outcome = Outcome(xarray.Dataset({"error": 2e-6}), (Finding("mean error", 2e-6, at_most=1e-5),))
    >>> [finding.met for finding in outcome.findings]
    [True]
    """

    data: xarray.Dataset
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Experiment:
    """A published experiment, made of the public names of stiffml.

    Parameters
    ----------
    title : str
    question : str
        What it is to show, in a sentence or two.
    source : str
        Where it was published.
    run : callable
        ``run(form, report)`` does the work. Sizes follow from the form alone, and random numbers from fixed
        seeds.
    draw : callable
        ``draw(data)`` makes the pictures from the data of an outcome, by name.
    requires : tuple of str
        Packages that stiffml itself does not need, by the names that they are imported by.

    Examples
    --------
    >>> from stiffml import experiments
    >>> experiments.load("crnn").title
    'Reactions from noisy concentrations: chemical reaction neural networks'
    """

    title: str
    question: str
    source: str
    run: Callable[[Form, Report], Outcome]
    draw: Callable[[xarray.Dataset], Mapping[str, Figure]]
    requires: tuple[str, ...] = ()
