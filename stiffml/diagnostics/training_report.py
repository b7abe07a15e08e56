"""What a training is like where it stands: gradients, errors, what data determine, scales, steps, method."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.checks import flag
from stiffml.diagnostics.advice import WIDTH, Advice, advise
from stiffml.diagnostics.gradient_check import GradientReport, check_gradients
from stiffml.diagnostics.identifiability import Identifiability, identifiability
from stiffml.diagnostics.rates import rates_of
from stiffml.diagnostics.spectrum import stiffness
from stiffml.diagnostics.training_notes import Found, notes_of
from stiffml.display import printed
from stiffml.errors import SolveError
from stiffml.interface.solve import solve
from stiffml.methods import Method, resolve
from stiffml.steps import Adaptive, Grid, Steps
from stiffml.training.asked import require_runs, scale_of, solving_arguments, with_newton
from stiffml.training.data import Run, Runs
from stiffml.training.lm.intervals import Interval, shot, whole
from stiffml.training.lm.levenberg_marquardt import TrialError
from stiffml.training.lm.residuals import Residuals
from stiffml.training.resolving import ATOL, RTOL
from stiffml.training.resolving import resolve as solved_tightly

CHECKED = 6
"""Observation times of the first run over which gradients are checked."""

MAX_STEPS = 20_000


@printed
@dataclass(frozen=True)
class TrainingReport:
    """What :func:`training_step` found; prints as text of at most 79 columns.

    Attributes
    ----------
    rms : float
        Of all residuals, in units of ``scale``.
    by_component : dict of str to float
        Root mean square residual of each component.
    by_time : ndarray
        (3,) shares of the squared residuals in the first, middle and last third of each run's rows.
    worst : tuple
        Run, time, component and value of the largest residual.
    residuals : tuple of ndarray
        Of each run (n, components), NaN where nothing was observed.
    scale : ndarray
        (components,)
    identifiability : Identifiability
    rates : dict of str to float
        Of each component how far the model moves it over how far the data do, from row to row at the observed
        states; medians.
    step_error : float
        Root mean square difference, at the observed times, between the fit's steps and a tight solve, in
        units of ``scale``; NaN if either does not reach the end.
    gradients : GradientReport or None
        None if not checked; ``notes`` says why.
    advice : Advice or None
        On the method, along the first run; None if the model cannot be solved there.
    stopped : str
        Why whole runs could not be solved; residuals are then those from one row to the next. Else empty.
    notes : tuple of str
        What to change, in words; empty if nothing stands out.

    Examples
    --------
    >>> from stiffml.diagnostics import training_step
    >>> report = training_step(Decay(), runs, check=False)
    >>> report.worst[:2], report.stopped  # run and time of the largest residual
    (('a', 0.5), '')
    """

    rms: float
    by_component: dict[str, float]
    by_time: np.ndarray
    worst: tuple[str, float, str, float]
    residuals: tuple[np.ndarray, ...]
    scale: np.ndarray
    identifiability: Identifiability
    rates: dict[str, float]
    step_error: float
    gradients: GradientReport | None
    advice: Advice | None
    stopped: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        run, time, component, value = self.worst
        early, middle, late = self.by_time
        lines = [f"residuals: rms {self.rms:.3g} in units of the scale"]
        lines.append(
            f"  by time: first third {early:.0%}, middle {middle:.0%}, last {late:.0%} of the squares"
        )
        lines.append(f"  largest: {value:.3g} for {component} in {run} at t = {time:.4g}")
        lines.append(f"  {'component':20} {'rms':>10} {'scale':>10} {'model/data':>12}")
        for (name, size), scale in zip(self.by_component.items(), self.scale, strict=True):
            lines.append(f"  {name[:20]:20} {size:10.3g} {scale:10.3g} {self.rates[name]:12.3g}")
        lines.append(f"steps: error {self.step_error:.2g} in units of the scale")
        lines.append(str(self.identifiability))
        if self.gradients is not None:
            worst = max(check.error for check in self.gradients.checks)
            verdict = "right" if self.gradients.ok else "WRONG"
            lines.append(f"gradients: {verdict}, largest relative error {worst:.1e}")
        if self.advice is not None:
            lines.append(f"method: {self.advice}")
        notes = self.notes or ("nothing stands out",)
        for note in notes:
            lines += textwrap.wrap(note, WIDTH, initial_indent="=> ", subsequent_indent="   ")
        return "\n".join(lines)


def training_step(
    model: nn.Module,
    data: Runs,
    *,
    method: str | Method = "sdirk3",
    steps: Steps | None = None,
    scale: Any = None,
    check: bool = True,
    **arguments: Any,
) -> TrainingReport:
    """Look at a training where it stands, with the arguments of :func:`stiffml.training.fit`.

    Nothing is changed. It costs a solve of all runs with sensitivities, one with tight tolerances, and, with
    ``check``, some twenty short solves for each parameter tensor.

    Parameters
    ----------
    model : nn.Module
        func(t, y) -> dy/dt of the components of the runs.
    data : Runs
    method, steps, scale, **arguments
        As for :func:`stiffml.training.fit`, with its defaults.
    check : bool
        Whether to check gradients, over the first times of the first run; float64 only. Default True.

    Returns
    -------
    TrainingReport

    Raises
    ------
    TypeError, ValueError
        As :func:`stiffml.training.fit`.
    TrialError
        If the model cannot be solved from one observation to the next either.

    Examples
    --------
    >>> from stiffml.diagnostics import training_step
    >>> report = training_step(Decay(k=2.0), runs, check=False)
    >>> bool(report.rms > 5), round(report.rates["A"], 1)  # the model is 2/3 as fast as the data
    (True, 0.7)
    >>> print(report)  # doctest: +SKIP
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module, not {type(model).__name__}; make it from its seed first")
    flag("check", check)
    require_runs(data, None)
    steps = Grid() if steps is None else steps
    solving, equations = solving_arguments(arguments, method, steps)
    sizes, known_noise = scale_of(scale, data)
    solving = with_newton(solving, sizes, model)
    residuals = Residuals(model, data, sizes, solving)
    theta = residuals.vector.read()
    intervals, stopped = whole(data), ""
    try:
        point = residuals.of(intervals).begin(theta, None)
    except TrialError as error:
        intervals, stopped = shot(data, 1), str(error)
        point = residuals.of(intervals).begin(theta, None)
    try:
        found = identifiability(residuals.vector, point.jacobian(), point.residuals, known_noise)
    finally:
        residuals.vector.write(theta)
    arranged = _arranged(residuals, intervals, point.residuals)
    difference = np.nan if stopped else _step_error(model, data, sizes, arranged, equations)
    advice, unsolved = _advice(model, data, sizes, equations)
    gradients, unchecked = _gradients(model, data[0], solving, bool(stopped)) if check else (None, "")
    rates = rates_of(model, data)
    rms = _rms(np.concatenate([one.ravel() for one in arranged]))
    given = Found(rms, difference, rates, gradients, advice, found, stopped, resolve(method), steps)
    return TrainingReport(
        rms=rms,
        by_component={
            name: _rms(np.concatenate([one[:, c] for one in arranged]))
            for c, name in enumerate(data.components)
        },
        by_time=_by_time(arranged),
        worst=_worst(arranged, data),
        residuals=tuple(arranged),
        scale=sizes,
        identifiability=found,
        rates=rates,
        step_error=difference,
        gradients=gradients,
        advice=advice,
        stopped=stopped,
        notes=(*notes_of(given), *filter(None, (unsolved, unchecked))),
    )


