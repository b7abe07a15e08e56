"""Work against precision: what digits cost, by method and tolerance."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from problems.checking import compare
from problems.definition import Definition
from problems.references import Reference
from problems.solving import solve
from problems.trajectories import RTOL, RTOL_FIELD, reference_trajectory

if TYPE_CHECKING:
    import xarray

    from stiffml.plotting import Figure

SPLIT = "/split"


def measure(
    problem: Definition,
    methods: Sequence[str],
    rtols: Sequence[float],
    repeats: int = 3,
    report: Callable[[str, float], None] = lambda method, rtol: None,
) -> xarray.Dataset:
    """Solve to the end of the span with each method at each tolerance, and compare with the reference.

    Parameters
    ----------
    methods : sequence of str
        Names; ``"arkimex-3/split"`` takes the problem's two parts apart.
    repeats : int
        Solves whose median wall time counts. Default 3.
    report : callable
        report(method, rtol), called after each.

    Returns
    -------
    xarray.Dataset
        ``digits``, ``wall_s``, ``f_units`` (the wall time in evaluations of f at one state), ``rhs_evals``,
        ``jacobians`` and ``steps`` over (method, rtol); NaN where ``failure`` says why.

    Raises
    ------
    ValueError
        For a method that is unknown, or cannot take this problem.
    """
    import xarray

    from stiffml import SolveError
    from stiffml.methods import resolve

    for method in methods:
        resolve(method.removesuffix(SPLIT))
    reference = end_reference(problem)
    t = torch.tensor([problem.t_span[0], reference.t], dtype=torch.float64)
    one_call = seconds_per_call(problem)
    names = ("digits", "wall_s", "f_units", "rhs_evals", "jacobians", "steps")
    values = {name: np.full((len(methods), len(rtols)), np.nan) for name in names}
    failures = np.full((len(methods), len(rtols)), "", dtype=object)
    for i, method in enumerate(methods):
        name = method.removesuffix(SPLIT)
        for j, rtol in enumerate(rtols):
            seconds = []
            try:
                for _ in range(repeats):
                    before = time.perf_counter()
                    with torch.no_grad():
                        solution = solve(problem, t, method=name, rtol=rtol, split=name != method)
                    seconds.append(time.perf_counter() - before)
            except SolveError as error:
                failures[i, j] = str(error).splitlines()[0]
                report(method, rtol)
                continue
            assert isinstance(solution.y, Tensor)
            wall = statistics.median(seconds)
            stats = solution.stats
            digits = compare(problem, reference, solution.y[-1].numpy()).digits
            row = (digits, wall, wall / one_call, stats.rhs_evals, stats.jacobians, stats.accepted)
            for quantity, value in zip(names, row, strict=True):
                values[quantity][i, j] = value
            report(method, rtol)
    about = {
        "digits": ("-log10 of the largest relative error at the end", "1"),
        "wall_s": (f"wall time, median of {repeats}", "s"),
        "f_units": ("wall time in evaluations of f", "1"),
        "rhs_evals": ("evaluations of f", "1"),
        "jacobians": ("Jacobians", "1"),
        "steps": ("accepted steps", "1"),
    }
    dims = ("method", "rtol")
    variables = {
        name: (dims, array, dict(zip(("long_name", "units"), about[name], strict=True)))
        for name, array in values.items()
    }
    variables["failure"] = (dims, failures.astype(str), {"long_name": "why the solve failed"})
    return xarray.Dataset(
        variables,
        {"method": list(methods), "rtol": list(rtols)},
        attrs={
            "problem": problem.name,
            "title": problem.title,
            "t": reference.t,
            "reference": f"{reference.source} (relative error {reference.rtol_valid:g})",
            "seconds_per_call": one_call,
        },
    )


def end_reference(problem: Definition) -> Reference:
    """The known state at the end of the span, or one computed by an integrator of scipy."""
    end = problem.t_span[1]
    for reference in problem.references:
        if reference.t == end:
            return reference
    y = reference_trajectory(problem, np.array([problem.t_span[0], end]))[1]
    rtol = RTOL_FIELD if problem.kind == "pde" else RTOL
    size = np.abs(y)
    if problem.grid:
        size = size.max(axis=tuple(range(1, y.ndim)), keepdims=True)
    source = f"computed by an integrator of scipy at rtol {rtol:g}"
    floor = np.asarray(problem.atol(1.0))
    return Reference(end, y, source, 1e3 * rtol, "", None, np.maximum(size, floor))


def seconds_per_call(problem: Definition) -> float:
    """Median time of one evaluation of the right-hand side at the initial state, without gradients."""
    func, y0 = problem.func(), problem.initial_state()
    t = torch.tensor(problem.t_span[0], dtype=torch.float64)
    seconds = []
    with torch.no_grad():
        for _ in range(50):
            before = time.perf_counter()
            func(t, y0)
            seconds.append(time.perf_counter() - before)
    return statistics.median(seconds)


def plot(data: xarray.Dataset) -> Figure:
    """Digits against wall time and against evaluations of f, one line a method."""
    from stiffml.plotting import Figure, series

    figure = Figure(figsize=(9.6, 4.0))
    panels = figure.subplots(1, 2, sharey=True)
    for panel, cost in zip(panels, ("wall_s", "rhs_evals"), strict=True):
        for number, method in enumerate(data["method"].values):
            one = data.sel({"method": method})
            panel.plot(one[cost], one["digits"], label=str(method), **series(number))
        unit = data[cost].attrs["units"]
        label = data[cost].attrs["long_name"]
        panel.set(xscale="log", xlabel=label if unit == "1" else f"{label} [{unit}]")
        panel.grid(alpha=0.25, which="both")
    panels[0].set_ylabel(f"digits at t = {data.attrs['t']:g}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(data.attrs["title"] or data.attrs["problem"], fontsize=11)
    return figure
