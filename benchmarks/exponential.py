"""Digits against time on the Kuramoto-Sivashinsky equation: exponential, IMEX and explicit steps.

64 unknowns, one sample, t from 0 to 2 in ten output intervals, equal steps. The dispersion is the linear part
of a split, the convection the rest. Digits are of the last state, and of the gradient of its mean square
by y0, against arkimex-5 with steps of 0.002.

    python benchmarks/exponential.py [--rounds 3]

Writes benchmarks/results/exponential.json and exponential.png. Times are CPU seconds of one thread, medians
of rounds in each of which every case has a turn: of a solve, and of a solve with its gradient.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

INTERVALS, SPAN = 10, 2.0
CASES = {
    "etd2": (1, 2, 4, 8, 16),
    "etd3": (1, 2, 4, 8, 16),
    "arkimex-3": (1, 2, 4, 8, 16),
    "rk4": (80, 100, 200),
}
"""By method: steps in each interval."""
REFERENCE = "arkimex-5", 100


def solved(method: str, substeps: int, differentiated: bool):
    """The last state, and the gradient by y0 if that is wanted."""
    import torch

    import problems
    from stiffml import Grid, odeint

    problem = problems.load("ks")
    y0 = problem.initial_state().requires_grad_(differentiated)
    t = torch.linspace(0, SPAN, INTERVALS + 1, dtype=torch.float64)
    y = odeint(problem.split(), y0, t, method=method, steps=Grid(substeps))
    if differentiated:
        y[-1].square().mean().backward()
    return y[-1].detach(), y0.grad


def digits(found, exact) -> float:
    import torch

    if not bool(torch.isfinite(found).all()):
        return 0.0
    off = float((found - exact).norm() / exact.norm())
    return max(0.0, -float(torch.log10(torch.tensor(max(off, 1e-16)))))


def measure(rounds: int) -> dict:
    import torch
    from measuring import machine

    torch.set_num_threads(1)
    exact = solved(*REFERENCE, True)
    cases = [(method, count) for method, counts in CASES.items() for count in counts]
    seconds: dict = {(case, kind): [] for case in cases for kind in (False, True)}
    for _ in range(rounds + 1):  # the first is for what is compiled or found out once
        for (case, kind), held in seconds.items():
            began = time.process_time()
            solved(*case, kind)
            held.append(time.process_time() - began)
    rows = []
    for method, count in cases:
        y, gradient = solved(method, count, True)
        rows.append(
            {
                "method": method,
                "h": SPAN / INTERVALS / count,
                "digits": digits(y, exact[0]),
                "digits of the gradient": digits(gradient, exact[1]),
                "ms": 1e3 * statistics.median(seconds[(method, count), False][1:]),
                "ms with gradient": 1e3 * statistics.median(seconds[(method, count), True][1:]),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return {
        "command": f"python benchmarks/exponential.py --rounds {rounds}",
        "machine": machine(),
        "cases": rows,
    }


def draw(result: dict, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    kinds = (("ms", "digits", "solve"), ("ms with gradient", "digits of the gradient", "solve and gradient"))
    for axes, (of_time, of_digits, title) in zip(both, kinds, strict=True):
        for method in CASES:
            rows = [row for row in result["cases"] if row["method"] == method]
            axes.plot([row[of_time] for row in rows], [row[of_digits] for row in rows], "o-", label=method)
        axes.set_xscale("log")
        ticks = [30, 60, 100, 200, 500, 1000, 2000]
        axes.set_xticks(ticks, list(map(str, ticks)))
        axes.minorticks_off()
        axes.set_xlabel("CPU time / ms")
        axes.set_title(title)
    both[0].set_ylabel("correct digits")
    both[1].legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    from measuring import RESULTS, store

    store(measure(given.rounds), draw, RESULTS, "exponential")


if __name__ == "__main__":
    main()
