"""The pictures of both equations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stiffml.experiments.sinode.results import draw_losses
from stiffml.plotting import DATA, Figure, series, styled

if TYPE_CHECKING:
    import xarray


def draw_ks(data: xarray.Dataset) -> dict[str, Figure]:
    with styled():
        return {"losses": losses(data), "attractor": attractor(data), "waves": waves(data)}


def draw_burgers(data: xarray.Dataset) -> dict[str, Figure]:
    with styled():
        return {"losses": losses(data), "fronts": fronts(data)}


def losses(data: xarray.Dataset) -> Figure:
    figure = Figure(figsize=(6.2, 4.2))
    draw_losses(figure.subplots(), data)
    return figure


def attractor(data: xarray.Dataset) -> Figure:
    """How long predictions hold, and statistics of models that go on by themselves."""
    figure = Figure(figsize=(11.5, 3.9))
    left, middle, right = figure.subplots(1, 3)
    for number, way in enumerate(data["way"].values):
        style, times = series(number), np.sort(data["valid"].sel({"way": way}).values)
        share = 1 - np.arange(len(times)) / len(times)
        left.step(times, share, where="pre", color=style["color"], ls=style["ls"])
    left.set(xlabel="time [Lyapunov times]", ylabel="share of series still predicted", ylim=(0, 1.02))
    waves = np.arange(data.sizes["waves"])
    for number, model in enumerate(data["model"].values):
        one = data.sel({"model": model})
        style = (
            {**series(number - 1), "ms": 4}
            if number
            else {"color": DATA, "marker": "o", "ls": "none", "ms": 6, "mfc": "none"}
        )
        middle.semilogy(waves[1:], one["energy"][1:], **style)
        right.plot(data["value"], one["density"], **{**style, "markevery": 2}, label=model)
    middle.set(xlabel="waves in the domain", ylabel="mean energy", ylim=(1e-12, 3))
    right.set(xlabel="u", ylabel="probability density")
    right.legend(frameon=False, fontsize=8, loc="upper left")
    right.set_ylim(top=1.6 * float(data["density"].sel({"model": data["model"][0]}).max()))
    return figure


def waves(data: xarray.Dataset) -> Figure:
    """The first unseen series, and what models make of its first state."""
    figure = Figure(figsize=(11.5, 3.2))
    panels = figure.subplots(1, data.sizes["model"], sharey=True)
    rate = data.attrs["lyapunov_exponent"]
    for panel, model in zip(panels, data["model"].values, strict=True):
        field = data["shown"].sel({"model": model})
        image = panel.pcolormesh(
            data["time"] * rate, data["x"], field.T, cmap="RdBu_r", vmin=-3, vmax=3, rasterized=True
        )
        panel.set_title(model, fontsize=9)
        panel.grid(False)
        panel.set_xlabel("Lyapunov times")
    panels[0].set_ylabel("x")
    figure.colorbar(image, ax=panels, label="u")
    return figure


def fronts(data: xarray.Dataset) -> Figure:
    """States that nothing was fitted to, and those of the models from the same start."""
    figure = Figure(figsize=(11, 3.4))
    panels = figure.subplots(1, data.sizes["shown_time"], sharey=True)
    for panel, time in zip(panels, data["shown_time"].values, strict=True):
        one = data.sel({"shown_time": time})
        panel.plot(data["x"][::8], one["truth"][::8], "o", ms=3, mfc="none", color=DATA, label="the equation")
        for number, way in enumerate(data["way"].values):
            style = {**series(number), "marker": ""}
            panel.plot(data["x"], one["state"].sel({"way": way}), **style, label=way)
        panel.set(xlabel="x", title=f"t = {time:g}")
    panels[0].set_ylabel("u")
    panels[0].legend(frameon=False, fontsize=8)
    return figure
