"""Pictures of a fit: what stands in them can be read, and says what it is."""

from __future__ import annotations

import numpy as np
import xarray

from stiffml.display import with_units
from stiffml.plotting import Figure
from stiffml.training.data.run import Run
from stiffml.training.figures import draw_history
from stiffml.training.history import TEXTS
from stiffml.training.resolving import Resolved, draw


def texts_lie_within(figure: Figure) -> bool:
    """Whether the axes with all their labels lie within the picture."""
    figure.draw_without_rendering()
    boxes = [panel.get_tightbbox() for panel in figure.axes]
    return all(
        (box.min >= figure.bbox.min - 1).all() and (box.max <= figure.bbox.max + 1).all() for box in boxes
    )


def test_labels_of_a_history_lie_within_it() -> None:
    values = np.geomspace(1, 1e-4, 3)
    history = xarray.Dataset(
        {
            "error": ("iteration", values, {"long_name": TEXTS["error"]}),
            "rung": ("iteration", [0, 1, 1]),
        },
        {"iteration": [0, 1, 2]},
    )
    figure = draw_history(history)
    assert texts_lie_within(figure)
    ticks = figure.axes[0].get_xticks()
    assert (ticks == ticks.round()).all()  # there is no iteration 0.5


def test_data_and_model_are_named() -> None:
    t = np.linspace(0, 1, 5)
    run = Run("a", t, np.stack([t, 1 - t], 1))
    resolved = Resolved(run, run.values, "", (t, run.values))
    figure = draw([resolved], ["x", "y"], ["x [mol]", "y"], "1")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["data", "model"]
    assert [panel.get_xlabel() for panel in figure.axes] == ["time", "time"]
    assert texts_lie_within(figure)


def test_a_number_without_units_has_none() -> None:
    assert with_units("time", "1") == "time"
    assert with_units("time", "s") == "time [s]"
