"""Work against precision: what digits cost, by method and tolerance."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from problems.checking import compare
from problems.definition import Definition
from problems.function import Parts, Rhs
from problems.references import Reference
from problems.solving import solve
from problems.trajectories import RTOL, RTOL_FIELD, reference_trajectory
from stiffml.checks import number
from stiffml.display import with_units

if TYPE_CHECKING:
    import xarray

    from stiffml.plotting import Figure

SPLIT = "/split"


QUANTITIES = {
    "digits": ("-log10 of the largest relative error at the end", "1"),
    "wall_s": ("wall time, median of the solves", "s"),
    "f_units": ("wall time in evaluations of f", "1"),
    "rhs_evals": ("evaluations of f", "1"),
    "jacobians": ("Jacobians", "1"),
    "steps": ("accepted steps", "1"),
}
LONGEST = 60.0


class TooLong(RuntimeError):
    """A solve took longer than it may."""


def measure(
    problem: Definition,
    methods: Sequence[str],
    rtols: Sequence[float],
    repeats: int = 3,
    report: Callable[[str, float], None] = lambda method, rtol: None,
    save: Callable[[xarray.Dataset], None] = lambda data: None,
    longest: float = LONGEST,
) -> xarray.Dataset:
    """Solve to the end of the span with each method at each tolerance, and compare with the reference.

    Each method solves once unmeasured, at the first tolerance.

    Parameters
    ----------
    methods : sequence of str
        Names; ``"arkimex-3/split"`` takes the problem's two parts apart.
    repeats : int
        Solves whose median wall time counts. Default 3.
    report : callable
        report(method, rtol), called after each.
    save : callable
        save(data), called after each with all that has been measured.
    longest : float
        Seconds after which a solve is stopped; smaller tolerances are then not tried. Default 60.

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
    from stiffml.methods import resolve

    for method in methods:
        resolve(method.removesuffix(SPLIT))
    longest = number("longest", longest, above=0)
    reference = end_reference(problem)
    one_call = seconds_per_call(problem)
    data = _empty(problem, methods, rtols, reference, one_call)
    for i, method in enumerate(methods):
        slow = 0.0  # the tolerance that took too long
        for j, rtol in enumerate(rtols):
            if rtol > slow:
                found = _measured(problem, method, rtol, repeats, reference, longest, warm=j == 0)
            else:
                found = f"not tried: rtol {slow:g} took more than {longest:g} s"
            if isinstance(found, str):
                data["failure"].values[i, j] = found
                slow = max(slow, rtol) if found.startswith("took") else slow
            else:
                for quantity, value in found.items():
                    data[quantity].values[i, j] = value
                data["f_units"].values[i, j] = found["wall_s"] / one_call
            report(method, rtol)
            save(data)
    return data


def _measured(
    problem: Definition,
    method: str,
    rtol: float,
    repeats: int,
    reference: Reference,
    longest: float,
    warm: bool,
) -> dict[str, float] | str:
    """What a solve costs and how accurate it is, or why it fails."""
    from stiffml import SolveError

    t = torch.tensor([problem.t_span[0], reference.t], dtype=torch.float64)
    name = method.removesuffix(SPLIT)
    watch = _Watch()
    watched = watch.over_problem(problem)
    seconds: list[float] = []
    try:
        for turn in range(-int(warm), repeats):
            before = time.perf_counter()
            watch.end = before + longest
            with torch.no_grad():
                solution = solve(watched, t, method=name, rtol=rtol, split=name != method)
            if turn >= 0:
                seconds.append(time.perf_counter() - before)
            if sum(seconds) > longest:
                break
    except TooLong:
        return f"took more than {longest:g} s"
    except SolveError as error:
        return str(error).splitlines()[0]
    assert isinstance(solution.y, Tensor)
    stats = solution.stats
    return {
        "digits": compare(problem, reference, solution.y[-1].numpy()).digits,
        "wall_s": statistics.median(seconds),
        "rhs_evals": stats.rhs_evals,
        "jacobians": stats.jacobians,
        "steps": stats.accepted,
    }


class _Watch:
    """The time at which a solve has taken too long."""

    end = math.inf

    def over(self, f: Rhs) -> Rhs:
        def watched(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
            if time.perf_counter() > self.end:
                raise TooLong
            return f(t, y, p)

        return watched

    def over_problem(self, problem: Definition) -> Definition:
        """The problem with functions that end a solve which takes too long."""
        parts = problem.parts
        if parts is not None:
            parts = Parts(self.over(parts.implicit), self.over(parts.explicit), parts.linear)
        return dataclasses.replace(problem, rhs=self.over(problem.rhs), parts=parts)


def _empty(
    problem: Definition,
    methods: Sequence[str],
    rtols: Sequence[float],
    reference: Reference,
    one_call: float,
) -> xarray.Dataset:
    """The Dataset before anything is measured."""
    import xarray

    dims, shape = ("method", "rtol"), (len(methods), len(rtols))
    variables: dict[str, tuple] = {
        name: (dims, np.full(shape, np.nan), {"long_name": long_name, "units": units})
        for name, (long_name, units) in QUANTITIES.items()
    }
    variables["failure"] = (dims, np.full(shape, "", dtype=object), {"long_name": "why the solve failed"})
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
        for index, method in enumerate(data["method"].values):
            one = data.sel({"method": method})
            panel.plot(one[cost], one["digits"], label=str(method), **series(index))
        panel.set(xscale="log", xlabel=with_units(data[cost].attrs["long_name"], data[cost].attrs["units"]))
        panel.grid(alpha=0.25, which="both")
    panels[0].set_ylabel(f"digits at t = {data.attrs['t']:g}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(data.attrs["title"] or data.attrs["problem"], fontsize=11)
    return figure
