"""A comparison as one page: table, figures and words, for any screen, without a network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stiffml.files import save_atomically
from stiffml.training.comparing.dataset import summary
from stiffml.training.comparing.figures import POINTS, TITLES, figures
from stiffml.training.comparing.tables import Row, rows, shortened, text

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #ffffff; --soft: #5c5c5c; --line: #d5d5d5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #16181b; --soft: #a8a8a8; --line: #3a3d42; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.2; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.soft { color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; } figure img { width: 100%; height: auto; display: block; }
figcaption { font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
thead th { overflow-wrap: normal; color: var(--soft); font-weight: 500; vertical-align: bottom; }
.why td { text-align: left; color: var(--soft); }
@media (max-width: 44rem) {
  thead { display: none; } table, tbody { display: block; }
  tr { display: block; border-bottom: 1px solid var(--line); padding: .5rem 0; }
  td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0; }
  td:first-child { font-weight: 600; }
  td[data-name]::before { content: attr(data-name); color: var(--soft); }
  .why td { display: block; }
}
"""

COLUMNS = (
    ("went on", "seeds that went on to the end"),
    ("held_out", "held out, solved again"),
    ("error", "fitted to, solved again"),
    ("stiffness", "fastest decay × span"),
    ("explicit_steps", "steps stability asks of dopri5"),
    ("own_steps", "steps of a solve"),
    ("iterations", "iterations"),
    ("cpu_s", "CPU time [s]"),
    ("wall_s", "wall time [s]"),
    ("rhs_evals", "evaluations of f"),
    ("failures", "failed solves"),
)


def write(data: xarray.Dataset, path: Path, notes: Sequence[str]) -> None:
    """Write the page."""
    page = _page(data, notes).encode()
    save_atomically(path, lambda file: file.write(page))


def _page(data: xarray.Dataset, notes: Sequence[str]) -> str:
    found = rows(data)
    words = "".join(f"<p>{html.escape(note)}</p>" for note in (*notes, *said(data)))
    light, dark = figures(data), figures(data, dark=True)
    pictures = "".join(_picture(TITLES[name], light[name], dark[name]) for name in light)
    outcomes = "".join(_outcomes(data))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(data.attrs['title'])}</title><style>{STYLE}</style></head><body>"
        f"<h1>{html.escape(data.attrs['title'])}</h1>{words}<h2>Medians over the seeds</h2>{_table(found)}"
        f'<h2>Figures</h2><p class="soft">Thick lines are medians over seeds, thin ones the seeds, '
        f"at up to {POINTS} places, evenly by decades. A "
        "cross is where a training could not go on.</p>"
        f'<div class="figures">{pictures}</div><h2>How each training ended</h2>{outcomes}</body></html>\n'
    )


def said(data: xarray.Dataset) -> list[str]:
    """What to know before the numbers: the budget, and how stiff the learned field is."""
    counts = data.attrs["budget_iterations"], data.attrs["budget_seconds"]
    budget = [f"{counts[0]:.0f} iterations"] if np.isfinite(counts[0]) else []
    budget += [f"{counts[1]:g} s of CPU time"] if np.isfinite(counts[1]) else []
    found = [
        f"Each training had {' or '.join(budget)} at most. Errors are mean absolute ones in units of "
        "the scale, of the model solved again by BDF with tight tolerances."
    ]
    last = summary(data)
    stiff = last["stiffness"].values
    known = np.isfinite(stiff)
    if known.any():
        low, high = stiff[known].min(), stiff[known].max()
        most = float(np.nanmax(last["explicit_steps"].values))
        found.append(
            f"At the end the fastest decay of the learned fields times the span is {text(low)} to "
            f"{text(high)}; for its stability dopri5 needs up to {text(most)} steps a solve. "
            f"{_verdict(float(high))}"
        )
    return found


def _verdict(stiffness: float) -> str:
    if stiffness < 100:
        return (
            "That is not stiff: nothing here says how explicit methods fare on a stiff field. Train for "
            "longer, or on data with faster parts."
        )
    if stiffness < 1e4:
        return "That is mildly stiff: explicit methods pay for stability, but can be the cheaper ones."
    return "That is stiff."


def _table(found: Sequence[Row]) -> str:
    held = any(not np.isnan(row.held_out) for row in found)
    columns = [column for column in COLUMNS if column[0] != "held_out" or held]
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for _, name in columns)
    parts = [f'<table><thead><tr><th scope="col">method, optimizer</th>{heads}</tr></thead><tbody>']
    for row in found:
        cells = "".join(
            f'<td data-name="{html.escape(name)}">{html.escape(_cell(row, key))}</td>'
            for key, name in columns
        )
        parts.append(f"<tr><td>{html.escape(f'{row.method}, {row.optimizer}')}</td>{cells}</tr>")
        for reason, seeds in row.reasons.items():
            which = ", ".join(map(str, seeds))
            words = html.escape(f"Seed {which} could not go on: {shortened(reason, 500)}")
            parts.append(f'<tr class="why"><td colspan="{len(columns) + 1}">{words}</td></tr>')
    return "".join([*parts, "</tbody></table>"])


def _cell(row: Row, key: str) -> str:
    return f"{row.went_on} of {row.seeds}" if key == "went on" else text(getattr(row, key)) or "–"


def _picture(title: str, light: Figure, dark: Figure) -> str:
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{_inline(dark)}">'
        f'<img alt="{html.escape(title)}" src="{_inline(light)}"></picture></figure>'
    )


def _inline(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=170)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _outcomes(data: xarray.Dataset) -> list[str]:
    data = summary(data)
    heads = "".join(f"<th>{name}</th>" for name in ("training", "held out", "fitted to", "outcome"))
    found = [f"<table><thead><tr>{heads}</tr></thead><tbody>"]
    for optimizer in data["optimizer"].values:
        for method in data["method"].values:
            for seed in data["seed"].values:
                one = data.sel({"method": method, "optimizer": optimizer, "seed": seed})
                outcome = str(one["outcome"].values)
                if not outcome:
                    continue
                cells = [text(float(one["held_out"])) or "–", text(float(one["error"])), outcome]
                names = ("held out", "fitted to", "outcome")
                row = "".join(
                    f'<td data-name="{name}">{html.escape(cell)}</td>'
                    for name, cell in zip(names, cells, strict=True)
                )
                found.append(f"<tr><td>{html.escape(f'{method}, {optimizer}, seed {seed}')}</td>{row}</tr>")
    return [*found, "</tbody></table>"]
