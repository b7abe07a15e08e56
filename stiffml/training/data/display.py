"""Runs as text, as a table for notebooks, and as a figure."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stiffml.display import with_units
from stiffml.training.data.labels import Labels, shortened
from stiffml.training.data.run import Run

if TYPE_CHECKING:
    from stiffml.plotting import Figure

_ROWS, _WIDEST, _PANELS, _NAMED = 16, 24, 16, 16


def as_text(runs: Sequence[Run], labels: Labels) -> str:
    """A line on all runs, and one on each of the first."""
    rows = _table(runs, labels)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    more = [f"  … and {len(runs) - _ROWS} more"] if len(runs) > _ROWS else []
    return "\n".join([_heading(runs, labels), *("  " + line.rstrip() for line in lines), *more])


def as_html(runs: Sequence[Run], labels: Labels) -> str:
    """The same as a table; names come from files, and are escaped."""
    head, *rows = [[html.escape(cell) for cell in row] for row in _table(runs, labels)]
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    more = f"<p>… and {len(runs) - _ROWS} more</p>" if len(runs) > _ROWS else ""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    heading = html.escape(_heading(runs, labels))
    return f"<p>{heading}</p><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{more}"


def _heading(runs: Sequence[Run], labels: Labels) -> str:
    units = {labels.units_of(name) for name in labels.components}
    unit = with_units("", _short(units.pop())) if len(units) == 1 else ""
    count = _count(len(runs), "run")
    if any(run.source != run.name for run in runs):
        count = f"{_count(len(runs), 'window')} of {_count(len({run.source for run in runs}), 'run')}"
    return f"{count} of {shortened([_short(name) for name in labels.components], 6)}{unit}"


def _table(runs: Sequence[Run], labels: Labels) -> list[list[str]]:
    inputs = list(runs[0].inputs)[:3]
    head = ["run", "times", with_units("from … to", _short(labels.time_units)), "observed"]
    head += [_short(with_units(name, labels.units_of(name))) for name in inputs]
    rows = [head]
    for run in runs[:_ROWS]:
        seen = f"{run.mask.sum()} of {run.mask.size}"
        span = f"{run.times[0]:.4g} … {run.times[-1]:.4g}"
        rows.append(
            [_short(run.name), str(len(run)), span, seen, *(f"{run.inputs[name]:.4g}" for name in inputs)]
        )
    return rows


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def draw(runs: Sequence[Run], labels: Labels) -> Figure:
    """Points over time, one panel a component."""
    from matplotlib import colormaps

    from stiffml.plotting import Figure
    from stiffml.plotting.axes import number_every_column

    shown = min(len(labels.components), _PANELS)
    columns = min(shown, 4)
    rows = -(-shown // columns)
    figure = Figure(figsize=(3.4 * columns, 2.6 * rows + 0.6))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel().tolist()
    times = np.unique(np.concatenate([run.times for run in runs]))
    positive = times[times > 0]
    decades = times[0] >= 0 and len(positive) > 2 and positive[-1] > 1e3 * positive[0]
    colours = colormaps["viridis"](np.linspace(0, 0.92, len(runs)))
    for index, panel in enumerate(panels):
        if index >= shown:
            panel.remove()
            continue
        for run, colour in zip(runs, colours, strict=True):
            panel.plot(run.times, run.values[:, index], ".", color=colour, ms=4, label=_short(run.name))
        name = labels.components[index]
        panel.set_title(with_units(_short(name), labels.units_of(name)), fontsize=10)
        if decades and times[0] == 0:
            panel.set_xscale("symlog", linthresh=10 ** np.floor(np.log10(positive[0])), linscale=0.8)
            panel.set_xlim(left=-0.1 * positive[0])
        elif decades:
            panel.set_xscale("log")
    number_every_column(panels[:shown], columns, with_units("time", labels.time_units))
    if 1 < len(runs) <= _NAMED:
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8
        )
    if shown < len(labels.components):
        figure.suptitle(f"the first {shown} of {len(labels.components)} components", fontsize=10)
    return figure