def _arranged(residuals: Residuals, intervals: Sequence[Interval], values: np.ndarray) -> list[np.ndarray]:
    """The residuals (m,) by run, (n, components), NaN where there are none."""
    found = [np.full(run.values.shape, np.nan) for run in residuals.runs]
    at = 0
    for interval in intervals:
        counts = residuals.observed(interval)
        count = int(counts.sum())
        found[interval.run][interval.first : interval.last + 1][counts] = values[at : at + count]
        at += count
    return found


def _rms(values: np.ndarray) -> float:
    seen = values[~np.isnan(values)]
    return float(np.sqrt((seen**2).mean())) if len(seen) else float("nan")


def _by_time(arranged: Sequence[np.ndarray]) -> np.ndarray:
    sums = np.zeros(3)
    for one in arranged:
        third = np.minimum(np.arange(len(one)) * 3 // len(one), 2)
        np.add.at(sums, third, np.nansum(one**2, axis=1))
    return sums / sums.sum() if sums.sum() > 0 else sums


def _worst(arranged: Sequence[np.ndarray], data: Runs) -> tuple[str, float, str, float]:
    largest = [float(np.nanmax(np.abs(one), initial=0.0)) for one in arranged]
    number = int(np.argmax(largest))
    one = np.nan_to_num(np.abs(arranged[number]))
    row, component = np.unravel_index(int(one.argmax()), one.shape)
    value = float(np.nan_to_num(arranged[number][row, component]))
    return data[number].name, float(data[number].times[row]), data.components[int(component)], value


def _step_error(
    model: nn.Module, data: Runs, scale: np.ndarray, arranged: Sequence[np.ndarray], equations: dict[str, Any]
) -> float:
    """The difference to a tight solve, in the units of residuals."""
    differences = []
    for run, own in zip(data, arranged, strict=True):
        tight = solved_tightly(model, run, run.y0, RTOL, ATOL * float(scale.min()), **equations)
        if tight.message:
            return float("nan")
        differences.append(((tight.y - run.values) * np.sqrt(run.weights) / scale - own).ravel())
    return _rms(np.concatenate(differences))


def _advice(
    model: nn.Module, data: Runs, scale: np.ndarray, equations: dict[str, Any]
) -> tuple[Advice | None, str]:
    """On the method, from a solve of the first run by bdf, without outputs between; or why there is none."""
    dtype, run = next(p.dtype for p in model.parameters()), data[0]
    t = torch.tensor([run.times[0], run.times[-1]], dtype=torch.float64)
    atol: Tensor = torch.from_numpy(1e-6 * scale).to(dtype)
    try:
        with torch.no_grad():
            y0 = torch.from_numpy(run.y0.copy()).to(dtype)
            steps = Adaptive(max_steps=MAX_STEPS)
            sol = solve(model, y0, t, method="bdf", rtol=1e-4, atol=atol, steps=steps, **equations)
        units = data.labels.time_units
        return advise(stiffness(sol, names=data.components, time_units=units)), ""
    except (SolveError, ValueError, RuntimeError) as error:
        return None, f"No advice on the method, as bdf does not solve run {run.name}: {error}"


def _gradients(
    model: nn.Module, run: Run, solving: dict[str, Any], stopped: bool
) -> tuple[GradientReport | None, str]:
    """The check over the first times of a run, over the first interval where no more can be solved."""
    if any(p.dtype != torch.float64 for p in model.parameters()):
        return None, "Gradients were not checked: that needs float64, model.double()."
    rows = 2 if stopped else CHECKED
    y0, t = torch.from_numpy(run.y0.copy()), torch.from_numpy(run.times[:rows].copy())
    solving = {name: value for name, value in solving.items() if name != "newton"}
    try:
        return check_gradients(model, y0, t, **solving), ""
    except (SolveError, ValueError, RuntimeError) as error:
        return None, f"Gradients could not be checked: {error}"
