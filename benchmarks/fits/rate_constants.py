"""Rate constants from runs with times of their own, noise and gaps: errors, intervals, seconds.

Usage: rate_constants.py [CSV]. One thread is asked for by OMP_NUM_THREADS=1. Without a file (columns run,
t_s, conc_A, conc_B, conc_C) like data are made: 12 runs of Robertson-like kinetics with 18 to 39 times each,
15 % of the values missing. Nine runs are fitted to: intervals side by side, one after the other, and side
by side by a compiled function, whose seconds are those of a fit after the code has been made.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from stiffml import solve
from stiffml.training import Result, Runs, least_squares, read_csv
from stiffml.training.lm import residuals

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measuring import RESULTS, Bound, machine, store

TRUE = np.log([0.4, 1e2, 3e4])
BEGIN = np.log([0.1, 1e3, 1e4])
NOISE = {"conc_A": 0.01, "conc_B": 4e-5, "conc_C": 0.01}
RUNS, MISSING, END = 12, 0.15, 31.6


class Kinetics(torch.nn.Module):
    """A -> B at k1, B + C -> A + C at k2, 2 B -> B + C at k3."""

    def __init__(self, log_k: np.ndarray = BEGIN) -> None:
        super().__init__()
        self.log_k = torch.nn.Parameter(torch.tensor(log_k))

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        k, (a, b, c) = self.log_k.exp(), y.unbind(-1)
        r1, r2, r3 = k[0] * a, k[1] * b * c, k[2] * b * b
        return torch.stack([r2 - r1, r1 - r2 - r3, r3], dim=-1)


def make(path: Path, seed: int = 0) -> None:
    """Write runs like those measured in a laboratory."""
    rng = np.random.default_rng(seed)
    rows = ["run,t_s,conc_A,conc_B,conc_C"]
    for number in range(RUNS):
        t = np.concatenate([[0.0], np.sort(10 ** rng.uniform(-4, np.log10(END), rng.integers(17, 39)))])
        start = torch.tensor([rng.uniform(0.6, 1.4), 0.0, 0.0], dtype=torch.float64)
        with torch.no_grad():
            y = solve(Kinetics(TRUE), start, torch.from_numpy(t), rtol=1e-9, atol=1e-13).y.numpy()
        y = y + np.array(list(NOISE.values())) * rng.standard_normal(y.shape)
        gaps = rng.random(y.shape) < MISSING
        for at, values, without in zip(t, y, gaps, strict=True):
            cells = ["" if gap else f"{value:.6g}" for value, gap in zip(values, without, strict=True)]
            rows.append(",".join([f"exp{number:02d}", f"{at:.6g}", *cells]))
    path.write_text("\n".join(rows) + "\n")


def read(path: Path) -> tuple[Runs, Runs]:
    runs = read_csv(path, run="run", time="t_s", units="mol/L", time_units="s", noise=NOISE)
    return runs.with_initial({"conc_A": "learned", "conc_B": 0.0, "conc_C": 0.0}).split(fraction=0.75)


def fit(train: Runs, side_by_side: bool, compiled: bool = False) -> tuple[Result, float]:
    """The fit, and the seconds of CPU that it took."""
    began = time.process_time()
    if side_by_side:
        result = least_squares(Kinetics(), train, compile=compiled)
    else:
        with patch.object(residuals, "takes_batch", return_value=False):
            result = least_squares(Kinetics(), train)
    return result, time.process_time() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "runs.csv"
        if len(sys.argv) == 1:
            make(path)
        train, validate = read(path)
    result, seconds = fit(train, side_by_side=True)
    other, seconds_one_by_one = fit(train, side_by_side=False)
    for _ in range(2):  # the first makes the code
        compiled, seconds_compiled = fit(train, side_by_side=True, compiled=True)
    report = result.report(validate)
    intervals = result.covariance.intervals()
    found = {
        f"k{i + 1}": dict(
            true=float(np.exp(TRUE[i])),
            fitted=float(np.exp(v)),
            low=float(np.exp(intervals[f"log_k[{i}]"][0])),
            high=float(np.exp(intervals[f"log_k[{i}]"][1])),
        )
        for i, v in enumerate(result.model.log_k.tolist())
    }
    ways = (other, compiled)
    apart = max(float((result.model.log_k - way.model.log_k).detach().abs().max()) for way in ways)
    inside = sum(k["low"] <= k["true"] <= k["high"] for k in found.values())
    bounds = [
        Bound("mean error of runs not fitted to, in units of the noise", report.mean, 1.5),
        Bound("true constants inside their 95 % intervals", inside, 3, True),
        Bound("difference of log k between the three ways of solving", apart, 1e-4),
    ]
    print(report, *bounds, sep="\n")
    stored = {
        "data": "made" if len(sys.argv) == 1 else "read",
        "machine": machine(),
        "constants": found,
        "cpu_s": {"side by side": seconds, "one by one": seconds_one_by_one, "compiled": seconds_compiled},
        "iterations": result.history.sizes["iteration"],
        "bounds": [bound.row() for bound in bounds],
    }
    print(stored["cpu_s"])

    def draw(_: dict, path: Path) -> None:
        result.plot(validate).savefig(path, dpi=110)

    store(stored, draw, RESULTS, "fits_rate_constants")


if __name__ == "__main__":
    main()
