"""What a fit leaves: the trajectories of the fitted model beside the data, and a picture of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stiffml.cli.asked import SetUp
from stiffml.cli.beside import Curve
from stiffml.display import with_units
from stiffml.interface.labels import shared_units

if TYPE_CHECKING:
    import xarray

    from stiffml.plotting import Figure
    from stiffml.training import Result

MOST = 11
"""Components in the picture."""


def trajectory(chosen: SetUp, result: Result) -> xarray.Dataset:
    """All runs one after the other: what was observed, and the model solved again with tight tolerances."""
    import xarray

    parts = [(part, kind) for part, kind in _resolved(chosen, result)]
    names, labels = chosen.data.components, chosen.data.labels
    observed = np.concatenate([part.run.values for part, _ in parts])
    fitted = np.concatenate([part.y for part, _ in parts])
    lengths = [len(part.run.times) for part, _ in parts]
    units = [chosen.data.units_of(name) for name in names]
    same = shared_units(tuple(units))
    dims = ("observation", "component")
    dataset = xarray.Dataset(
        {
            "observed": (dims, observed, {"long_name": "what was observed", **same}),
            "fitted": (dims, fitted, {"long_name": "the fitted model solved again", **same}),
        },
        {
            "time": ("observation", np.concatenate([part.run.times for part, _ in parts])),
            "run": ("observation", np.repeat([part.run.name for part, _ in parts], lengths)),
            "held_out": ("observation", np.repeat([int(kind) for _, kind in parts], lengths)),
            "component": list(names),
            "units": ("component", units),
        },
        attrs={"title": chosen.title, "outcome": result.outcome, "error": result.error},
    )
    dataset["time"].attrs.update(long_name="time", units=labels.time_units)
    dataset["held_out"].attrs.update(long_name="1 where the run was not fitted to", units="1")
    return dataset


def _resolved(chosen: SetUp, result: Result) -> list[tuple[Any, bool]]:
    found = [(part, False) for part in result.resolved(result.data)]
    if chosen.validate is not None:
        found += [(part, True) for part in result.resolved(chosen.validate)]
    return found


def picture(chosen: SetUp, result: Result, seconds: float, other: Curve | None) -> Figure:
    """Observations as points, the model solved again as lines; the errors on the way in the last panel."""
    from stiffml.plotting import DATA, FIT, Figure
    from stiffml.plotting.axes import spans_decades

    data = chosen.data
    shown = min(len(data.components), MOST)
    columns = min(shown + 1, 4)
    rows = -(-(shown + 1) // columns)
    figure = Figure(figsize=(3.3 * columns, 2.9 * rows))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    parts = result.resolved(result.data)
    logarithmic = all(spans_decades(part.run.times) for part in parts)
    first = 1 if logarithmic else 0
    for c, panel in enumerate(panels[:shown]):
        for number, part in enumerate(parts):
            t, y = part.line
            label = {"label": "data"} if number == 0 else {}
            panel.plot(
                part.run.times[first:],
                part.run.values[first:, c],
                "o",
                color=DATA,
                ms=3.5,
                mfc="none",
                **label,
            )
            label = {"label": "model"} if number == 0 else {}
            panel.plot(t[first:], y[first:, c], color=FIT, lw=1.6, **label)
        name = data.components[c]
        panel.set(
            title=with_units(name, data.units_of(name)), xlabel=with_units("time", data.labels.time_units)
        )
        if logarithmic:
            panel.set_xscale("log")
    panels[0].legend(frameon=False)
    for panel in panels[shown + 1 :]:
        panel.set_visible(False)
    if other is None:
        _history(panels[shown], result)
    else:
        _beside(panels[shown], chosen, result, seconds, other)
    return figure


def _history(panel: Any, result: Result) -> None:
    from stiffml.plotting import FIT

    name = "error" if "error" in result.history else "loss"
    panel.plot(result.history["iteration"] + 1, result.history[name], color=FIT, lw=1)
    title = "mean error of the intervals fitted" if name == "error" else "loss, mean square"
    panel.set(yscale="log", xlabel="iteration", title=title)
    panel.grid(alpha=0.25, which="both")


def _beside(panel: Any, chosen: SetUp, result: Result, seconds: float, other: Curve) -> None:
    """AdamW's error as it falls, and where Levenberg-Marquardt is after the same time."""
    from stiffml.plotting import DATA, FIT

    held = chosen.validate is not None
    reached = result.report(chosen.validate if held else result.data).mean
    panel.plot(other.seconds, other.error, color=DATA, ls="--", marker="s", ms=3.5, lw=1.2, label="AdamW")
    panel.plot([seconds], [reached], "*", color=FIT, ms=13, label="Levenberg-Marquardt", ls="none")
    title = "held-out error, solved again" if held else "error, solved again"
    panel.set(yscale="log", xlabel="CPU time [s]", title=title)
    panel.set_xlim(left=0)
    panel.grid(alpha=0.25, which="both")
    panel.legend(frameon=False)
