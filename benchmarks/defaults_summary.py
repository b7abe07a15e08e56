"""The summary of ``defaults.py``: each method against the cheapest at equal digits; and its picture."""

from __future__ import annotations

import itertools
import math
import statistics
from pathlib import Path
from typing import Any

DIGITS = (2, 3, 4, 5, 6, 7, 8)
ALWAYS, BEST, HIGHEST = ("bdf",), 7, 4.0
FIRST = ("robertson", "hires")

Points = list[tuple[float, float]]
"""(digits, cost), both increasing."""


def frontier(row: dict[str, Any], cost: str) -> Points:
    """The solves of a row that no other of them beats, in digits and in cost."""
    found = [
        (digits, value)
        for digits, value in zip(row["digits"], row[cost], strict=True)
        if digits is not None and digits > 0
    ]
    kept: Points = []
    for digits, value in sorted(found, reverse=True):
        if not kept or value < kept[-1][1]:
            kept.append((digits, value))
    return kept[::-1]


def cost_at(points: Points, digits: float) -> float:
    """The cost of so many digits, its logarithm interpolated; infinite where they are not reached."""
    if not points or digits > points[-1][0]:
        return math.inf
    if digits <= points[0][0]:
        return points[0][1]
    for (low, cheap), (high, dear) in itertools.pairwise(points):
        if digits <= high:
            share = (digits - low) / (high - low)
            return math.exp((1 - share) * math.log(cheap) + share * math.log(dear))
    raise AssertionError("points are in order")


def contenders(rows: list[dict[str, Any]]) -> list[str]:
    """Methods that on one of the FIRST problems take less than twice the least time, at 4 or at 5 digits."""
    found: dict[str, None] = {}
    for problem in FIRST:
        points = {row["method"]: frontier(row, "cpu_s") for row in rows if row["problem"] == problem}
        for digits in (4, 5):
            cheapest = min((cost_at(one, digits) for one in points.values()), default=math.inf)
            found |= {m: None for m, one in points.items() if cost_at(one, digits) < 2 * cheapest}
    return list(found)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By mode: for each method the medians of its ratios, by tolerance and by digits, and what failed.

    The best come first, those that were measured on less than half of the problems last.
    """
    return {mode: _of_mode([row for row in rows if row["mode"] == mode]) for mode in modes(rows)}


def modes(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["mode"] for row in rows))


def _of_mode(rows: list[dict[str, Any]]) -> dict[str, Any]:
    by_problem: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_problem.setdefault(row["problem"], []).append(row)
    found: dict[str, Any] = {}
    for own in by_problem.values():
        points = {
            cost: {row["method"]: frontier(row, cost) for row in own} for cost in ("cpu_s", "rhs_evals")
        }
        best = {cost: list(of.values()) for cost, of in points.items()}
        for row in own:
            into = found.setdefault(
                row["method"], {"rtol": {}, "digits": {}, "evaluations": {}, "problems": 0}
            )
            into["problems"] += 1
            for rtol, seconds, digits in zip(row["rtol"], row["cpu_s"], row["digits"], strict=True):
                failed = seconds is None or digits <= 0
                cheapest = math.inf if failed else min(cost_at(one, digits) for one in best["cpu_s"])
                into["rtol"].setdefault(f"{rtol:g}", []).append(math.inf if failed else seconds / cheapest)
            for key, cost in (("digits", "cpu_s"), ("evaluations", "rhs_evals")):
                for digits in DIGITS:
                    cheapest = min(cost_at(one, digits) for one in best[cost])
                    if cheapest < math.inf:  # some method reaches them
                        ratio = cost_at(points[cost][row["method"]], digits) / cheapest
                        into[key].setdefault(str(digits), []).append(ratio)
    medians = {method: _medians(of) for method, of in found.items()}
    order = sorted(medians, key=lambda m: (2 * medians[m]["problems"] < len(by_problem), _rank(medians[m])))
    return {"problems": list(by_problem), "methods": {method: medians[method] for method in order}}


def _medians(of: dict[str, Any]) -> dict[str, Any]:
    """Of each list the median and how many of it are infinite, those that failed; None for infinity."""
    found: dict[str, Any] = {"problems": of["problems"]}
    for key in ("rtol", "digits", "evaluations"):
        found[key] = {at: _finite(statistics.median_high(ratios)) for at, ratios in of[key].items()}
    for key in ("rtol", "digits"):
        failed = {at: sum(map(math.isinf, ratios)) for at, ratios in of[key].items()}
        found[f"failed_by_{key}"] = failed
    return found


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else round(value, 2)


def _rank(of: dict[str, Any]) -> float:
    """The mean logarithm of the medians by digits from 3 to 6; beyond all where half of the problems fail."""
    medians = [of["digits"].get(str(digits)) for digits in (3, 4, 5, 6)]
    return statistics.mean(math.log(one) if one is not None else 10.0 for one in medians)


def draw(result: dict[str, Any], path: Path) -> None:
    """For the best methods, and the default: the median ratio by digits; a panel a mode."""
    from matplotlib.figure import Figure

    from stiffml.plotting import series

    found = result["summary"]
    chosen = {
        mode: [m for at, m in enumerate(of["methods"]) if at < BEST or m in ALWAYS]
        for mode, of in found.items()
    }
    number = {m: at for at, m in enumerate(dict.fromkeys(m for of in chosen.values() for m in of))}
    figure = Figure(figsize=(5.2 * max(1, len(found)), 4.4), layout="constrained")
    panels = figure.subplots(1, max(1, len(found)), sharey=True, squeeze=False)[0]
    for panel, (mode, of) in zip(panels, found.items(), strict=False):
        for method in chosen[mode]:
            medians = of["methods"][method]["digits"]
            at = [d for d in DIGITS if medians.get(str(d)) is not None]
            style = series(number[method]) | ({"lw": 3, "color": "k", "ls": "-"} if method in ALWAYS else {})
            panel.plot(at, [medians[str(d)] for d in at], label=method, **style)
        panel.set(xlabel="digits", title=f"{mode}, {len(of['problems'])} problems", ylim=(0.9, HIGHEST))
        panel.grid(alpha=0.25)
    lines = {line.get_label(): line for panel in panels for line in panel.lines}
    figure.legend(handles=lines.values(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    panels[0].set_ylabel("CPU time by that of the cheapest method\nat equal digits, median over problems")
    figure.savefig(path, dpi=120)
