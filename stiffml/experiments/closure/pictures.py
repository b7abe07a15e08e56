"""Species of an unseen start, errors of delays, and where closures break."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stiffml.experiments.closure import pressures, starts
from stiffml.plotting import DATA, Figure, series, styled

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

SHOWN = ("OH", "C2O3", "HNO3", "PAN")
MODELS = {
    "delay_lacking": "reaction left out",
    "delay_closure": "closure, as learned at 1 atm",
    "delay_density": "closure × pressure / 1 atm",
}
KINDS = {"fitted": "none", "unseen": "full", "outside": "left"}
"""Temperatures, and how markers are filled."""

NONE = 10.0
"""Where an error is drawn of a model without a delay."""


def draw(data: xarray.Dataset) -> dict[str, Figure]:
    with styled():
        figures = {"pollu": of_starts(data), "hydrogen": of_ignition(data)}
        if data.sizes["pressure"] > 1:
            figures["pressures"] = of_pressures(data)
        if data.sizes["factor"]:
            figures["pollu_further"] = of_further_starts(data)
    return figures


def limit(panel: Axes, at: float) -> None:
    panel.axhline(at, color=DATA, lw=1, ls="--")


def of_starts(data: xarray.Dataset) -> Figure:
    """Four species of the first unseen start, and the errors of all."""
    figure = Figure(figsize=(9.6, 6.4))
    grid = figure.add_gridspec(2, len(SHOWN))
    after = slice(1, None)  # radicals begin at 0 and are in balance long before the first observation
    for place, name in enumerate(SHOWN):
        panel = figure.add_subplot(grid[0, place])
        for number, setup in enumerate(data["setup"].values):
            y, look = data["pollu_states"].sel(setup=setup, species=name), series(number)
            panel.plot(data["time"][after], y[after], color=look["color"], ls=look["ls"], lw=1.5)
        exact = data["pollu_exact"].sel(species=name)
        panel.plot(data["time"][after], exact[after], "o", mfc="none", color=DATA, ms=4, label="POLLU")
        panel.set_title(f"{name} [ppm]", loc="right")
        panel.set_xlabel("time [min]")
        panel.legend(fontsize=8)
    panel = figure.add_subplot(grid[1, :])
    places = np.arange(data.sizes["species"])
    for number, setup in enumerate(data["setup"].values):
        look = {**series(number), "mfc": "none", "lw": 0.8}
        panel.plot(places, data["pollu_error"].sel(setup=setup), label=str(setup), **look)
    limit(panel, starts.ERROR)
    panel.set_xticks(places, list(data["species"].values), rotation=60)
    panel.set(yscale="log", ylabel="mean error [ranges]", title="all species, unseen starts")
    panel.legend(fontsize=8, ncols=2)
    return figure


def of_further_starts(data: xarray.Dataset) -> Figure:
    """The error of the worst species over the factor of starts."""
    figure = Figure(figsize=(5.6, 3.8))
    panel = figure.subplots()
    factors = [1.5, *data["factor"].values]
    for number, setup in enumerate(data["setup"].values):
        near = float(data["pollu_error"].sel(setup=setup).max())
        far = data["pollu_error_far"].sel(setup=setup).values
        panel.loglog(factors, [near, *far], label=str(setup), **{**series(number), "mfc": "none"})
    limit(panel, starts.ERROR)
    panel.axvline(1.5, color=DATA, lw=1, ls=":")
    panel.set_xticks(factors, ["data", *(f"{one:g}" for one in factors[1:])])
    panel.minorticks_off()
    panel.set(xlabel="largest factor of starts", ylabel="mean error, worst species [ranges]")
    panel.set_title("POLLU, further and further from the data")
    panel.legend(fontsize=8)
    return figure


def of_ignition(data: xarray.Dataset) -> Figure:
    """Errors of delays over the temperature at one atmosphere, and the rate learned beside the true one."""
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    cases = {"reaction left out": data["delay_lacking"].sel(pressure=1.0).expand_dims("seed")}
    cases |= {f"closure, {law}": data["delay_fitted"].sel(law=law) for law in data["law"].values}
    true = data["delay_true"].sel(pressure=1.0)
    for number, (name, delays) in enumerate(cases.items()):
        error = abs(delays / true - 1).fillna(NONE).max("seed")
        look = {**series(number), "ls": "", "ms": 8}
        left.plot([], [], label=name, **{**look, "mfc": "none"})
        for kind, fill in KINDS.items():
            which = data["kind"].values == kind
            left.plot(data["temperature"][which], error[which], fillstyle=fill, **look)
    for kind, fill in KINDS.items():
        if kind in data["kind"].values:
            left.plot([], [], "o", color=DATA, ms=8, fillstyle=fill, label=f"temperature {kind}")
    limit(left, pressures.DELAY)
    left.set(yscale="log", xlabel="temperature at the start [K]", ylabel="error of the ignition delay")
    left.set_title("hydrogen at 1 atm")
    left.legend(fontsize=8, ncols=2, loc="upper right")
    for row in range(data.sizes["unseen_temperature"]):
        t, rate = data["rate_time"][row], data["rate_true"][row]
        right.loglog(t, rate, color=DATA, lw=4, alpha=0.35, label=None if row else "true")
        for number, law in enumerate(data["law"].values):
            look = series(number + 1)
            of = data["rate_learned"].sel(law=law)[row]
            right.loglog(t, of, color=look["color"], ls=look["ls"], lw=1.2, label=None if row else str(law))
    largest = float(data["rate_true"].max())
    delays = true.where(data["kind"] == "unseen", drop=True)
    right.set(xlim=(float(delays.min()) / 4, float(delays.max()) * 3), ylim=(1e-4 * largest, 3 * largest))
    right.set(xlabel="time [s]", ylabel="OH made [1/s]", title="missing rate, unseen temperatures")
    right.legend(fontsize=8)
    return figure


def of_pressures(data: xarray.Dataset) -> Figure:
    """Delays over the temperature at each pressure, and the largest error over the pressure."""
    figure = Figure(figsize=(10, 4.4))
    left, right = figure.subplots(1, 2)
    law = str(data["law"].values[0])
    ordered = data.sel(law=law).sortby("temperature")
    inverse = 1000 / ordered["temperature"]
    for number, pressure in enumerate(data["pressure"].values):
        one, look = ordered.sel(pressure=pressure), series(number)
        left.semilogy(inverse, one["delay_true"], color=look["color"], lw=1.2)
        left.semilogy(
            inverse,
            one["delay_closure"],
            look["marker"],
            mfc="none",
            color=look["color"],
            label=f"{pressure:g} atm",
        )
        left.semilogy(inverse, one["delay_lacking"], color=look["color"], lw=1, ls=":")
    left.plot([], [], color=DATA, lw=1.2, label="all reactions")
    left.plot([], [], color=DATA, lw=1, ls=":", label="reaction left out")
    left.set(xlabel="1000 K / temperature at the start", ylabel="ignition delay [s]")
    left.set_title(f"markers: closure ({law}) as learned at 1 atm")
    left.legend(fontsize=8)
    number = 0
    for model, name in MODELS.items():
        error = pressures.error_of(data, "unseen", model).max("temperature").clip(max=NONE)
        for line in [error] if "law" not in error.dims else list(error):
            label = name if "law" not in line.coords else f"{name} ({line['law'].item()})"
            right.loglog(data["pressure"], line, label=label, **{**series(number), "mfc": "none"})
            number += 1
    limit(right, pressures.DELAY)
    right.axvline(1.0, color=DATA, lw=1, ls=":")
    right.set_xticks(data["pressure"].values, [f"{p:g}" for p in data["pressure"].values])
    right.minorticks_off()
    right.set_ylim(top=5 * NONE)  # room for the legend
    right.set(xlabel="pressure [atm]", ylabel="largest error of a delay,\nunseen temperatures")
    right.legend(fontsize=8)
    return figure
