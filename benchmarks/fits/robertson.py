"""Fits of Robertson's problem from many seeds: training error, error at times never seen, attempts, seconds.

    OMP_NUM_THREADS=1 python benchmarks/fits/robertson.py pnode [SEEDS] [POINTS]
    OMP_NUM_THREADS=1 python benchmarks/fits/robertson.py long [SEEDS]

pnode   PNODE's set-up (arXiv 2206.01298): to 100 s, 40 or 160 points, 155 weights, Crank-Nicolson with one
        step between observations; multiple shooting.
long    to 1e5 s with 50 points (Kim et al., Chaos 31 (2021) 093122): a closure of which nothing is known,
        two hidden layers of 10, by a plain call: fit(Closure(None, [10, 10]), runs, compile=True).

The first seed's seconds include those of compiling, if the cache has not the code yet.

Errors are mean absolute ones in units of the scaled species. The model is solved again with BDF, rtol 1e-7,
at times that nothing was fitted to.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

import problems
from problems.trajectories import reference_trajectory
from stiffml.closures import Closure
from stiffml.experiments.robertson import Network, observations
from stiffml.training import Result, Run, Runs, TrainingError, fit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measuring import RESULTS, Bound, machine, store

COMPONENTS = ["A", "B", "C"]
UNSEEN_OF_POINTS = {40: 1e-3, 160: 1e-4}
MEDIAN_SECONDS = {40: 5, 160: 12}
END, LONG_POINTS, LONG_UNSEEN, UNSEEN_OF_LONG = 1e5, 50, 247, 3e-3


def long_runs() -> tuple[Runs, Runs]:
    """Observations to fit to, and those never seen."""
    times = np.concatenate([[0.0], np.geomspace(1e-5, END, LONG_POINTS)])
    others = np.concatenate([[0.0], np.geomspace(1e-5, END, LONG_UNSEEN)])
    every, where = np.unique(np.concatenate([times, others]), return_inverse=True)
    y = reference_trajectory(problems.load("robertson"), every)[where]
    y /= y[: len(times)].max(axis=0)
    runs = Run("observed", times, y[: len(times)]), Run("unseen", others, y[len(times) :])
    return tuple(Runs([run], COMPONENTS, time_units="s", initial="known") for run in runs)  # type: ignore[return-value]


def pnode(seed: int, points: int, train: Runs) -> Result:
    return fit(
        Network,
        train,
        method="cn",
        scale=1.0,
        target=1e-5,
        judged=UNSEEN_OF_POINTS[points],
        attempts=20,
        seed=seed,
        compile=True,
    )


def long(seed: int, train: Runs) -> Result:
    return fit(Closure(None, [10, 10], seed=seed), train, compile=True)


def measured(seed: int, run, unseen: Runs) -> dict:
    """One seed's row."""
    began = time.process_time(), time.perf_counter()
    try:
        result = run(seed)
    except TrainingError as error:
        print(seed, error, flush=True)
        row = {"seed": seed, "training": None, "unseen": None, "outcome": str(error)}
    else:
        row = {
            "seed": seed,
            "training": result.error,
            "attempts": len(result.attempts),
            "iterations": result.history.sizes["iteration"],
            "failures": len(result.failures),
            "outcome": result.outcome,
        }
    seconds = {"cpu_s": time.process_time() - began[0], "wall_s": time.perf_counter() - began[1]}
    if row["training"] is not None:
        row["unseen"] = result.report(unseen).mean
    row |= seconds
    print(row, flush=True)
    return row


def summary(rows: list[dict], kind: str, points: int) -> list[Bound]:
    errors = np.array([np.inf if row["training"] is None else row["training"] for row in rows])
    unseen = np.array([np.inf if row["unseen"] is None else row["unseen"] for row in rows])
    seconds = np.array([row["cpu_s"] for row in rows])
    if kind == "pnode":
        most = UNSEEN_OF_POINTS[points]
        return [
            Bound("share of seeds with training error up to 1e-5", float((errors <= 1e-5).mean()), 1, True),
            Bound(
                f"share of seeds with error at unseen times up to {most:g}",
                float((unseen <= most).mean()),
                1,
                True,
            ),
            Bound("median seconds of CPU a seed", float(np.median(seconds)), MEDIAN_SECONDS[points]),
        ]
    return [
        Bound(
            f"share of seeds with error at unseen times up to {UNSEEN_OF_LONG:g}",
            float((unseen <= UNSEEN_OF_LONG).mean()),
            0.7,
            True,
        ),
        Bound("most seconds of CPU of a seed", float(seconds.max()), 180),
    ]


def draw(result: dict, path: Path) -> None:
    """Errors over seeds, and seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = result["rows"]
    seeds = [row["seed"] for row in rows]
    for name, label in (("training", "along the steps of the fit"), ("unseen", "solved again, unseen times")):
        left.plot(seeds, [np.nan if row[name] is None else row[name] for row in rows], "o", ms=4, label=label)
    left.set(yscale="log", xlabel="seed", title="mean absolute error, scaled")
    left.legend(fontsize=8)
    right.bar(seeds, [row["cpu_s"] for row in rows], color="#888888")
    right.set(xlabel="seed", title="seconds of CPU, restarts included")
    for panel in (left, right):
        panel.grid(alpha=0.25)
    figure.savefig(path, dpi=130)


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=["pnode", "long"])
    parser.add_argument("seeds", nargs="?", type=int, help="default 20, or 10 of long")
    parser.add_argument("points", nargs="?", type=int, default=40, choices=list(UNSEEN_OF_POINTS))
    asked = parser.parse_args()
    kind, points = asked.kind, asked.points
    seeds = range(asked.seeds or {"pnode": 20, "long": 10}[kind])
    if kind == "pnode":
        data = observations(points)
        train, unseen = data.runs, data.unseen
        name = f"fits_robertson_{points}"

        def run(seed: int) -> Result:
            return pnode(seed, points, train)
    else:
        train, unseen = long_runs()
        name, points = "fits_robertson_long", LONG_POINTS

        def run(seed: int) -> Result:
            return long(seed, train)

    rows: list[dict] = []
    for seed in seeds:
        rows.append(measured(seed, run, unseen))
        bounds = summary(rows, kind, points)
        command = " ".join(["benchmarks/fits/robertson.py", *sys.argv[1:]])
        result = {"command": command, "setup": kind, "points": points, "machine": machine(), "rows": rows}
        store({**result, "bounds": [bound.row() for bound in bounds]}, draw, RESULTS, name)
    for bound in bounds:
        print(bound)


if __name__ == "__main__":
    main()
