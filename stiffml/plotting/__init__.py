"""Figures: one style for all, and curves of solutions. Which axes suit them is in ``axes``."""

from stiffml.plotting.figure import DATA, FIT, PAPER, SERIES, STROKES, Figure, series, styled
from stiffml.plotting.states import plot_states

__all__ = ["DATA", "FIT", "PAPER", "SERIES", "STROKES", "Figure", "plot_states", "series", "styled"]
