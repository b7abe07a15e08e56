"""A comparison in rows: medians over the seeds of each method and optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Column, Table

from stiffml.training.comparing.dataset import summary

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True)
class Row:
    """One method and optimizer; numbers are medians over the seeds.

    ``reasons``: by text the seeds that could not go on because of it.
    """

    method: str
    optimizer: str
    seeds: int
    held_out: float
    error: float
    stiffness: float
    explicit_steps: float
    own_steps: float
    iterations: float
    wall_s: float
    cpu_s: float
    rhs_evals: float
    failures: float
    reasons: dict[str, list[int]]

    @property
    def went_on(self) -> int:
        return self.seeds - sum(map(len, self.reasons.values()))


NUMBERS = (
    *("held_out", "error", "stiffness", "explicit_steps", "own_steps", "iterations"),
    *("wall_s", "cpu_s", "rhs_evals", "failures"),
)


def rows(data: xarray.Dataset) -> list[Row]:
    """By optimizer, then by method, in the order in which they were asked for."""
    last = summary(data)
    found = []
    for optimizer in last["optimizer"].values:
        for method in last["method"].values:
            one = last.sel({"method": method, "optimizer": optimizer})
            there = one["outcome"].values != ""
            if not there.any():
                continue
            reasons: dict[str, list[int]] = {}
            for seed, reason in zip(one["seed"].values[there], one["reason"].values[there], strict=True):
                if reason:
                    reasons.setdefault(str(reason), []).append(int(seed))
            values = {name: _median(one[name].values[there]) for name in NUMBERS}
            count = int(there.sum())
            found.append(Row(str(method), str(optimizer), count, reasons=reasons, **values))
    return found


def _median(values: np.ndarray) -> float:
    """Infinite values count as large, NaN not at all."""
    known = np.sort(values[~np.isnan(values)])
    return float(known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2 if len(known) else float("nan")


def text(value: float) -> str:
    """A number in six characters."""
    if np.isnan(value):
        return ""
    if not np.isfinite(value):
        return "none"
    if value == 0 or 1 <= abs(value) < 1e4:
        return f"{value:.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.1f}"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")


def table(data: xarray.Dataset) -> Table:
    """As :meth:`Comparison.table`; it fits into 80 columns."""
    found = rows(data)
    held = any(not np.isnan(row.held_out) for row in found)
    names = ["seeds", *(["held"] if held else []), "fitted", "|λ| T", "iters", "CPU s", "f", "fails"]
    labels = [Column(name, overflow="fold") for name in ("method", "optim.")]
    right = [Column(name, justify="right", no_wrap=True, min_width=len(name)) for name in names]
    made = Table(*labels, *right, box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for row in found:
        numbers = [row.error, row.stiffness, row.iterations, row.cpu_s, row.rhs_evals, row.failures]
        cells = [text(number) for number in ([row.held_out] if held else []) + numbers]
        made.add_row(escape(row.method), escape(row.optimizer), f"{row.went_on}/{row.seeds}", *cells)
    made.caption, made.caption_justify = CAPTION, "left"
    for row in found:
        for reason, seeds in row.reasons.items():
            who = escape(f"{row.method}, {row.optimizer}, seed {', '.join(map(str, seeds))}")
            made.caption += f"\n{who}: {escape(shortened(reason))}"
    return made


CAPTION = (
    "Medians over the seeds. seeds: those that went on to the end. held, fitted: mean errors of the model "
    "solved again with tight tolerances, at data held out and fitted to. |λ| T: fastest decay of the learned "
    "field times the span. f: evaluations, forwards and backwards."
)


def shortened(reason: str, most: int = 220) -> str:
    return reason if len(reason) <= most else reason[: most - 1].rstrip() + "…"
