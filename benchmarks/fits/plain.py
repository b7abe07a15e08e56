"""Closures by a plain call: fit(Closure(known, conserve=…), runs), nothing else said.

Usage: plain.py [hydrogen|pollu …]. One thread is asked for by OMP_NUM_THREADS=1.

hydrogen  H2/air without H + HO2 <=> 2 OH: 4 runs of 150 times from 1 000 to 1 400 K; delays at 4 other
          temperatures against those of the whole mechanism, and the drift of its elements.
pollu     POLLU without k9 and k14: 12 runs of 20 times, starts spread by half, exact and with 1 % of the
          ranges as noise; mean errors at 4 other starts, worst species; the drift of N, S and C.

Each without hidden layers, where rates are powers, and with one.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

from problems.chemistry import ConstantPressureReactor, Mechanism
from stiffml.closures import Closure
from stiffml.experiments.closure import hydrogen, ignitions, pollu
from stiffml.training import fit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measuring import RESULTS, Bound, machine, store

NETWORKS = {"hydrogen": ((), (6,)), "pollu": ((), (8,))}
DELAY, ERROR, DRIFT, SECONDS = 2e-2, 1e-2, 1e-12, 600


def of_hydrogen(hidden: tuple[int, ...]) -> list[dict]:
    whole = ignitions.reactor_at(ignitions.mechanism())
    runs = ignitions.observed(whole, ignitions.FITTED)
    y0 = ignitions.fresh(whole.mechanism, ignitions.OTHERS)
    true = ignitions.delays(whole, y0)
    reactor = ConstantPressureReactor(Mechanism.from_yaml("h2o2.yaml").without(hydrogen.MISSING))

    began = time.process_time()
    model = fit(Closure(reactor, hidden, conserve=reactor.invariants), runs).model
    seconds = time.process_time() - began

    found = ignitions.delays(model, y0)
    drift = ignitions.element_drift(model, whole.mechanism, y0, [ignitions.LONG * one for one in true])
    error = np.nan_to_num(np.abs(found / true - 1), nan=np.inf)
    return [{"kind": "hydrogen", "hidden": hidden, "error": error.tolist(), "drift": drift, "cpu_s": seconds}]


def of_pollu(hidden: tuple[int, ...]) -> list[dict]:
    seen, unseen = (pollu.exact(pollu.starts(*of)) for of in ((12, 0), (4, 1)))
    rows = []
    for noise in (0.0, 0.01):
        runs = pollu.observed(seen, noise)

        began = time.process_time()
        model = fit(Closure(pollu.LACKING, hidden, conserve=pollu.POLLU.invariants), runs).model
        seconds = time.process_time() - began

        y = pollu.solved(model, unseen[:, 0])
        error = pollu.errors(y, unseen, pollu.ranges_of(seen))
        row = {"kind": f"pollu, noise {noise:g}", "hidden": hidden, "error": error.tolist()}
        rows.append({**row, "drift": pollu.drift(y), "cpu_s": seconds})
    return rows


def summary(rows: list[dict]) -> list[Bound]:
    found = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        what, limit = (
            ("delay at unseen temperatures", DELAY) if kind == "hydrogen" else ("unseen starts", ERROR)
        )
        found += [
            Bound(f"{kind}: largest error, {what}", max(max(row["error"]) for row in own), limit),
            Bound(f"{kind}: largest change of a conserved sum", max(row["drift"] for row in own), DRIFT),
            Bound(f"{kind}: most seconds of CPU of a fit", max(row["cpu_s"] for row in own), SECONDS),
        ]
    return found


def draw(result: dict, path: Path) -> None:
    """Errors of each fit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(result["rows"]):
        axes.plot(np.full(len(row["error"]), place), row["error"], "o", ms=4, color="#0b6e99", alpha=0.6)
        limit = DELAY if row["kind"] == "hydrogen" else ERROR
        axes.plot([place - 0.3, place + 0.3], [limit, limit], color="#888888", lw=2)
    names = [f"{row['kind']}\n{'network' if row['hidden'] else 'powers'}" for row in result["rows"]]
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set(yscale="log", title="errors at what was not fitted to: delays, species in ranges; grey: bounds")
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=130)


def main() -> None:
    torch.set_num_threads(1)
    rows: list[dict] = []
    for kind in sys.argv[1:] or NETWORKS:
        for hidden in NETWORKS[kind]:
            rows += {"hydrogen": of_hydrogen, "pollu": of_pollu}[kind](hidden)
            print({**rows[-1], "error": max(rows[-1]["error"])}, flush=True)
    bounds = summary(rows)
    command = " ".join(["benchmarks/fits/plain.py", *sys.argv[1:]])
    result = {"command": command, "machine": machine(), "rows": rows}
    store({**result, "bounds": [bound.row() for bound in bounds]}, draw, RESULTS, "fits_plain")
    for bound in bounds:
        print(bound)


if __name__ == "__main__":
    main()
