"""Validation losses over time, of IMEX and of explicit steps, and what one takes less than the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stiffml.experiments.experiment import Finding, Form
from stiffml.experiments.sinode.training import Training, Way
from stiffml.plotting import DATA, series

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

TENTH = 0.1
"""Of the explicit training's time, in which IMEX steps are to reach the same validation loss."""

SHORTER = "fewer windows in a batch and a shorter training than published, the same for both"


def losses_of(ended: Mapping[Way, Training]) -> xarray.Dataset:
    """Over (way, look); NaN after the end of a training."""
    import xarray

    longest = max(len(one.losses) for one in ended.values())
    table = np.full((2, len(ended), longest), np.nan)
    for row, one in enumerate(ended.values()):
        table[0, row, : len(one.losses)] = one.seconds
        table[1, row, : len(one.losses)] = one.losses
    over = ("way", "look")
    return xarray.Dataset(
        {
            "seconds": (over, table[0], {"long_name": "CPU time of the training", "units": "s"}),
            "loss": (over, table[1], {"long_name": "validation loss", "units": "1"}),
            "iterations": (
                "way",
                np.array([one.iterations for one in ended.values()]),
                {"long_name": "iterations done", "units": "1"},
            ),
            "iteration_s": (
                "way",
                np.array([one.iteration_s for one in ended.values()]),
                {"long_name": "median CPU time of an iteration", "units": "s"},
            ),
            "ended": (
                "way",
                np.array([one.ended for one in ended.values()]),
                {"long_name": "what ended the training", "units": "1"},
            ),
        },
        {"way": [way.name for way in ended]},
    )


def of_ways(data: xarray.Dataset, form: Form) -> list[Finding]:
    """The first way is IMEX, the second explicit."""
    seconds, loss, iteration = (data[name].values for name in ("seconds", "loss", "iteration_s"))
    imex, explicit = (str(way) for way in data["way"].values[:2])
    best = np.nanmin(loss[1])
    slow = seconds[1][np.nanargmin(loss[1])]
    reached = loss[0] <= best
    fast = seconds[0][np.argmax(reached)] if reached.any() else np.inf
    return [
        Finding(
            f"CPU time of {imex} to the validation loss that {explicit} reaches, over the time of the latter",
            float(fast / slow) if np.isfinite(fast) and slow > 0 else float("nan"),
            at_most=TENTH if form == "full" else None,
            published="a larger network or grid cannot be trained by explicit steps in reasonable time",
            differs=f"{SHORTER}; {data['iterations'].values[1]} explicit iterations, to a loss of {best:.2e}",
        ),
        Finding(
            f"CPU time of an iteration by {explicit} over that by {imex}",
            float(iteration[1] / iteration[0]),
        ),
        Finding(
            f"lowest validation loss by {imex} over that by {explicit}",
            float(np.nanmin(loss[0]) / best),
            differs=SHORTER,
        ),
        *(
            Finding(
                f"lowest validation loss over that of a state which stays as it is: {way}",
                float(np.nanmin(one) / data.attrs["unlearned"]),
                differs=f"{SHORTER}; at 1 and above nothing useful is learned yet",
            )
            for way, one in zip(data["way"].values, loss, strict=True)
        ),
    ]


def draw_losses(panel: Axes, data: xarray.Dataset) -> None:
    """Validation loss over CPU time, and what a model without a network has."""
    for number, way in enumerate(data["way"].values):
        one = data.sel({"way": way})
        style = {**series(number), "markevery": 0.12}
        panel.plot(
            one["seconds"].clip(min=float(data["iteration_s"].min()) / 2), one["loss"], **style, label=way
        )
    panel.axhline(float(data["loss"].values[0, 0]), color=DATA, lw=1)
    panel.text(
        0.98,
        0.98,
        "line: at the first weights",
        color=DATA,
        fontsize=8,
        va="top",
        ha="right",
        transform=panel.transAxes,
    )
    panel.set(xscale="log", yscale="log", xlabel="CPU time of the training [s]", ylabel="validation loss")
    panel.legend(frameon=False, fontsize=9, loc="lower left")
