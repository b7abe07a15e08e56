"""The style of all figures, and figures that show themselves in notebooks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.figure
from matplotlib.axes import Axes

DATA, FIT = "#444444", "#c1440e"

SERIES = (
    ("#0072b2", "o"),
    ("#d55e00", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#e69f00", "v"),
    ("#56b4e9", "P"),
    ("#7f7f7f", "X"),
)
"""Colours that colour-blind people can tell (Okabe & Ito), with markers that survive a print in grey."""

STROKES = ("-", "--", ":", "-.")
PAPER = {False: "#ffffff", True: "#16181b"}
"""The background, light and dark."""

PANEL: dict[Any, Any] = {
    "axes.grid": True,
    "axes.grid.which": "major",
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.use_mathtext": True,
    "grid.alpha": 0.25,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
}
"""Of every panel; letters are legible when a figure is printed at half its size."""


class Figure(matplotlib.figure.Figure):
    """A figure whose panels have the common style; a notebook shows it, without pyplot.

    Parameters
    ----------
    *args
        As for ``matplotlib.figure.Figure``, of which it has all methods.
    **arguments
        Likewise. The layout is ``"constrained"`` unless ``layout`` is given.

    Examples
    --------
    >>> from stiffml.plotting import Figure, series
    >>> figure = Figure(figsize=(6.4, 3.2))
    >>> panel = figure.subplots()
    >>> for number, rate in enumerate([1, 1000]):
    ...     _ = panel.loglog(times[1:], np.exp(-rate * times[1:]), **series(number))
    >>> figure.savefig("decay.png")
    """

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **{"layout": "constrained", **arguments})

    def add_subplot(self, *args: Any, **arguments: Any) -> Axes:
        """As that of matplotlib, in the common style."""
        with mpl.rc_context(PANEL):
            return super().add_subplot(*args, **arguments)

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=100)
        return content.getvalue()


def series(number: int) -> dict[str, Any]:
    """The colour, marker and stroke of a line among others, distinct without colour too.

    Colours are those of M. Okabe and K. Ito, *Color universal design* (2002), which colour-blind people can
    tell.

    Parameters
    ----------
    number : int
        0 for the first line. There are seven colours with a marker each; 28 lines differ.

    Returns
    -------
    dict
        For ``panel.plot`` of matplotlib: ``color``, ``marker``, ``ls``, ``lw`` and ``ms`` (in points).

    Examples
    --------
    >>> from stiffml.plotting import series
    >>> series(1)
    {'color': '#d55e00', 'marker': 's', 'ls': '--', 'lw': 1.5, 'ms': 5}
    """
    colour, marker = SERIES[number % len(SERIES)]
    stroke = STROKES[(number % len(SERIES) + number // len(SERIES)) % len(STROKES)]
    return {"color": colour, "marker": marker, "ls": stroke, "lw": 1.5, "ms": 5}


@contextmanager
def styled(dark: bool = False) -> Iterator[None]:
    """Figures made within the block are for a light or a dark page.

    Parameters
    ----------
    dark : bool
        Whether the page is dark. Default False.

    Examples
    --------
    >>> from stiffml.plotting import Figure, styled
    >>> with styled(dark=True):
    ...     figure = Figure()
    >>> tuple(round(255 * float(part)) for part in figure.get_facecolor()[:3])
    (22, 24, 27)
    """
    ink = "#e8e8e8" if dark else "#1c1c1c"
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    paper = {name: PAPER[dark] for name in ("figure.facecolor", "axes.facecolor", "savefig.facecolor")}
    style: dict[Any, Any] = {**dict.fromkeys(names, ink), **paper}
    with mpl.rc_context(style):
        yield
