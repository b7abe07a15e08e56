"""Which kind of method suits a problem, in words, from its eigenvalues along a solution."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stiffml.diagnostics.eigen import KINDS
from stiffml.display import printed

if TYPE_CHECKING:
    import xarray

WIDTH = 79

SMALL = 100
"""Unknowns of a sample from which on an implicit step costs more explicit ones."""

PER_STEP, PER_LARGE_STEP = 3.0, 8.0
"""Explicit steps that cost as much time as an implicit one, of small and of larger systems; from
``benchmarks/results/advice.json``, where they are 2 to 4 and 6 to 11."""

CLEAR = 3.0
"""How far from break-even the costs must be for a verdict; closer, both kinds of methods serve."""

TURNS, DAMPED = 5.0, 0.1
"""Weakly damped oscillations: more than this many turns, with |Re λ| < 0.1 |Im λ|."""


@printed
@dataclass(frozen=True)
class Advice:
    """What the eigenvalues along a solution say about methods; prints as text of 79 columns.

    Attributes
    ----------
    verdict : str
        ``"not stiff"``, ``"mildly stiff"``, ``"stiff"``.
    oscillatory : bool
        Whether weakly damped oscillations make more than 5 turns.
    dae : bool
        Whether there are algebraic equations, which explicit methods do not take.
    methods : tuple of str
        Names, the first choice first.
    explicit_steps, implicit_steps : float
        Steps that dopri5 needs for stability, and those that the solution took; of an explicit solution the
        latter is NaN.
    reasons : tuple of str
        In words.

    Examples
    --------
    >>> from stiffml.diagnostics import advise, stiffness
    >>> advice = advise(stiffness(stiffml.solve(func, y0, 10 * t)))
    >>> advice.verdict, advice.methods[0]
    ('stiff', 'rosw-ra34pw2')
    """

    verdict: str
    oscillatory: bool
    dae: bool
    methods: tuple[str, ...]
    explicit_steps: float
    implicit_steps: float
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        also = ", oscillatory" * self.oscillatory + ", a DAE" * self.dae
        lines = [f"{self.verdict}{also}: {' or '.join(self.methods)}"]
        for reason in self.reasons:
            lines += textwrap.wrap(reason, WIDTH, initial_indent="- ", subsequent_indent="  ")
        return "\n".join(lines)


def advise(found: xarray.Dataset) -> Advice:
    """Advice on the method from the Dataset of :func:`stiffness`.

    An explicit method needs as many steps as stability asks, ∫ dt / (longest stable step), and at least about
    half of those that accuracy asks of the implicit solution. An implicit step costs as much time as 3
    explicit ones, of more than 100 unknowns as 8. Where the explicit cost is more than 3 times the implicit
    one the problem is *stiff*; where it is less than a third, *not stiff*; else *mildly stiff*, and either
    does. The tolerance of the solution matters: with a tighter one fewer problems are stiff.

    Parameters
    ----------
    found : xarray.Dataset
        Best of a solution by an adaptive implicit method without needless output times, each of which ends a
        step. Of an explicit one only can be said whether stability limits its steps.

    Returns
    -------
    Advice

    Examples
    --------
    >>> from stiffml.diagnostics import advise, stiffness
    >>> advise(stiffness(stiffml.solve(lambda t, y: -y, y0, t))).verdict
    'not stiff'
    """
    implicit, explicit = float(found.attrs["steps"]), float(found.attrs["explicit_steps"])
    unknowns, dae = int(found.attrs["unknowns"]), int(found.attrs["algebraic"]) > 0
    by_explicit = "RungeKutta" in found.attrs["method"]
    oscillatory = _turns(found) > TURNS
    reasons = [_timescales(found)]
    if by_explicit:
        limited = explicit > 0.7 * implicit
        verdict = "mildly stiff" if limited else "not stiff"
        reasons.append(
            f"The solution is explicit and took {implicit:.3g} steps; stability asks for {explicit:.2g}"
            + (
                ", so that it limits them: solve with bdf to see how many accuracy asks for."
                if limited
                else "."
            )
        )
        implicit = float("nan")
    else:
        per_step = PER_STEP if unknowns <= SMALL else PER_LARGE_STEP
        ratio = max(explicit, 0.5 * implicit) / (per_step * implicit)
        verdict = "stiff" if ratio > CLEAR else "not stiff" if ratio < 1 / CLEAR else "mildly stiff"
        reasons.append(
            f"An explicit method needs {explicit:.2g} steps for stability alone; this solution took "
            f"{implicit:.3g}, each of which costs about {per_step:.0f} explicit ones."
        )
    methods = _methods(verdict, oscillatory, dae, unknowns)
    reasons += _notes(found, verdict, oscillatory, dae, unknowns)
    return Advice(verdict, oscillatory, dae, methods, explicit, implicit, tuple(reasons))


def _methods(verdict: str, oscillatory: bool, dae: bool, unknowns: int) -> tuple[str, ...]:
    if dae:
        return ("rosw-rodas3", "dirk-es324sal") if oscillatory else ("bdf", "rosw-rodas3")
    if verdict == "not stiff":
        return ("dopri5",)
    implicit = ("rosw-ra34pw2", "cn") if oscillatory else ("rosw-ra34pw2", "bdf")
    return (*implicit, "dopri5") if verdict == "mildly stiff" else implicit


def _turns(found: xarray.Dataset) -> float:
    """The turns that weakly damped oscillations make, ∫ |Im λ| dt / 2π while they are weakly damped."""
    re, im = found["re"].values, np.abs(found["im"].values)
    weak = (found["kind"].values == KINDS.index("oscillation")) & (np.abs(re) < DAMPED * im)
    return _integral(found, np.where(weak, im, 0.0)) / (2 * np.pi)


def _integral(found: xarray.Dataset, values: np.ndarray) -> float:
    """∫ dt of the largest of the values (time, …) at each time."""
    largest, t = values.reshape(len(values), -1).max(axis=1), found["time"].values
    return float((np.abs(np.diff(t)) * (largest[1:] + largest[:-1]) / 2).sum())


def _timescales(found: xarray.Dataset) -> str:
    span, units = found.attrs["span"], found["time"].attrs["units"]
    units = "" if units == "1" else f" {units}"
    stiffness = found["stiffness"].values.reshape(found.sizes["time"], -1).max(axis=1)
    strongest, at = float(stiffness.max()), float(found["time"].values[stiffness.argmax()])
    if strongest <= 0:
        return f"Nothing decays in the span of {span:.3g}{units}."
    words = f"The fastest decay, at t = {at:.3g}{units}, takes {span / strongest:.2g}{units}, "
    words += f"{1 / strongest:.1g} of the span" if strongest > 1 else "longer than the span"
    fast = (found["kind"] == KINDS.index("fast decay")).sum("mode").values
    low, high = int(fast.min()), int(fast.max())
    modes = f"{low} mode{'s' * (low != 1)}" if low == high else f"{low} to {high} modes"
    of = "" if found.attrs["all_modes"] else f" of the {found.sizes['mode']} that were looked at"
    return f"{words}. Within a hundredth of it {modes}{of} die{'s' * (low == high == 1)} out."


def _notes(found: xarray.Dataset, verdict: str, oscillatory: bool, dae: bool, unknowns: int) -> list[str]:
    notes = []
    if dae:
        notes.append(
            f"Algebraic equations: {found.attrs['algebraic']}. Their modes are infinitely fast, and no "
            "explicit method takes them."
        )
    if oscillatory:
        notes.append(
            f"Weakly damped oscillations make {_turns(found):.2g} turns. BDF of order 3 and more is "
            "unstable near the imaginary axis, and beuler and bdf damp what should last; cn keeps amplitudes."
        )
    growth = _integral(found, np.where(np.isfinite(found["re"].values), found["re"].values, 0.0).clip(min=0))
    if growth > 5:
        notes.append(
            f"Some modes grow, by up to exp({growth:.2g}) in all if their directions line up: errors and "
            "gradients along them grow too."
        )
    if found.attrs["conserved"]:
        notes.append(f"Linear invariants: {found.attrs['conserved']}; as many eigenvalues are zero.")
    if not found.attrs["all_modes"]:
        notes.append(f"Only the {found.sizes['mode']} largest of {unknowns} eigenvalues are known.")
    if verdict == "stiff" and unknowns > 1000 and not found.attrs["split"]:
        notes.append("If the stiff part is simple, such as diffusion, try Split and an arkimex method.")
    return notes
