"""Cost of one training iteration of the Robertson fit, in f-units: multiples of one eager call of the
network. Both are timed in turn in one run, and medians are compared, since machines are noisy.

    python benchmarks/robertson_training.py [--repeats 25] [--rounds 3]

The best round counts: a neighbour on the machine can only make it slower. Bounds are of one machine; what
must hold on all of them, in counts, is in tests/costs/test_speed.py.

Writes benchmarks/results/robertson_training.json and robertson_training.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from measuring import RESULTS, Bound, machine, store

from stiffml import Grid, solve
from stiffml.fits.robertson import Network, error_of, observations

TOTAL, RATIO = 700, 0.25
"""F-units of an iteration, and backward pass over forward pass, at most."""


@dataclass(frozen=True)
class Cost:
    """Medians: an eager call in µs, forward and backward passes in f-units; Newton iterations a solve."""

    call_us: float
    forward_f: float
    backward_f: float
    newton_iterations: int

    @property
    def total_f(self) -> float:
        return self.forward_f + self.backward_f

    @property
    def ratio(self) -> float:
        return self.backward_f / self.forward_f


def measure(repeats: int = 25, seed: int = 0) -> Cost:
    """Forward and backward of the fit at its initial weights, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data, network = observations(), Network(seed)
        calls, forwards, backwards = [], [], []
        for repeat in range(repeats + 2):
            with torch.no_grad():
                began = time.perf_counter()
                for _ in range(50):
                    network(data.times[0], data.scaled[0])
                calls.append((time.perf_counter() - began) / 50)
            began = time.perf_counter()
            solution = solve(network, data.scaled[0], data.times, method="cn", steps=Grid())
            loss = error_of(solution, data)
            between = time.perf_counter()
            loss.backward()
            forwards.append(between - began)
            backwards.append(time.perf_counter() - between)
            if repeat < 2:  # warm-up
                calls, forwards, backwards = [], [], []
    finally:
        torch.set_num_threads(threads)
    call = statistics.median(calls)
    return Cost(
        call * 1e6,
        statistics.median(forwards) / call,
        statistics.median(backwards) / call,
        solution.stats.newton_iterations,
    )


def draw(result: dict, path: Path) -> None:
    """The passes of each round, stacked."""
    from matplotlib.figure import Figure

    cases = result["cases"]
    figure = Figure(figsize=(5, 3), layout="constrained")
    panel = figure.subplots()
    rounds = [f"{case['round']}" for case in cases]
    forward, backward = ([case[name] for case in cases] for name in ("forward_f", "backward_f"))
    panel.bar(rounds, forward, color="tab:blue", label="forward")
    panel.bar(rounds, backward, bottom=forward, color="tab:orange", label="backward")
    panel.axhline(TOTAL, color="black", linestyle=":", linewidth=1)
    panel.set(xlabel="round", ylabel="calls of the network", title="One training iteration")
    panel.set_ylim(top=1.25 * max(TOTAL, *(f + b for f, b in zip(forward, backward, strict=True))))
    panel.legend(frameon=False, loc="upper center", ncols=2)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    costs = [measure(asked.repeats) for _ in range(asked.rounds)]
    best = min(costs, key=lambda cost: cost.total_f)
    bounds = [
        Bound("f-units of an iteration", best.total_f, TOTAL),
        Bound("backward over forward", best.ratio, RATIO),
    ]
    found = {
        "command": "python benchmarks/robertson_training.py "
        f"--repeats {asked.repeats} --rounds {asked.rounds}",
        "machine": machine(),
        "bounds": [bound.row() for bound in bounds],
        "cases": [
            {"round": number, **asdict(cost), "total_f": cost.total_f, "backward_over_forward": cost.ratio}
            for number, cost in enumerate(costs, 1)
        ],
    }
    print(json.dumps(found["cases"], indent=1))
    print(*bounds, sep="\n")
    store(found, draw, asked.out, "robertson_training")
