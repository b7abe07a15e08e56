"""What brusselator.py has measured, as ratios and as a picture."""

from __future__ import annotations

import itertools
from pathlib import Path

WHAT = {"forward": "final state", "gradient": "gradient"}
"""Kinds of runs, and whose error is taken."""
KINDS = tuple(WHAT)
TARGET = ("kvaerno5, newton-gmres-both", 1e-5)
"""Solver and tolerance of the run whose errors the ratios refer to."""


def target_of(rows: list[dict], kind: str) -> float | None:
    """The error of the run that ``TARGET`` names, if it was made."""
    named = (row for row in rows if (row["solver"], row["rtol"]) == TARGET and kind in row)
    return next((row[kind]["error"] for row in named), None)


def ratios(rows: list[dict]) -> list[dict]:
    """Each peer's time over that of stiffml, both by their cheapest run that reaches the target's error."""
    peers = dict.fromkeys(row["solver"] for row in rows if row["side"] != "stiffml")
    found = []
    for peer, kind in itertools.product(peers, KINDS):
        target = target_of(rows, kind)
        able = [row for row in rows if target is not None and kind in row and row[kind]["error"] <= target]
        theirs = [row for row in able if row["solver"] == peer]
        ours = [row for row in able if row["side"] == "stiffml"]
        if not theirs or not ours:
            continue
        sides = {
            side: min(able, key=lambda row: row[kind]["s"])
            for side, able in (("peer", theirs), ("stiffml", ours))
        }
        found.append(
            {
                "kind": kind,
                "ratio": sides["peer"][kind]["s"] / sides["stiffml"][kind]["s"],
                **{
                    side: {"solver": row["solver"], "rtol": row["rtol"], **row[kind]}
                    for side, row in sides.items()
                },
            }
        )
    return found


def draw(result: dict, path: Path) -> None:
    """Time by error of every run, forward and gradient, and the ratios."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 5.4), layout="constrained")
    solvers = list(dict.fromkeys((row["side"], row["solver"]) for row in result["cases"]))
    for axis, kind in zip(axes, KINDS, strict=False):
        for number, (side, solver) in enumerate(solvers):
            points = [
                (row[kind]["error"], row[kind]["s"])
                for row in result["cases"]
                if (row["side"], row["solver"]) == (side, solver) and kind in row
            ]
            if points:
                marker, line = ("o", "-") if side == "stiffml" else ("s", "--")
                axis.plot(*zip(*sorted(points), strict=True), line, marker=marker, ms=4, color=f"C{number}",
                          label=f"{side}: {solver}")  # fmt: skip
        if result["target_errors"][kind] is not None:
            axis.axvline(result["target_errors"][kind], color="black", linestyle=":", linewidth=1)
        axis.set(xscale="log", yscale="log", xlabel=f"relative error of the {WHAT[kind]}", title=kind)
        axis.invert_xaxis()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds, one core")
    axes[0].set_ylim(axes[1].set_ylim(*_limits(axes[:2])))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    last = axes[2]
    labels = [f"{entry['peer']['solver']}\n{entry['kind']}" for entry in result["ratios"]]
    values = [entry["ratio"] for entry in result["ratios"]]
    colors = ["tab:blue" if entry["kind"] == "forward" else "tab:orange" for entry in result["ratios"]]
    last.hlines(range(len(values)), 1, values, colors=colors)
    last.scatter(values, range(len(values)), color=colors, zorder=3)
    for place, value in enumerate(values):
        text = f"{value:.0f} ×" if value >= 10 else f"{value:.2g} ×"
        last.annotate(text, (value, place), (0, 6), textcoords="offset points", ha="center")
    last.axvline(1, color="black", linewidth=1)
    last.set(
        xscale="log", yticks=range(len(labels)), title="diffrax's time ÷ stiffml's, at the dotted errors"
    )
    last.set_yticklabels(labels, fontsize=8)
    last.set_xlabel("right of 1: stiffml is faster")
    last.margins(x=0.15, y=0.08)
    last.invert_yaxis()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    unknowns = f"{result['unknowns']:,}".replace(",", "\u2009")
    figure.suptitle(f"Two-dimensional Brusselator with a neural closure: {unknowns} unknowns")
    figure.savefig(path, dpi=120)


def _limits(axes) -> tuple[float, float]:
    limits = [axis.get_ylim() for axis in axes]
    return min(low for low, _ in limits), max(high for _, high in limits)
