"""POLLU from one run of 20 points by a network alone, and a plain call: errors at times never seen, by seed.

    fit(Closure(None, [10, 10, 10], seed=seed), data)

Usage: pollu_kim.py [SEEDS]. One thread is asked for by OMP_NUM_THREADS=1.

The set-up of S. Kim et al., Chaos 31 (2021) 093122: 20 points from 0 to 60 min, evenly, no noise; a network
with three layers of 10. Theirs sees 20 species and has 650 weights; this one sees 8 and has 530. Errors
are |y − reference|/range in the mean over species and 240 times, evenly too, of the model solved again with
BDF, rtol 1e-7.

What decided, and is what a closure takes from data where nothing is known (``stiffml/closures/alone.py``):

- The first interval, 3 min long, has a twentieth of the unseen times, and in it a dozen species settle, most
  of them within seconds, which no observation shows. A straight line through it has an error of 1.1e-2 in the
  mean of all times, however good it is later; one back from later observations has 1.3e-3. The head
  `Relaxation` has species settle at the network's numbers: those whose first change is three times their
  second far faster than the interval; the others at 1/t_end, which damps them.
- The network sees those others only. Shown species that are 0 at the start and settled at the first
  observation, it may say anything between.
- tanh bounds its numbers, and so with this head all solutions. With gelu and slow species that are not damped
  several of the seeds tried ran away.
- match_rates first, then a growing horizon, in which BDF takes a ramp of small steps.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

import problems
from problems.trajectories import reference_trajectory
from stiffml.closures import Closure
from stiffml.training import Run, Runs, TrainingError, fit
from stiffml.training.resolving import resolve

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measuring import RESULTS, Bound, machine, store

POLLU = problems.load("pollu")
POINTS, UNSEEN, END = 20, 241, 60.0
ERROR, SHARE, SECONDS = 3e-3, 0.7, 180


def measured(seed: int, observed: Run, unseen: Run) -> dict:
    """One seed's row."""
    ranges = np.ptp(observed.values, axis=0)
    data = Runs([observed], POLLU.components, time_units="min", initial="known")
    began = time.process_time()
    model = Closure(None, [10, 10, 10], seed=seed)
    row: dict = {"seed": seed}
    try:
        result = fit(model, data)
        row |= {"training": result.error, "outcome": result.outcome}
    except TrainingError as error:
        row |= {"training": None, "outcome": str(error)}
    row["cpu_s"] = time.process_time() - began
    row["parameters"] = sum(p.numel() for p in model.parameters())
    again = resolve(model, unseen, unseen.y0, 1e-7, 1e-10 * float(ranges.min()))
    off = np.nan_to_num(np.abs(again.y - unseen.values) / ranges, nan=np.inf)[1:]
    first = unseen.times[1:] < observed.times[1]
    row |= {"unseen": float(off.mean()), "after the first interval": float(off[~first].mean())}
    print(row, flush=True)
    row["by component"] = off.mean(axis=0).tolist()
    return row


def draw(result: dict, path: Path) -> None:
    """Errors over seeds, and by species."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = result["rows"]
    seeds = [row["seed"] for row in rows]
    for name, label in (
        ("training", "along the steps of the fit"),
        ("unseen", "solved again, unseen times"),
        ("after the first interval", "solved again, unseen times after the first interval"),
    ):
        left.plot(seeds, [np.nan if row[name] is None else row[name] for row in rows], "o", ms=4, label=label)
    left.axhline(ERROR, color="#888888", lw=1)
    left.set(yscale="log", xlabel="seed", title="mean error, of range")
    left.set_xticks(seeds)
    left.legend(fontsize=7)
    for row in rows:
        right.plot(row["by component"], ".", ms=4, color="#0b6e99")
    right.set(yscale="log", title="mean error at unseen times, of range: each seed")
    right.set_xticks(range(len(POLLU.components)), POLLU.components, rotation=90, fontsize=7)
    for panel in (left, right):
        panel.grid(alpha=0.25)
    figure.savefig(path, dpi=130)


def main() -> None:
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    runs = []
    for name, points in (("observed", POINTS), ("unseen", UNSEEN)):
        times = np.linspace(0, END, points)
        runs.append(Run(name, times, reference_trajectory(POLLU, times)))
    rows: list[dict] = []
    for seed in range(count):
        rows.append(measured(seed, *runs))
        good = float(np.mean([row["unseen"] <= ERROR for row in rows]))
        bounds = [
            Bound(f"share of seeds with error at unseen times up to {ERROR:g}", good, SHARE, True),
            Bound("most seconds of CPU of a seed", max(row["cpu_s"] for row in rows), SECONDS),
        ]
        command = " ".join(["benchmarks/fits/pollu_kim.py", *sys.argv[1:]])
        result = {"command": command, "machine": machine(), "rows": rows}
        store({**result, "bounds": [bound.row() for bound in bounds]}, draw, RESULTS, "fits_pollu_kim")
    for bound in bounds:
        print(bound)


if __name__ == "__main__":
    main()
