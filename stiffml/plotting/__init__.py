"""Figures: one style for all, curves of solutions, and the axes that suit them."""

from stiffml.plotting.axes import (
    Scale,
    logarithmic_from,
    number_every_column,
    positions,
    spans_decades,
    value_scale,
)
from stiffml.plotting.figure import DATA, FIT, PAPER, SERIES, STROKES, Figure, series, styled
from stiffml.plotting.states import plot_states

__all__ = [
    "DATA",
    "FIT",
    "PAPER",
    "SERIES",
    "STROKES",
    "Figure",
    "Scale",
    "logarithmic_from",
    "number_every_column",
    "plot_states",
    "positions",
    "series",
    "spans_decades",
    "styled",
    "value_scale",
]
