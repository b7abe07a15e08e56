"""Figures of a comparison: a line for each method and optimizer, the median over seeds."""

from __future__ import annotations

import numpy as np
import xarray

from stiffml.plotting import PAPER, SERIES, STROKES, Figure, styled

POINTS = 300
"""Of a line over iterations, evenly by decades."""

ERROR = "mean error, solved again"
LARGEST = 3.0
"""Error up to which an axis goes: a trajectory that runs away for a moment would hide all others."""


def figures(data: xarray.Dataset, dark: bool = False) -> dict[str, Figure]:
    """The figures by name."""
    held = bool(data["held_out"].notnull().any())
    error = "held_out" if held else "error"
    label = f"{ERROR}, held out" if held else ERROR
    seconds, evaluations = (up_to(data, name) for name in ("cpu_s", "rhs_evals"))
    iterations = data["at"]
    steps = data["accepted"] + data["rejected"]
    over = data["iteration"].broadcast_like(data["loss"])
    drawn = {
        "error-time": (seconds, data[error], "CPU time of the training [s]", label, "snapshot"),
        "error-evaluations": (evaluations, data[error], "evaluations of f", label, "snapshot"),
        "error-iterations": (iterations, data[error], "iteration", label, "snapshot"),
        "loss": (over, data["loss"], "iteration", "training loss (mean square)", "iteration"),
        "gradient": (over, data["norm"], "iteration", "norm of the gradient", "iteration"),
        "steps": (over, steps, "iteration", "steps in an iteration", "iteration"),
        "stiffness": (
            seconds,
            data["stiffness"],
            "CPU time of the training [s]",
            "fastest decay × span",
            "snapshot",
        ),
    }
    return {name: _draw(data, *what, dark) for name, what in drawn.items()}


TITLES = {
    "error-time": "Error against time",
    "error-evaluations": "Error against evaluations of the model",
    "error-iterations": "Error against iterations",
    "loss": "What the optimizers minimise",
    "gradient": "Gradient",
    "steps": "Steps taken in an iteration",
    "stiffness": "How stiff the learned field has become",
}


def up_to(data: xarray.Dataset, name: str) -> xarray.DataArray:
    """The sum of costs up to each snapshot; of none NaN where there is none."""
    sums = np.nancumsum(data[name].values, axis=-1)
    sums = np.concatenate([np.zeros((*sums.shape[:-1], 1)), sums], axis=-1)
    at = data["at"].values
    found = np.take_along_axis(sums, np.nan_to_num(at).astype(int), axis=-1)
    return xarray.DataArray(np.where(np.isnan(at), np.nan, found), dims=data["at"].dims)


def _draw(
    data: xarray.Dataset,
    x: xarray.DataArray,
    y: xarray.DataArray,
    x_label: str,
    y_label: str,
    dim: str,
    dark: bool,
) -> Figure:
    with styled(dark):
        figure = Figure(figsize=(4.6, 3.9))
        panel = figure.subplots()
        failed = False
        for o, optimizer in enumerate(data["optimizer"].values):
            for m, method in enumerate(data["method"].values):
                where = {"method": m, "optimizer": o}
                xs, ys = (one.transpose(..., dim).isel(where).values for one in (x, y))
                ys = np.where(np.isfinite(ys) & (ys > 0), ys, np.nan)
                colour, marker = SERIES[m % len(SERIES)]
                stroke = STROKES[o % len(STROKES)]
                for one_x, one_y in zip(xs, ys, strict=True):
                    panel.plot(*_thinned(one_x, one_y), color=colour, lw=0.5, alpha=0.35, ls=stroke)
                line = _middle(xs, ys)
                if not len(line[0]):
                    continue
                every = max(1, len(line[0]) // 8)
                panel.plot(
                    *line,
                    color=colour,
                    ls=stroke,
                    lw=1.5,
                    marker=marker,
                    ms=5,
                    mfc=colour if o % 2 == 0 else PAPER[dark],
                    markevery=(m % every, every),
                    label=f"{method}, {optimizer}",
                )
                reasons = data["reason"].isel(where).values
                for one_x, one_y, reason in zip(xs, ys, reasons, strict=True):
                    there = np.flatnonzero(np.isfinite(one_x) & np.isfinite(one_y))
                    if reason and len(there):
                        panel.plot(one_x[there[-1]], one_y[there[-1]], "x", color=colour, ms=9, mew=2)
                        failed = True
        if failed:
            panel.plot([], [], "x", color="grey", ms=8, mew=2, label="could not go on", ls="none")
        panel.set(xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
        if y.name in ("error", "held_out"):
            known = y.values[np.isfinite(y.values) & (y.values > 0)]
            panel.set_ylim(known.min(initial=LARGEST) / 2, min(known.max(initial=0.1) * 2, LARGEST))
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most some hundred points, evenly by decades."""
    count = int(np.isfinite(x).sum())
    chosen = np.unique(np.geomspace(1, max(count, 1), POINTS).round().astype(int)) - 1
    return x[chosen], y[chosen]


def _middle(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The median over seeds (seeds, n), where more than half of them are, at n or fewer places."""
    there = np.isfinite(x) & np.isfinite(y)
    enough = np.flatnonzero(there.sum(axis=0) * 2 > len(x))
    if not len(enough):
        return np.empty(0), np.empty(0)
    if len(enough) > POINTS:
        places = np.unique(np.geomspace(1, len(enough), POINTS).round().astype(int)) - 1
        enough = enough[places]
    return np.nanmedian(x[:, enough], axis=0), np.nanmedian(y[:, enough], axis=0)
