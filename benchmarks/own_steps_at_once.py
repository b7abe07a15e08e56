"""Known steps of many samples of Robertson's reaction: side by side, step by step, and all at once.

    python benchmarks/own_steps_at_once.py [--samples 20 100] [--repeats 15]

Each sample has an initial state and 21 output times of its own, about logarithmic from 0 to 50 … 150,
and five steps between two of them, ``Grid(5)``. Forward, and the gradient of a sum of squares by the
initial states and three rates, evaluated by torch. ``guessed`` starts from the solution with rates that
are 1 % off. CPU time with all that a solve does; the kinds take turns, and each number is a median.
``times_faster`` is the median of the ratios of side by side to the kind, gradient included, in the same
round.

Writes benchmarks/results/own_steps_at_once.json and own_steps_at_once.png.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from measuring import RESULTS, machine, store
from torch import Tensor, nn

import stiffml

METHODS = ("cn", "bdf", "dirk-es325sal")
KINDS = {"side by side": "sequential", "all at once": "auto", "guessed": "auto"}


class Robertson(nn.Module):
    """Rates by their logarithms."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64).log())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        (a, b, c), k = y.unbind(-1), self.k.exp()
        first, second, third = k[0] * a, k[1] * b * b, k[2] * b * c
        return torch.stack([third - first, first - second - third, second], -1)


def problem(count: int) -> tuple[Tensor, Tensor]:
    """Initial states (count, 3) and times (count, 21)."""
    generator = torch.Generator().manual_seed(0)
    c, scale = torch.rand(2, count, 1, generator=generator, dtype=torch.float64)
    y0 = torch.cat([1 - 0.3 * c, 0 * c, 0.3 * c], 1).requires_grad_()
    t = torch.logspace(-4, 2, 20, dtype=torch.float64) * (0.5 + scale)
    return y0, torch.cat([torch.zeros(count, 1, dtype=torch.float64), t], 1)


def compare(count: int, method: str, repeats: int) -> dict:
    """CPU times of all kinds, and how far their results are apart."""
    func, (y0, t) = Robertson(), problem(count)
    arguments = {"batch_dims": 1, "method": method, "steps": stiffml.Grid(5)}
    with torch.no_grad():
        func.k += 0.01
        near = stiffml.solve(func, y0, t, **arguments)
        func.k -= 0.01
    taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    found, row = {}, {"samples": count, "method": method}
    for _ in range(repeats + 1):
        for kind, stepping in KINDS.items():
            guess = near if kind == "guessed" else None
            began = time.process_time()
            solution = stiffml.solve(func, y0, t, stepping=stepping, guess=guess, **arguments)
            middle = time.process_time()
            gradients = torch.autograd.grad(solution.y.square().sum(), [y0, func.k])
            taken[kind].append((middle - began, time.process_time() - middle))
            found[kind] = solution.y.detach(), *gradients
            stats = solution.stats
            assert stats.at_once == (0 if kind == "side by side" else stats.accepted)
            row["steps"], row[f"{kind}, iterations"] = stats.accepted, stats.newton_iterations
    for kind, times in taken.items():
        pairs = zip(taken["side by side"][1:], times[1:], strict=True)
        row[f"{kind}, times_faster"] = statistics.median(sum(a) / sum(b) for a, b in pairs)
        forward, backward = zip(*times[1:], strict=True)
        row[f"{kind}, forward_ms"] = 1e3 * statistics.median(forward)
        row[f"{kind}, gradient_ms"] = 1e3 * statistics.median(backward)
        row[f"{kind}, off"] = max(
            float((a - b).abs().max() / b.abs().max())
            for a, b in zip(found[kind], found["side by side"], strict=True)
        )
    return row


def draw(result: dict, path: Path) -> None:
    """Forward times as bars, those of gradients on top."""
    from matplotlib.figure import Figure

    rows = result["solves"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    ax = figure.subplots()
    for place, (kind, colour) in enumerate(zip(KINDS, ("0.5", "tab:blue", "tab:cyan"), strict=True)):
        at = [n + 0.27 * (place - 1) for n in range(len(rows))]
        forward = [row[f"{kind}, forward_ms"] for row in rows]
        ax.bar(at, forward, 0.25, color=colour, label=kind)
        gradient = [row[f"{kind}, gradient_ms"] for row in rows]
        ax.bar(at, gradient, 0.25, bottom=forward, color=colour, alpha=0.45, label=f"{kind}, gradient")
    ax.set_xticks(range(len(rows)), [f"{row['method']}\n{row['samples']} samples" for row in rows])
    ax.set(ylabel="CPU time [ms]", title="Robertson's reaction, steps of every sample's own, Grid(5)")
    ax.legend(frameon=False, ncols=3)
    ax.set_ylim(top=1.25 * ax.get_ylim()[1])
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "command": f"python benchmarks/own_steps_at_once.py --repeats {asked.repeats}",
        "machine": machine(),
        "solves": [compare(count, method, asked.repeats) for method in METHODS for count in asked.samples],
    }
    for row in result["solves"]:
        print(row, flush=True)
    store(result, draw, asked.out, "own_steps_at_once")
