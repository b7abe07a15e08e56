"""stiffml and diffrax on ensembles of Robertson's reaction, each sample with rates of its own.

    python benchmarks/peers/small/ensembles.py [--samples 10 100 1000] [--repeats 5]

diffrax runs under vmap; stiffml runs each sample by itself in C, on one thread. Both run on the same core,
in turns, functions compiled and compiling not timed. Every solver runs at the cheapest of the scanned
tolerances at which the largest error of any of 10 samples at any output, relative to the component's
largest size, is at most 1e-5, by scipy's Radau at rtol = 1e-11. Gradients are by y0 and the rates of all
samples, and are compared with each other. Times are medians.

Writes benchmarks/results/peers_ensembles.json and peers_ensembles.png.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[1:1] = [str(HERE.parent), str(HERE.parents[1])]

from ensemble_systems import SPANS, START, THRESHOLD, Ensemble, ensemble  # noqa: E402
from measuring import RESULTS, machine, store  # noqa: E402
from worker import Worker  # noqa: E402

PEERS = HERE.parents[2] / ".venv-peers/bin/python"
TARGET = 1e-5
TOLERANCES = [10 ** (-k / 4) for k in range(12, 37)]


def start(given: Ensemble, folder: Path) -> dict[str, Worker]:
    path = folder / "definition.npz"
    given.save(path)
    pythons = {"stiffml": Path(sys.executable), "jax": PEERS}
    return {
        side: Worker(python, HERE / f"ensemble_{side}_side.py", path, folder)
        for side, python in pythons.items()
    }


def reference(given: Ensemble) -> np.ndarray:
    """(samples, outputs, 3)"""
    from scipy.integrate import solve_ivp

    def solved(log_rates: np.ndarray) -> np.ndarray:
        k = np.exp(log_rates).tolist()

        def rhs(t: float, y: np.ndarray) -> list[float]:
            first, second, third = k[0] * y[0], k[1] * y[1] * y[2], k[2] * y[1] * y[1]
            return [second - first, first - second - third, third]

        span = given.t[0], given.t[-1]
        solution = solve_ivp(
            rhs, span, START, method="Radau", t_eval=given.t, rtol=1e-11, atol=1e-11 * THRESHOLD
        )
        return solution.y.T

    return np.stack([solved(log_rates) for log_rates in given.log_rates])


def tolerances(span: str) -> dict[tuple[str, str], float]:
    """For each side and solver the largest tolerance at which the error is small enough."""
    given = ensemble(10, span)
    wanted = reference(given)
    scale = np.abs(wanted).max(axis=(0, 1))
    found: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for side, worker in start(given, Path(folder)).items():
            for solver in worker.about["solvers"]:
                for rtol in TOLERANCES:
                    states = worker.ask(solver, rtol, False).state
                    if np.max(np.abs(states - wanted) / scale) <= TARGET:
                        found[side, solver] = rtol
                        break
            worker.close()
    return found


def compared(span: str, samples: int, chosen: dict[tuple[str, str], float], repeats: int) -> list[dict]:
    """The rows of one ensemble."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        workers = start(ensemble(samples, span), Path(folder))
        gradients: dict[str, np.ndarray] = {}
        times: dict[tuple[str, str, bool], list[float]] = {}
        for turn in range(repeats + 1):
            for (side, solver), rtol in chosen.items():
                for gradient in (False, True):
                    run = workers[side].ask(solver, rtol, gradient)
                    if turn:
                        times.setdefault((side, solver, gradient), []).append(run.seconds)
                    if run.gradient is not None:
                        gradients[solver] = run.gradient["gradient"]
        for worker in workers.values():
            worker.close()
    first = next(iter(gradients.values()))
    for (side, solver), rtol in chosen.items():
        off = np.abs(gradients[solver] - first)[:, 3:].max() / np.abs(first[:, 3:]).max()
        rows.append(
            {
                "span": span,
                "samples": samples,
                "side": side,
                "solver": solver,
                "rtol": rtol,
                "forward_ms": 1e3 * statistics.median(times[side, solver, False]),
                "gradient_ms": 1e3 * statistics.median(times[side, solver, True]),
                "gradient_off_by": float(off),
            }
        )
        print(rows[-1], flush=True)
    return rows


def ratios(rows: list[dict]) -> list[dict]:
    """stiffml's best to diffrax's best; below 1 stiffml is faster."""
    found = []
    for span, samples in dict.fromkeys((row["span"], row["samples"]) for row in rows):
        own = [row for row in rows if (row["span"], row["samples"]) == (span, samples)]
        for kind in ("forward_ms", "gradient_ms"):
            best = {
                side: min(row[kind] for row in own if (row["side"] == "stiffml") == (side == "stiffml"))
                for side in ("stiffml", "diffrax")
            }
            ratio = best["stiffml"] / best["diffrax"]
            found.append({"span": span, "samples": samples, "kind": kind, "ratio": ratio, **best})
    return found


def draw(result: dict, path: Path) -> None:
    """Times by the number of samples, forward and with the gradient."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(SPANS), 7), layout="constrained")
    axes = figure.subplots(2, len(SPANS), sharex=True, squeeze=False)
    for column, span in enumerate(SPANS):
        rows = [row for row in result["cases"] if row["span"] == span]
        for axis, kind in zip(axes[:, column], ("forward_ms", "gradient_ms"), strict=True):
            for number, solver in enumerate(dict.fromkeys(row["solver"] for row in rows)):
                own = [row for row in rows if row["solver"] == solver]
                ours = own[0]["side"] == "stiffml"
                axis.loglog(
                    [row["samples"] for row in own],
                    [row[kind] for row in own],
                    "-" if ours else "--",
                    marker="osv^D<>"[number],
                    ms=5,
                    label=f"stiffml {solver}" if ours else solver,
                )
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0, column].set_title(f"to {span} s")
        axes[1, column].set_xlabel("samples")
    axes[0, 0].set_ylabel("forward, ms")
    axes[1, 0].set_ylabel("loss and gradient, ms")
    axes[0, 0].legend(fontsize=8)
    figure.suptitle("Ensembles of Robertson's reaction at errors of 1e-5, one core")
    figure.savefig(path, dpi=120)


def main(counts: list[int], repeats: int, folder: Path) -> None:
    rows: list[dict] = []
    for span in SPANS:
        chosen = tolerances(span)
        for samples in counts:
            rows += compared(span, samples, chosen, repeats)
            result = {
                "command": shlex.join(["python", "benchmarks/peers/small/ensembles.py", *sys.argv[1:]]),
                "machine": machine(),
                "target": TARGET,
                "ratios": ratios(rows),
                "cases": rows,
            }
            store(result, draw, folder, "peers_ensembles")
    for row in ratios(rows):
        print(row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", nargs="*", type=int, default=[10, 100, 1000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    main(asked.samples, asked.repeats, asked.out)
