"""stiffml, diffrax, tinydiffeq and CVODE on small stiff systems: time by achieved error.

    python benchmarks/peers/small/compare.py [--functions compiled|eager] [--only NAME …] [--repeats 10]
        [--per-decade 4]

The systems are in systems.py: Robertson's reaction to 1e2 and 1e5 s, van der Pol's oscillator, HIRES, POLLU,
and hydrogen that ignites in air. `make bench-peers` installs what is needed first. Every side gets the same
numbers and the same tolerances (rtol, and atol = rtol times a threshold of each component), works in float64,
and runs in turns on the same core, each in a process of its own; their right-hand sides are compared first.
With compiled functions, stiffml's are so by compile=True, those of JAX ahead of time; CVODE calls a Python
function on numpy arrays. With eager ones stiffml calls a torch module, and so do CVODE and scipy's Radau and
BDF. Compiling is not timed but told; the first run of everything is dropped. In each turn a solver makes the
same run three times, as a training repeats it, and the third counts. Times are medians over the turns of CPU
time, which neighbours on the machine disturb less. "Gradient" is the loss together with its gradient by y0
and all constants.

Errors are those of reference.py, which solves with scipy's Radau: for forward runs the largest error at an
output, relative to the component's largest size; for gradients the largest error of an entry times its input,
relative to the largest such. Ratios are at equal achieved error: every solver runs at the cheapest of the
scanned tolerances at which its error is at most 1e-5. ``--per-decade`` says how many are scanned: for each of
them tinydiffeq's gradient is compiled anew, which takes 50 s and much memory for hydrogen.

Writes benchmarks/results/peers_small.json and .png, or peers_small_eager.json and .png.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[1:1] = [str(HERE.parent), str(HERE.parents[1])]

from measuring import RESULTS, machine, store  # noqa: E402
from picture import draw  # noqa: E402
from reference import Reference, reference_of  # noqa: E402
from systems import NAMES, System, save, system_of  # noqa: E402
from worker import Worker  # noqa: E402

PEERS = HERE.parents[2] / ".venv-peers/bin/python"
TARGET = 1e-5
KEPT = (1e-7, 1e-3)
"""Only runs with such errors are timed."""
LOOSEST, TIGHTEST = -2.5, -10.0
"""Decimal logarithms of the scanned tolerances."""
PER_DECADE = 4
KINDS = ("forward", "gradient")
OWN = Path(sys.executable)
SIDES = {
    "compiled": {"stiffml": OWN, "jax": PEERS, "sundials": PEERS},
    "eager": {"stiffml": OWN, "torch": OWN},
}
"""The sides of a comparison, and the interpreters that they run in."""
IN_A_ROW = 3
"""Runs of a solver in a turn, of which the last one counts."""
ROUNDING = 1e-9
"""The largest difference of right-hand sides at the start: sums that cancel there."""


@dataclass
class Case:
    """A solver at a tolerance, and what its runs gave, by kind of run."""

    side: str
    solver: str
    rtol: float
    errors: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def warm_up(self, worker: Worker, reference: Reference) -> None:
        """The first run of each kind, for its error; of the gradient only where the error is of interest."""
        for kind in KINDS:
            # Gradients may be far less accurate than states, so that runs with very accurate ones count too.
            if kind == "gradient" and not self.errors.get("forward", 0) <= KEPT[1]:
                return
            try:
                run = worker.ask(self.solver, self.rtol, kind == "gradient")
            except RuntimeError as error:
                self.failures[kind] = str(error)
                return
            if run.gradient is None:
                self.errors[kind] = reference.error(run.state)
            else:
                self.errors[kind] = reference.gradient_error(run.gradient["gradient"])
            self.counts |= {name: n for name, n in run.counts.items() if name not in self.counts}

    def measure(self, worker: Worker) -> None:
        """Each kind of run once, if it is worth it."""
        for kind, error in self.errors.items():
            if KEPT[0] <= error <= KEPT[1] or error <= KEPT[1] < 10 * error:
                for _ in range(IN_A_ROW):
                    run = worker.ask(self.solver, self.rtol, kind == "gradient")
                self.seconds.setdefault(kind, []).append(run.seconds)

    def row(self) -> dict:
        """For the JSON file."""
        return {
            "side": self.side,
            "solver": self.solver,
            "rtol": self.rtol,
            **{
                kind: {"ms": 1e3 * statistics.median(times), "error": self.errors[kind]}
                for kind, times in self.seconds.items()
            },
            **self.counts,
            "failures": self.failures,
        }


def tolerances(per_decade: int) -> list[float]:
    count = round((LOOSEST - TIGHTEST) * per_decade)
    return [10 ** (LOOSEST - k / per_decade) for k in range(count + 1)]


def compared(system: System, functions: str, repeats: int, per_decade: int) -> dict:
    """The rows of one system."""
    reference = reference_of(system)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "definition.npz"
        save(path, system, reference.scale, functions == "compiled")
        workers = {
            side: Worker(python, HERE / f"{side}_side.py", path, Path(folder))
            for side, python in SIDES[functions].items()
        }
        wanted = system.slopes(0.0, system.y0, system.p)
        for side, worker in workers.items():
            if not np.allclose(worker.about["rhs"], wanted, ROUNDING, 1e-15 * np.abs(wanted).max()):
                raise SystemExit(f"{side} has another right-hand side of {system.name}")
        cases = [
            Case(side, solver, rtol)
            for rtol in tolerances(per_decade)
            for side, worker in workers.items()
            for solver in worker.about["solvers"]
        ]
        for case in cases:
            case.warm_up(workers[case.side], reference)
        for turn in range(repeats):
            for case in cases:
                case.measure(workers[case.side])
            say(f"{system.name}: turn {turn + 1} of {repeats}")
        versions = {name: v for worker in workers.values() for name, v in worker.about["versions"].items()}
        for worker in workers.values():
            worker.close()
    rows = [case.row() for case in cases if case.seconds or case.failures]
    return {
        "title": system.title,
        "versions": versions,
        "reference_gradient_uncertain": reference.uncertain,
        "best": best(rows),
        "cases": rows,
    }


def best(rows: list[dict]) -> dict[str, dict[str, dict]]:
    """By kind and solver: the cheapest run with an error of at most ``TARGET``."""
    found: dict[str, dict[str, dict]] = {kind: {} for kind in KINDS}
    for kind, by_solver in found.items():
        for row in rows:
            if kind in row and row[kind]["error"] <= TARGET:
                before = by_solver.get(row["solver"])
                if before is None or row[kind]["ms"] < before["ms"]:
                    by_solver[row["solver"]] = {"side": row["side"], "rtol": row["rtol"], **row[kind]}
    return found


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def table(result: dict) -> str:
    """The times at the target, with the ratio of the best of stiffml to the best peer."""
    lines = [f"ms at an error of {TARGET:g} or less; ratio: stiffml's best to the best peer"]
    for system in result["systems"].values():
        for kind, by_solver in system["best"].items():
            ours = [(row["ms"], solver) for solver, row in by_solver.items() if row["side"] == "stiffml"]
            theirs = [(row["ms"], solver) for solver, row in by_solver.items() if row["side"] != "stiffml"]
            if ours and theirs:
                ratio = min(ours)[0] / min(theirs)[0]
                told = ", ".join(f"{solver} {ms:.2f}" for ms, solver in sorted(ours)[:2] + sorted(theirs))
                lines.append(f"{system['title']}, {kind}: {ratio:.2f} ({told})")
    return "\n".join(lines)


def main(functions: str, only: list[str], repeats: int, per_decade: int, folder: Path) -> None:
    command = shlex.join(["python", "benchmarks/peers/small/compare.py", *sys.argv[1:]])
    stored = "peers_small" if functions == "compiled" else "peers_small_eager"
    path, systems = folder / f"{stored}.json", {}
    if only and path.exists():  # the others stay as they were measured
        systems = json.loads(path.read_text())["systems"]
    result = {
        "command": command,  # the last one; each system has its own
        "machine": {**machine(), "one of": os.cpu_count()},
        "functions": functions,
        "target": TARGET,
        "systems": systems,
    }
    for name in only or NAMES:
        found = compared(system_of(name), functions, repeats, per_decade)
        systems[name] = {"command": command, "repeats": repeats, **found}
        store(result, draw, folder, stored)
    print(table(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=[], choices=NAMES)
    parser.add_argument("--functions", default="compiled", choices=SIDES)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--per-decade", type=int, default=PER_DECADE)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    main(asked.functions, asked.only, asked.repeats, asked.per_decade, asked.out)
