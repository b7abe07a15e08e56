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

WAYS: dict[str, dict] = {
    "one by one": {"stepping": "sequential"},
    "all at once": {},
    "with a guess": {},
    "compiled": {"compile": True},
    "compiled, guess": {"compile": True},
}
"""How the 40 steps are solved; the guess is the solution of the same network, as good as one can be."""

TOTAL = {
    "one by one": 700,
    "all at once": 300,
    "with a guess": 200,
    "compiled": 250,
    "compiled, guess": 160,
}
"""F-units of an iteration at most."""


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


def measure(repeats: int = 25, seed: int = 0) -> dict[str, Cost]:
    """Forward and backward of the fit at its initial weights, each way in turn, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data, network = observations(), Network(seed)
        guess = solve(network, data.scaled[0], data.times, method="cn", steps=Grid())
        calls: list[float] = []
        passes: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        iterations: dict[str, int] = {}
        for repeat in range(repeats + 2):
            if repeat == 2:  # the first two were warm-up
                calls, passes = [], {way: [] for way in WAYS}
            with torch.no_grad():
                began = time.perf_counter()
                for _ in range(50):
                    network(data.times[0], data.scaled[0])
                calls.append((time.perf_counter() - began) / 50)
            for way, arguments in WAYS.items():
                more = {"guess": guess} if way.endswith("guess") else {}
                began = time.perf_counter()
                solution = solve(
                    network, data.scaled[0], data.times, method="cn", steps=Grid(), **arguments, **more
                )
                loss = error_of(solution, data)
                between = time.perf_counter()
                loss.backward()
                passes[way].append((between - began, time.perf_counter() - between))
                iterations[way] = solution.stats.newton_iterations
    finally:
        torch.set_num_threads(threads)
    call = statistics.median(calls)
    medians = {
        way: [statistics.median(times) / call for times in zip(*p, strict=True)] for way, p in passes.items()
    }
    return {way: Cost(call * 1e6, *medians[way], iterations[way]) for way in WAYS}


def draw(result: dict, path: Path) -> None:
    """The passes of the best round, stacked, by way."""
    from matplotlib.figure import Figure

    best = {case["way"]: case for case in sorted(result["cases"], key=lambda case: -case["total_f"])}
    figure = Figure(figsize=(7, 3), layout="constrained")
    panel = figure.subplots()
    forward, backward = ([best[way][name] for way in WAYS] for name in ("forward_f", "backward_f"))
    panel.bar(list(WAYS), forward, color="tab:blue", label="forward")
    bars = panel.bar(list(WAYS), backward, bottom=forward, color="tab:orange", label="backward")
    panel.bar_label(bars, [f"{f + b:.0f}" for f, b in zip(forward, backward, strict=True)])
    panel.set(ylabel="calls of the network", title="One training iteration of 40 Crank-Nicolson steps")
    panel.margins(y=0.12)
    panel.legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    rounds = [measure(asked.repeats) for _ in range(asked.rounds)]
    best = {way: min((costs[way] for costs in rounds), key=lambda cost: cost.total_f) for way in WAYS}
    bounds = [Bound(f"f-units of an iteration, {way}", best[way].total_f, TOTAL[way]) for way in WAYS]
    found = {
        "command": "python benchmarks/robertson_training.py "
        f"--repeats {asked.repeats} --rounds {asked.rounds}",
        "machine": machine(),
        "bounds": [bound.row() for bound in bounds],
        "cases": [
            {"round": number, "way": way, **asdict(cost), "total_f": cost.total_f}
            for number, costs in enumerate(rounds, 1)
            for way, cost in costs.items()
        ],
    }
    print(json.dumps(found["cases"], indent=1))
    print(*bounds, sep="\n")
    store(found, draw, asked.out, "robertson_training")
