"""Accuracy by epoch; time and memory of a training step by the number of its steps."""

from __future__ import annotations

from collections.abc import Mapping

import xarray
from matplotlib.figure import Figure as AnyFigure

from stiffml.experiments.images.ways import KEPT
from stiffml.plotting import Figure, series, styled


def draw(data: xarray.Dataset) -> Mapping[str, AnyFigure]:
    return {"accuracy": _accuracy(data), "costs": _costs(data)}


def _accuracy(data: xarray.Dataset) -> AnyFigure:
    with styled():
        figure = Figure(figsize=(7.2, 4))
        axis = figure.subplots()
        for number, case in enumerate(data.case.values):
            errors = 100 * (1 - data.accuracy.sel(case=case))
            axis.plot(data.epoch, errors.clip(min=0.1), **series(number), label=case)
        axis.set(xlabel="epoch", ylabel="unseen digits told wrong [%]", yscale="log")
        axis.legend(fontsize=8, loc="upper right")
    return figure


def _costs(data: xarray.Dataset) -> AnyFigure:
    with styled():
        figure = Figure(figsize=(11, 4.6))
        panels = figure.subplots(1, 3)
        for number, way in enumerate(data.way.values):
            style = series(number) | ({"ls": "-"} if way in KEPT else {"ls": "--", "mfc": "none"})
            one, label = data.sel(way=way), f"stiffml, {way}" if way in KEPT else way
            panels[0].plot(data.steps, 1e3 * one.seconds_by_steps, **style, label=label)
            panels[1].plot(data.steps, one.peak / 1e6, **style)
            panels[2].plot(data.steps, one.forward_by_steps + one.backward_by_steps, **style)
        labels = ("CPU time of a training step [ms]", "peak memory [MB]", "calls of f, forward and backward")
        for panel, label in zip(panels, labels, strict=True):
            panel.set(xlabel="steps of rk4", ylabel=label, xscale="log", yscale="log")
            panel.set_xticks(data.steps.values, [str(steps) for steps in data.steps.values])
            panel.minorticks_off()
        figure.legend(loc="outside lower center", ncols=6, fontsize=9)
    return figure
