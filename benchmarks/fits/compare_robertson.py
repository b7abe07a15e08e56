"""PNODE's Robertson set-up by implicit methods and an explicit one: what training costs, and when that fails.

Usage: compare_robertson.py [SECONDS] [SEEDS] [FOLDER]. One thread is asked for by OMP_NUM_THREADS=1.

Each training has that many seconds of CPU (default 20), by AdamW and by Levenberg-Marquardt, from the same
weights. dopri5 adapts its steps to rtol 1e-4 and atol 1e-6, the others take one step (bdf: and its ramp)
between observations. With a folder trainings are kept there, and those that are there are not done again.

Then the network that Levenberg-Marquardt ends with (Crank-Nicolson, error 1e-5) is solved by each method,
dopri5 without giving up: what one iteration of a training would cost there.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import problems
import stiffml
from problems.trajectories import reference_trajectory
from stiffml.experiments.robertson import ATTEMPTS, TARGET, Network, observations
from stiffml.training import Comparison, compare, fit
from stiffml.training.comparing.learned_field import stiffness_along
from stiffml.training.comparing.tables import rows
from stiffml.training.resolving import resolve

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measuring import RESULTS, machine, store

METHODS = ["dopri5", "cn", "rosw-ra34pw2", "bdf", "dirk-es324sal"]
TOLERANCES = {"rtol": 1e-4, "atol": 1e-6}


def compared(seconds: float, seeds: int, folder: Path) -> Comparison:
    data = observations()
    return compare(
        Network,
        data.runs,
        validate=data.unseen,
        methods=METHODS,
        optimizers={"adamw": {}, "lm": {"target": TARGET, "attempts": ATTEMPTS}},
        seeds=seeds,
        seconds=seconds,
        scale=1.0,
        jobs=2,
        folder=folder,
        resume=True,
        save_every=100,
        report=lambda done, of, label: print(done, of, label, flush=True),
        **TOLERANCES,
    )


def solved_when_fitted(seed: int = 1) -> dict:
    """The fitted network: how stiff it is, and what a solve and its gradient cost by each method."""
    data = observations()
    result = fit(Network, data.runs, method="cn", scale=1.0, target=TARGET, attempts=ATTEMPTS, seed=seed)
    run = data.runs[0]
    line = resolve(result.model, run, run.y0).line
    fast, steps = stiffness_along(result.model, *line)
    found: dict = {"error": result.error, "fastest decay x span": fast, "explicit steps": steps, "solves": {}}
    endless = stiffml.Adaptive(stop_if_stiff=False, max_steps=1_000_000)
    ways = {
        "dopri5": {"method": "dopri5", "steps": endless, **TOLERANCES},
        **{method: {"method": method, "steps": stiffml.Grid()} for method in METHODS[1:]},
    }
    for method, arguments in ways.items():
        began = time.process_time()
        solution = stiffml.solve(result.model, torch.from_numpy(run.y0.copy()), data.times, **arguments)
        forwards = time.process_time() - began
        (solution.y - data.scaled).square().mean().backward()
        stats = solution.stats
        found["solves"][method] = {
            "steps": stats.accepted + stats.rejected,
            "evaluations, with gradient": stats.rhs_evals + stats.adjoint.rhs_evals,
            "CPU s, forwards": forwards,
            "CPU s, with gradient": time.process_time() - began,
        }
        print(method, found["solves"][method], flush=True)
    shown = stiffml.solve(
        result.model, torch.from_numpy(run.y0.copy()), data.times, method="dopri5", throw=False, **TOLERANCES
    )
    found["dopri5 with its default"] = shown.message
    times = np.concatenate([[0.0], np.geomspace(1e-5, 100, 60)])
    truth = problems.load("robertson")
    fast, steps = stiffness_along(truth.func(), times, reference_trajectory(truth, times))
    found["the reaction itself"] = {"fastest decay x span": fast, "explicit steps": steps}
    return found


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(temporary)
        found = compared(seconds, seeds, folder)
    table = [
        {**{name: value for name, value in vars(row).items() if name != "wall_s"}} for row in rows(found.data)
    ]
    stored = {
        "command": f"OMP_NUM_THREADS=1 python benchmarks/fits/compare_robertson.py {seconds:g} {seeds}",
        "machine": machine(),
        "trainings": table,
        "fitted": solved_when_fitted(),
    }

    def draw(_: dict, path: Path) -> None:
        import matplotlib.image
        from matplotlib.figure import Figure

        figures = found.plot()
        with tempfile.TemporaryDirectory() as place:
            figure = Figure(figsize=(11, 4.7), layout="constrained")
            for panel, name in zip(figure.subplots(1, 2), ("error-time", "stiffness"), strict=True):
                picture = Path(place) / f"{name}.png"
                figures[name].savefig(picture, dpi=170)
                panel.imshow(matplotlib.image.imread(picture))
                panel.set_axis_off()
            figure.savefig(path, dpi=150)

    store(stored, draw, RESULTS, "compare_robertson")


if __name__ == "__main__":
    main()
