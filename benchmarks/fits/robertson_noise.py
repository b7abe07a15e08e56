"""Fits of Robertson's problem from noisy observations: how far from the noise-free truth, from many seeds.

Usage: robertson_noise.py [SEEDS]. One thread is asked for by OMP_NUM_THREADS=1.

PNODE's set-up (arXiv 2206.01298), to 100 s with 40 log-spaced observations of species scaled to [0, 1], the
first included. All have noise of 0.01, drawn anew for each seed, of which the weights' start is drawn too. A
network of 6→5×6→6 (of PNODE's size, with biases) says production and loss from y and asinh(y / noise).
States and parameters together, one step of sdirk3 between observations, restarts until the model solved again
misses the observations by no more than the noise. A prior of weight 1 in units of the noise decides between a
fit of the truth and one of the noise: with 0.1, in the one seed that was compared with rates beginning at 1,
the mean residual was 0.52 of the noise and the error 1.3e-2.

Errors are mean absolute ones in units of the scaled species, against the noise-free solution at 198 times
that nothing was fitted to. The model is solved again with BDF, rtol 1e-7, from the initial values that were
fitted.
``covered``: of these times and species, the share whose truth lies in the interval of 95 %.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.experiments.robertson import observations
from stiffml.training import FullSpace, LevenbergMarquardt, Result, Run, Runs, TrainingError, fit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fits.robertson import COMPONENTS
from measuring import RESULTS, Bound, machine, store

NOISE, TRUTH, SHARE = 0.01, 1e-2, 0.9
NAME = "fits_robertson_noise"


def layers(seed: int) -> nn.Sequential:
    """6 numbers to 6, through six layers of 5."""
    generator = torch.Generator().manual_seed(seed)
    found: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise([6, *[5] * 6, 6]):
        layer = nn.Linear(inputs, outputs, dtype=torch.float64)
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
        found += [layer, nn.GELU()]
    return nn.Sequential(*found[:-1])


class ProductionLoss(nn.Module):
    """dy/dt = exp(p) − exp(l) y, with p, l from a network of y and asinh(y / noise).

    What is below the noise is not told apart, as a logarithm of y would. Exponents are bounded by 12, and
    rates begin at e³: so fast that the states of slow steps begin in balance.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.layers = layers(seed)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        exponents = self.layers(torch.cat([y, torch.asinh(y / NOISE) / 3], dim=-1))
        production, loss = (12 * torch.tanh(exponents / 4) + 3).exp().chunk(2, dim=-1)
        return production - loss * y


def noisy(seed: int) -> Runs:
    data = observations()
    clean = data.scaled.numpy()
    values = clean + NOISE * np.random.default_rng(1000 + seed).standard_normal(clean.shape)
    run = Run("robertson", data.times.numpy(), values)
    return Runs([run], COMPONENTS, time_units="s", noise=NOISE, initial="measured")


def fitted(seed: int) -> Result:
    return fit(
        ProductionLoss,
        noisy(seed),
        method="sdirk3",
        strategy=FullSpace(last=60, last_tolerance=1e-3),
        levenberg_marquardt=LevenbergMarquardt(ridge=1.0),
        judged=0.9,  # the mean of |noise| is 0.8, and a fit takes some of it
        attempts=8,
        seed=seed,
    )


def measured(seed: int, truth: Run) -> dict:
    """One seed's row."""
    began = time.process_time(), time.perf_counter()
    try:
        result = fitted(seed)
    except TrainingError as error:
        row = {"seed": seed, "misfit": None, "unseen": None, "covered": None, "outcome": str(error)}
        result = None
    else:
        row = {
            "seed": seed,
            "misfit": result.error,
            "attempts": len(result.attempts),
            "iterations": result.history.sizes["iteration"],
            "failures": len(result.failures),
            "outcome": result.outcome,
        }
    row |= {"cpu_s": time.process_time() - began[0], "wall_s": time.perf_counter() - began[1]}
    if result is not None:
        found = np.full(truth.values.shape, np.inf)
        try:
            band = result.band("robertson", truth.times)
            found[: len(band.y)] = band.y
            row["unseen"] = float(np.abs(found - truth.values)[1:].mean())
            inside = (band.low <= truth.values) & (truth.values <= band.high)
            row["covered"] = float(inside[1:].mean())
            row["error"] = float(band.errors[1:].mean())
        except Exception as error:  # a solution that ends early
            row |= {"unseen": None, "covered": None, "outcome": str(error)}
    print(row, flush=True)
    return row


def summary(rows: list[dict]) -> list[Bound]:
    unseen = np.array([np.inf if row["unseen"] is None else row["unseen"] for row in rows])
    covered = [0.0 if row["covered"] is None else row["covered"] for row in rows]
    seconds = np.array([row["cpu_s"] for row in rows])
    return [
        Bound(
            f"share of seeds with error against the truth up to {TRUTH:g}",
            float((unseen <= TRUTH).mean()),
            SHARE,
            True,
        ),
        Bound("mean share of the truth within intervals of 95 %", float(np.mean(covered)), 0.9, True),
        Bound("median seconds of CPU a seed", float(np.median(seconds)), 30),
    ]


def draw(result: dict, path: Path) -> None:
    """Errors over seeds, coverage, and seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    rows = result["rows"]
    seeds = [row["seed"] for row in rows]
    left.plot(seeds, [np.nan if row["unseen"] is None else row["unseen"] for row in rows], "o", ms=4)
    left.axhline(NOISE, color="#888888", lw=1, ls="--")
    left.text(0, NOISE, " noise of the data", va="bottom", fontsize=8, color="#555555")
    left.set(yscale="log", xlabel="seed", title="mean error against the truth, scaled")
    middle.plot(seeds, [np.nan if row["covered"] is None else row["covered"] for row in rows], "o", ms=4)
    middle.axhline(0.95, color="#888888", lw=1, ls="--")
    middle.set(ylim=(0, 1.03), xlabel="seed", title="truth within intervals of 95 %")
    right.bar(seeds, [row["cpu_s"] for row in rows], color="#888888")
    right.set(xlabel="seed", title="seconds of CPU, restarts included")
    for panel in (left, middle, right):
        panel.grid(alpha=0.25)
    figure.savefig(path, dpi=130)


def main() -> None:
    torch.set_num_threads(1)
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
    truth = observations().unseen[0]
    rows: list[dict] = []
    for seed in seeds:
        rows.append(measured(seed, truth))
        bounds = summary(rows)
        command = " ".join(["benchmarks/fits/robertson_noise.py", *sys.argv[1:]])
        result = {"command": command, "noise": NOISE, "machine": machine(), "rows": rows}
        store({**result, "bounds": [bound.row() for bound in bounds]}, draw, RESULTS, NAME)
    for bound in bounds:
        print(bound)


if __name__ == "__main__":
    main()
