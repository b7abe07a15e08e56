"""A network of ten thousand weights fitted to Robertson's problem: Levenberg-Marquardt, and AdamW as long.

Usage: large_network.py [SEEDS]. One thread is asked for by OMP_NUM_THREADS=1.

The data are PNODE's (40 points to 100 s, Crank-Nicolson with one step between observations); the network has
two hidden layers of 96 in place of six of 5. Derivatives by 9 987 weights come from the factors of the solve,
and a step solves a system of 120 unknowns, those of the residuals. AdamW then has the same seconds of CPU,
from the same weights, its steps solved all at once too. Errors are mean absolute ones of scaled species:
along the fit's own steps, and solved again with tight tolerances at 198 times never seen.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.closures import mlp
from stiffml.experiments.robertson import observations
from stiffml.training import Result, Runs, TrainingError, fit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measuring import RESULTS, Bound, machine, store

WIDTH = 96
TARGET, UNSEEN, ATTEMPTS = 1e-5, 1e-3, 8
RATES = (1e-2, 1e-3)
"""Of AdamW; the better one counts."""


class Wide(nn.Module):
    """dy/dt of the scaled species."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.layers = mlp([3, WIDTH, WIDTH, 3], seed=seed, gain=0.1)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layers(y)


def levenberg_marquardt(seed: int, train: Runs) -> Result:
    return fit(
        Wide, train, method="cn", scale=1.0, target=TARGET, judged=UNSEEN, attempts=ATTEMPTS, seed=seed
    )


def adamw(seed: int, train: Runs, rate: float, seconds: float) -> Result:
    return fit(
        Wide,
        train,
        method="cn",
        scale=1.0,
        optimizer="adamw",
        learning_rate=rate,
        seed=seed,
        iterations=1_000_000,
        max_seconds=seconds,
    )


def measured(seed: int, train: Runs, unseen: Runs) -> dict:
    """One seed's row."""
    began = time.process_time()
    result = levenberg_marquardt(seed, train)
    seconds = time.process_time() - began
    row = {
        "seed": seed,
        "weights": sum(p.numel() for p in result.model.parameters()),
        "training": result.error,
        "unseen": result.report(unseen).mean,
        "attempts": len(result.attempts),
        "iterations": result.history.sizes["iteration"],
        "cpu_s": seconds,
    }
    for rate in RATES:
        name = f"AdamW {rate:g}"
        try:
            other = adamw(seed, train, rate, seconds)
            row[name] = {"unseen": other.report(unseen).mean, "iterations": other.history.sizes["iteration"]}
        except TrainingError as error:
            row[name] = {"unseen": None, "outcome": str(error)}
    print(row, flush=True)
    return row


def bounds_of(rows: list[dict]) -> list[Bound]:
    found = [[row[f"AdamW {rate:g}"]["unseen"] for rate in RATES] for row in rows]
    best = [min(float("inf") if one is None else one for one in of_seed) for of_seed in found]
    return [
        Bound("largest training error", max(row["training"] for row in rows), TARGET),
        Bound("largest error at unseen times", max(row["unseen"] for row in rows), UNSEEN),
        Bound(
            "error of AdamW by that of Levenberg-Marquardt at unseen times, median",
            statistics.median(other / row["unseen"] for other, row in zip(best, rows, strict=True)),
            10,
            True,
        ),
    ]


def draw(result: dict, path: Path) -> None:
    """Errors at unseen times over seconds, of each seed and optimizer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    panel = figure.subplots()
    rows = result["rows"]
    seconds = [row["cpu_s"] for row in rows]
    panel.plot(seconds, [row["unseen"] for row in rows], "o", label="Levenberg-Marquardt")
    for rate, marker in zip(RATES, "x+", strict=True):
        values = [row[f"AdamW {rate:g}"]["unseen"] or np.nan for row in rows]
        panel.plot(seconds, values, marker, label=f"AdamW, learning rate {rate:g}, as long")
    panel.axhline(UNSEEN, color="#888888", lw=1)
    panel.set(yscale="log", xlabel="seconds of CPU", ylabel="mean error at times never seen")
    panel.set_title(f"Robertson to 100 s, {rows[0]['weights']} weights, a mark for each seed", fontsize=10)
    panel.legend()
    panel.grid(alpha=0.25)
    figure.savefig(path, dpi=120)


def main() -> None:
    torch.set_num_threads(1)
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    data = observations()
    rows: list[dict] = []
    for seed in range(seeds):
        rows.append(measured(seed, data.runs, data.unseen))
        bounds = bounds_of(rows)
        store(
            {
                "command": f"benchmarks/fits/large_network.py {len(rows)}",
                "machine": machine(),
                "rows": rows,
                "bounds": [bound.row() for bound in bounds],
            },
            draw,
            RESULTS,
            "fits_large_network",
        )
    print(*bounds, sep="\n")


if __name__ == "__main__":
    main()
