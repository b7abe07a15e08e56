"""The pictures of the study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stiffml.experiments.implicit_explicit.findings import FASTEST, SEEN
from stiffml.plotting import DATA, Figure, series, styled

if TYPE_CHECKING:
    import xarray

NAMES = {"adamw": "AdamW", "lm": "Levenberg-Marquardt"}


def draw(data: xarray.Dataset) -> dict[str, Figure]:
    with styled():
        return {"trainings": trainings(data), "followed": followed(data)}


def trainings(data: xarray.Dataset) -> Figure:
    """Error and stiffness over CPU time: a thin line for each seed, the last error of each as a marker."""
    figure = Figure(figsize=(10.5, 7.2))
    panels = figure.subplots(2, data.sizes["optimizer"], sharex=True, sharey="row", squeeze=False)
    for column, optimizer in zip(panels.T, data["optimizer"].values, strict=True):
        for panel, name in zip(column, ("held_out", "fastest"), strict=True):
            for number, method in enumerate(data["method"].values):
                one = data.sel({"optimizer": optimizer, "method": method})
                style, label = series(number), str(method)
                for seed in data["seed"].values:
                    x, y = (one[what].sel(seed=seed).values for what in ("seconds", name))
                    shown = np.isfinite(x) & np.isfinite(y) & (x > 0)
                    panel.plot(x[shown], y[shown], color=style["color"], ls=style["ls"], lw=1, alpha=0.6)
                    panel.plot(
                        x[shown][-1:], y[shown][-1:], style["marker"], color=style["color"], ms=7, label=label
                    )
                    label = "_"
            panel.set(xscale="log", yscale="log")
        column[0].set_title(NAMES.get(str(optimizer), str(optimizer)))
        column[1].axhline(FASTEST, color=DATA, ls="-", lw=1)
        column[1].text(
            0.02,
            FASTEST * 1.2,
            "Robertson after its transient",
            color=DATA,
            fontsize=9,
            transform=column[1].get_yaxis_transform(),
        )
        column[1].set_xlabel("CPU time of the training [s]")
    panels[0, 0].set_ylim(float(data["held_out"].min()) / 2, 2.0)  # what runs away would hide the rest
    panels[0, 0].set_ylabel("mean error at unseen times [ranges]")
    panels[1, 0].set_ylabel("fastest decay learned [1/s]")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right upper", frameon=False, title="a line a seed,\nmarked at its end"
    )
    return figure


def followed(data: xarray.Dataset) -> Figure:
    """Stiffness, cost and gradient at the snapshots of one fit."""
    figure = Figure(figsize=(11, 7.2))
    (left, middle), (right, last) = figure.subplots(2, 2)
    at = data["followed"].values
    left.plot(at, data["fit_error"], **series(0), label="mean error, cn [ranges]")
    left.plot(at, data["fit_fastest"], **series(1), label="fastest decay [1/s]")
    left.axhline(FASTEST, color=DATA, lw=1)
    left.set_title("what is learned")
    middle.plot(at, data["evaluations"], **series(1), label="dopri5")
    middle.plot(at, data["evaluations_cn"], **series(0), label="cn")
    stiff = data["refused"].values > 0
    middle.plot(
        at[stiff],
        data["evaluations"].values[stiff],
        "o",
        ms=11,
        mfc="none",
        color=DATA,
        label="stops as stiff by default",
    )
    middle.set_title("evaluations of f for a gradient")
    right.plot(at, data["norm_exact"], **series(0), label="bdf, rtol 1e-9")
    right.plot(at, data["norm"], **{**series(1), "mfc": "none", "ms": 9}, label="dopri5, discrete adjoint")
    right.plot(at, data["norm_continuous"], **series(2), label="torchdiffeq, continuous")
    right.set_title("norm of the gradient")
    time, seen = data["observation"].values[1:], data["left"].values[1:] > SEEN
    last.axvspan(time[0], time[seen].max(), color=DATA, alpha=0.12, lw=0, label="the transient is seen")
    for number, (name, text) in enumerate((("decay", "learned, cn"), ("decay_own", "Robertson"))):
        last.plot(time, data[name].values[1:], **series(number), label=text)
    last.set_title("fastest decay at the observations [1/s]")
    for panel in (left, middle, right, last):
        panel.set(xscale="log", yscale="log", xlabel="iteration of the fit by LM")
        panel.legend(frameon=False, fontsize=9)
    last.set_xlabel("time [s]")
    return figure
