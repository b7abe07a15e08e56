"""What the diagnosis of stiffness advises on each problem of the library, and what measurement says.

Each problem is solved from end to end by bdf at rtol 1e-4, and its eigenvalues give the advice. Then dopri5,
bdf and rosw-ra34pw2 solve it in turn; their seconds of CPU time are medians of three, of solves above
0.15 seconds one alone. A stiff problem must
be dearer for dopri5 than for the cheapest implicit method, one that is not stiff cheaper; mildly stiff ones
must cost alike within a factor of 5. Where dopri5 gives up, its steps are those it took and those it says
remain. Variants with other parameters lie between stiff and not. "oscillator" has two modes,
one weakly damped with 50 turns, the other fast.

    python benchmarks/advice.py [--only vanderpol ks]

With ``--only``, problems with these words in their names; other rows stay as they are stored.
Writes benchmarks/results/advice.json and advice.png, and the table docs/advice.md.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import RESULTS, Bound, machine, store

import problems
from problems import Problem
from stiffml import METHODS, Adaptive, SolveError
from stiffml.diagnostics import advise, stiffness

RTOL, REPEATS, MAX_STEPS, ALIKE = 1e-4, 3, 10_000, 5.0
LONG = 0.15
EXPLICIT, IMPLICIT = "dopri5", ("bdf", "rosw-ra34pw2")
PAGE = Path(__file__).parents[1] / "docs" / "advice.md"

VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("prothero", {"lambda": -1.0}),
    ("prothero", {"lambda": -100.0}),
    ("prothero", {"lambda": -1e4}),
    ("vanderpol", {"eps": 1.0}),
    ("vanderpol", {"eps": 1e-2}),
    ("vanderpol", {"eps": 1e-4}),
    ("burgers", {"size": 64}),
    ("brusselator", {"size": 8}),
    ("gray_scott", {"size": 16}),
    ("gray_scott", {"size": 32}),
)


def oscillator() -> Problem:
    """y'' + 0.02 y' + y = 0 over 50 turns, beside z' = −1e5 (z − y)."""

    def rhs(t: torch.Tensor, y: torch.Tensor, p: Any) -> torch.Tensor:
        a, b, c = y.unbind(-1)
        return torch.stack([b, -a - 0.02 * b, -1e5 * (c - a)], dim=-1)

    return Problem("oscillator", rhs, np.array([1.0, 0.0, 1.0]), (0.0, 100 * np.pi))


def cases() -> list[tuple[str, Problem]]:
    found = [(name, problems.load(name)) for name in problems.names()]
    for name, values in VARIANTS:
        label = ", ".join(f"{key} {value:g}" for key, value in values.items())
        found.append((f"{name}, {label}", problems.load(name).make(**values)))
    return [*found, ("oscillator", oscillator())]


def solved(problem: Problem, method: str) -> dict[str, Any]:
    """What a solve cost; or why it gave up."""
    t = torch.tensor(problem.t_span, dtype=torch.float64)
    began = time.process_time()
    try:
        with torch.no_grad():
            found = problem.solve(t, method=method, rtol=RTOL, steps=Adaptive(max_steps=MAX_STEPS))
    except (SolveError, ValueError) as error:
        remaining = re.search(r"([\d.e+]+) more such steps", str(error))
        reason = "takes no mass matrix" if isinstance(error, ValueError) else str(error).split(":")[0]
        more = float(remaining.group(1)) if remaining else float("nan")
        return {"failure": reason, "steps": more, "cpu_s": time.process_time() - began}
    stats = found.stats
    cost = {"steps": stats.accepted, "rhs_evals": stats.rhs_evals, "jacobians": stats.jacobians}
    return {**cost, "cpu_s": time.process_time() - began}


def measured(problem: Problem) -> dict[str, dict[str, Any]]:
    """By method what it cost."""
    methods = [m for m in (EXPLICIT, *IMPLICIT) if problem.mass is None or METHODS[m].adaptive_dae]
    found: dict[str, dict[str, Any]] = {}
    seconds: dict[str, list[float]] = {m: [] for m in methods}
    for _ in range(REPEATS):
        for method in methods:
            if "failure" in found.get(method, {}) or max(seconds[method], default=0.0) > LONG:
                continue
            found[method] = solved(problem, method)
            seconds[method].append(found[method]["cpu_s"])
    for method, cost in found.items():
        cost["cpu_s"] = statistics.median(seconds[method])
    return found


def row(label: str, problem: Problem) -> dict[str, Any]:
    t = torch.tensor(problem.t_span, dtype=torch.float64)
    with torch.no_grad():
        solution = problem.solve(t, method="bdf", rtol=RTOL)
    found = stiffness(solution, points=60 if problem.size <= 300 else 6)
    advice = advise(found)
    costs = measured(problem)
    cheapest = min(
        (m for m in costs if m != EXPLICIT and "failure" not in costs[m]), key=lambda m: costs[m]["cpu_s"]
    )
    explicit = costs.get(EXPLICIT, {"failure": "takes no mass matrix"})
    # A solve that gave up costs at least what it took.
    ratio = explicit.get("cpu_s", float("nan")) / costs[cheapest]["cpu_s"]
    gave_up = "failure" in explicit
    if advice.dae:
        agrees = "takes no mass matrix" in str(explicit.get("failure"))
    elif advice.verdict == "stiff":
        agrees = gave_up or ratio > 1
    elif advice.verdict == "not stiff":
        agrees = not gave_up and ratio < 1
    else:
        agrees = not gave_up and 1 / ALIKE < ratio < ALIKE
    return {
        "problem": label,
        "unknowns": problem.size,
        "stiffness": float(found["stiffness"].max()),
        "verdict": advice.verdict,
        "oscillatory": advice.oscillatory,
        "dae": advice.dae,
        "advised": list(advice.methods),
        "predicted_explicit_steps": advice.explicit_steps,
        "explicit_steps": explicit.get("steps"),
        "explicit_gave_up": explicit.get("failure", ""),
        "cheapest_implicit": cheapest,
        "explicit_by_implicit_cpu": ratio,
        "agrees": agrees,
        "costs": costs,
    }


def page(rows: list[dict[str, Any]], command: str) -> str:
    """The table in Markdown."""
    lines = [
        "# Advice on methods, and measurement",
        "",
        f"Written by `{command}`, whose docstring says what is compared. rtol 1e-4.",
        "Steps are those that stability asks of dopri5, by eigenvalues along a solution by bdf, and those",
        "that it took (≥: it gave up, with as many still to go). CPU: seconds of dopri5 by those of the",
        "cheaper implicit method, bdf or rosw-ra34pw2 (>: dopri5 gave up after that).",
        "",
        "| problem | unknowns | advice | steps, predicted | steps, taken | CPU | cheaper implicit | agrees |",
        "|---|--:|---|--:|--:|--:|---|---|",
    ]
    for one in rows:
        words = one["verdict"] + ", oscillatory" * one["oscillatory"] + ", DAE" * one["dae"]
        gave_up = one["explicit_gave_up"]
        steps = "none" if "mass" in gave_up else f"{'≥ ' * bool(gave_up)}{one['explicit_steps']:.3g}"
        cpu = "" if "mass" in gave_up else f"{'> ' * bool(gave_up)}{one['explicit_by_implicit_cpu']:.2g}"
        lines.append(
            f"| {one['problem']} | {one['unknowns']} | {words} | {one['predicted_explicit_steps']:.3g} "
            f"| {steps} | {cpu} | {one['cheapest_implicit']} | {'yes' if one['agrees'] else '**no**'} |"
        )
    right = sum(one["agrees"] for one in rows)
    return "\n".join([*lines, "", f"{right} of {len(rows)} agree.", ""])


def draw(result: dict, path: Path) -> None:
    """Predicted against taken steps; and the cost by CPU time against the predicted ratio of costs."""
    from matplotlib.figure import Figure

    rows = [one for one in result["rows"] if not one["dae"] and one["explicit_steps"]]
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for gave_up, mark in ((False, "o"), (True, "^")):
        own = [one for one in rows if bool(one["explicit_gave_up"]) == gave_up]
        label = "it gave up: still to go" if gave_up else "taken"
        if not own:
            continue
        x = [one["predicted_explicit_steps"] for one in own]
        left.plot(x, [one["explicit_steps"] for one in own], mark, ms=5, mfc="none", label=label)
    ends = [10, 1e17]
    left.plot(ends, ends, color="0.6", lw=0.8)
    left.set(xscale="log", yscale="log", xlabel="steps of dopri5 by eigenvalues", ylabel="steps of dopri5")
    left.legend(frameon=False)
    finished = [one for one in rows if not one["explicit_gave_up"]]
    colours = {"stiff": "#c1440e", "mildly stiff": "#888888", "not stiff": "#1f77b4"}
    for verdict, colour in colours.items():
        own = [one for one in finished if one["verdict"] == verdict]
        if not own:
            continue
        x = [one["predicted_explicit_steps"] / one["costs"]["bdf"]["steps"] for one in own]
        y = [one["explicit_by_implicit_cpu"] for one in own]
        right.plot(x, y, "o", color=colour, ms=5, label=verdict)
    right.axhline(1, color="0.6", lw=0.8)
    if finished:
        right.set(xscale="log", yscale="log")
        right.legend(frameon=False)
    right.set(xlabel="predicted steps of dopri5 by steps of bdf")
    right.set_ylabel("CPU of dopri5 by cheaper implicit method")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--only", nargs="+", default=[])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    command, all_cases = "python benchmarks/advice.py", cases()
    stored = asked.out / "advice.json"
    known = json.loads(stored.read_text())["rows"] if asked.only and stored.exists() else []
    by_label = {one["problem"]: one for one in known}
    for label, problem in all_cases:
        if asked.only and not any(word in label for word in asked.only):
            continue
        by_label[label] = row(label, problem)
        rows = [by_label[name] for name, _ in all_cases if name in by_label]
        print({k: v for k, v in by_label[label].items() if k != "costs"}, flush=True)
        agreeing = sum(one["agrees"] for one in rows) / len(rows)
        bounds = [Bound("problems where advice and measurement agree", agreeing, 1.0, at_least=True)]
        found = {"command": command, "machine": machine(), "bounds": [b.row() for b in bounds], "rows": rows}
        store(found, draw, asked.out, "advice")  # after each, as the whole takes minutes
        asked.page.write_text(page(rows, command))
    print(*bounds, sep="\n")
