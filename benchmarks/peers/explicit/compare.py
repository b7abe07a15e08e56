"""Training steps by explicit methods, against torchdiffeq: CPU time and peak memory at the same tolerance.

    python benchmarks/peers/explicit/compare.py [--rounds 2] [--repeats 5] [--folder benchmarks/results]

A training step is a solve, the mean of the squares of all outputs, and the backward pass, in float32 on one
thread. Solvers take turns, each in a process of its own; figures are medians over rounds of medians over
repeats. The peak is that of the process over its size before the first of the measured steps. torchdiffeq is
needed; the extra ``tutorials`` has it. Results are written after each case.

Writes peers_explicit.json and peers_explicit.png.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torchdiffeq
from systems import SYSTEMS

sys.path.insert(0, str(Path(__file__).parents[2]))

from measuring import ONE_THREAD, RESULTS, Bound, in_own_process, machine, store

SOLVERS = ("stiffml", "odeint", "odeint_adjoint")
METHODS = ("dopri5", "rk4")
LIMITS = {"odeint": 1.0, "odeint_adjoint": 0.5}


def measured(rounds: int, repeats: int) -> Iterator[dict]:
    worker = str(Path(__file__).parent / "worker.py")
    for name in SYSTEMS:
        for method in METHODS:
            taken: dict[str, list[dict]] = {solver: [] for solver in SOLVERS}
            for _ in range(rounds):
                for solver in SOLVERS:
                    arguments = [name, method, solver, repeats]
                    taken[solver].append(in_own_process(worker, arguments, ONE_THREAD))
            found = {
                solver: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
                for solver, rows in taken.items()
            }
            case = {"system": name, "method": method, **found}
            print(f"{name}, {method}: {told(case)}", flush=True)
            yield case


def told(case: dict) -> str:
    mine = case["stiffml"]
    parts = [
        f"{1e3 * mine['seconds']:.1f} ms, {mine['peak_bytes'] / 2**20:.1f} MB, error {mine['error']:.1e}"
    ]
    for peer in SOLVERS[1:]:
        theirs = case[peer]
        parts.append(
            f"{mine['seconds'] / theirs['seconds']:.2f} × {peer} (error {theirs['error']:.1e}), "
            f"memory {mine['peak_bytes'] / max(theirs['peak_bytes'], 1):.2f} ×, "
            f"calls {mine['calls']:.0f} to {theirs['calls']:.0f}"
        )
    return "; ".join(parts)


def bounds(cases: list[dict]) -> list[Bound]:
    found = []
    for case in cases:
        what, mine = f"{case['system']}, {case['method']}", case["stiffml"]
        for peer, limit in LIMITS.items():
            ratio = mine["seconds"] / case[peer]["seconds"]
            found.append(Bound(f"{what}: time relative to {peer}", ratio, limit))
        peak = mine["peak_bytes"] / max(case["odeint"]["peak_bytes"], 1)
        found.append(Bound(f"{what}: peak memory relative to odeint", peak, 1.0))
    return found


def draw(result: dict, path: Path) -> None:
    """Bars: CPU time and peak memory relative to ``odeint``."""
    cases = result["cases"]
    labels = [f"{case['system']}, {case['method']}" for case in cases]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 6), sharey=True, layout="constrained")
    for axis, key, title in ((left, "seconds", "CPU time"), (right, "peak_bytes", "peak memory")):
        for shift, solver in ((-0.2, "stiffml"), (0.2, "odeint_adjoint")):
            ratios = [case[solver][key] / case["odeint"][key] for case in cases]
            places = [number + shift for number in range(len(cases))]
            bars = axis.barh(places, ratios, height=0.4, label=solver)
            axis.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=2, fontsize=8)
        axis.axvline(1, color="black", linewidth=1)
        axis.set_xlabel(f"{title} of a training step, relative to torchdiffeq's odeint")
        axis.margins(x=0.12)
    left.set_yticks(range(len(cases)), labels)
    left.invert_yaxis()
    right.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=RESULTS)
    asked = parser.parse_args()
    cases: list[dict] = []
    for case in measured(asked.rounds, asked.repeats):
        cases.append(case)
        result = {
            "command": "python benchmarks/peers/explicit/compare.py"
            f" --rounds {asked.rounds} --repeats {asked.repeats}",
            "machine": machine(),
            "torchdiffeq": torchdiffeq.__version__,
            "cases": cases,
            "cases_left": len(SYSTEMS) * len(METHODS) - len(cases),
            "bounds": [bound.row() for bound in bounds(cases)],
        }
        store(result, draw, asked.folder, "peers_explicit")
    print("\n".join(map(str, bounds(cases))))


if __name__ == "__main__":
    main()
