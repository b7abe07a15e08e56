"""stiffml and diffrax on a two-dimensional Brusselator with a neural closure: time by achieved error.

    python benchmarks/peers/brusselator.py [--size 24] [--repeats 3] [--only NAME …]

The problem is in definition.py; `make bench-peers` installs what is needed first. Both sides get the same
numbers and the same rtol = atol (u and v are of order 1), work in float64, and run in turns on the same core,
each in a process of its own; their right-hand sides are compared first. Compiling is not timed, and the first
run of everything is dropped. Times are medians of ``--repeats`` further runs; what takes over 10 s runs once.
"Gradient" is the loss together with its gradient by all weights and y0; "forward" is the loss alone.

Errors are ‖y − y_ref‖/‖y_ref‖: for forward runs of the final state, against scipy's DOP853 at rtol 1e-12; for
gradients of the gradient, against that of an explicit method at rtol 1e-10. (The two are not the same: an
explicit method at the limit of its stability may have the state right and the gradient wrong by any factor.)
Ratios are at equal achieved error, not at equal tolerance: each of diffrax's solvers, and stiffml with any of
its own, run at the cheapest tolerance that makes them at least as accurate as Kvaerno5 with Newton's method
is at rtol 1e-5.

Writes benchmarks/results/peers_brusselator.json and peers_brusselator.png; other grids than 24² append their
size to the names.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from comparison import KINDS, draw, ratios, target_of
from definition import Definition, brusselator
from worker import Worker

HERE = Path(__file__).resolve().parent
PEERS = HERE.parents[1] / ".venv-peers/bin/python"
RESULTS = HERE.parent / "results"
SIZE = 24
SCANNED = {"stiffml": [10 ** (-k / 2) for k in range(7, 17)], "diffrax": [1e-3, 1e-4, 1e-5, 1e-6, 1e-7]}
SCANNED_SLOW = {"kvaerno5": [1e-3, 1e-5]}
"""Solvers with tolerances of their own, as every run takes minutes."""
REFERENCE = ("tsit5", 1e-10)
"""Solver and tolerance, of diffrax, for the reference gradient."""
SLOW_S = 10.0


@dataclass(frozen=True)
class Reference:
    """The final state and the gradient, both flat."""

    state: np.ndarray
    gradient: np.ndarray


@dataclass
class Case:
    """A solver at a tolerance, and what its runs gave, by kind of run."""

    side: str
    solver: str
    rtol: float
    seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    errors: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def measure(self, worker: Worker, reference: Reference, turn: int) -> None:
        """Both kinds of run once; ``turn`` 0 is the warm-up."""
        for kind, times in self.seconds.items():
            if kind in self.failures or (times and times[0] > SLOW_S):
                continue
            try:
                run = worker.ask(self.solver, self.rtol, kind == "gradient")
            except RuntimeError as error:
                self.failures[kind] = str(error)
                continue
            if turn > 0 or run.seconds > SLOW_S:
                times.append(run.seconds)
            found = run.state.ravel() if run.gradient is None else flat(run.gradient)
            self.errors[kind] = distance(found, reference.state if kind == "forward" else reference.gradient)
            self.counts = run.counts

    def row(self) -> dict:
        """For the JSON file."""
        return {
            "side": self.side,
            "solver": self.solver,
            "rtol": self.rtol,
            **{
                kind: {"s": statistics.median(times), "error": self.errors[kind], "repeats": len(times)}
                for kind, times in self.seconds.items()
                if times
            },
            **self.counts,
            "failures": self.failures,
        }


def flat(gradient: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([gradient[name].ravel() for name in sorted(gradient)])


def distance(y: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(y - reference) / np.linalg.norm(reference))


def reference_of(definition: Definition, worker: Worker) -> Reference:
    """The state by a third code; explicit methods, which at this accuracy cost little."""
    from scipy.integrate import solve_ivp

    shape = definition.y0.shape
    solution = solve_ivp(
        lambda t, y: definition.rhs(y.reshape(shape)).ravel(),
        (0, definition.t_end),
        definition.y0.ravel(),
        method="DOP853",
        rtol=1e-12,
        atol=1e-12,
    )
    run = worker.ask(*REFERENCE, gradient=True)
    state = solution.y[:, -1]
    if not solution.success or distance(run.state.ravel(), state) > 1e-9 or run.gradient is None:
        raise SystemExit(f"the references differ by {distance(run.state.ravel(), state):.1e}")
    return Reference(state, flat(run.gradient))


def start(definition: Definition, path: Path) -> dict[str, Worker]:
    """Both sides, whose right-hand sides are the same."""
    definition.save(path)
    pythons = {"stiffml": Path(sys.executable), "diffrax": PEERS}
    workers = {
        side: Worker(python, HERE / f"{side}_side.py", path, path.parent) for side, python in pythons.items()
    }
    expected = definition.rhs(definition.y0).ravel()
    for side, worker in workers.items():
        np.testing.assert_allclose(worker.about["rhs"], expected, rtol=1e-11, atol=1e-11, err_msg=side)
    return workers


def cases_of(workers: dict[str, Worker], only: Iterable[str]) -> list[Case]:
    """All cases, the two sides alternating."""
    columns = []
    for side, worker in workers.items():
        solvers = [name for name in worker.about["solvers"] if not only or name in only]
        pairs = itertools.product(SCANNED[side], solvers)
        columns.append([Case(side, s, rtol) for rtol, s in pairs if rtol in SCANNED_SLOW.get(s, [rtol])])
    return [case for pair in itertools.zip_longest(*columns) for case in pair if case is not None]


def run(size: int, repeats: int, only: Iterable[str] = ()) -> Iterator[dict]:
    """What is to be written to the JSON file, after every turn through all cases."""
    definition = brusselator(size)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        workers = start(definition, Path(folder) / "definition.npz")
        cases = cases_of(workers, only)
        say("reference solution")
        reference = reference_of(definition, workers["diffrax"])
        for turn in range(repeats + 1):
            for number, case in enumerate(cases, 1):
                case.measure(workers[case.side], reference, turn)
                if turn == 0:
                    told = [f"{kind} error {error:.1e}" for kind, error in case.errors.items()]
                    told += [f"{kind} failed: {words}" for kind, words in case.failures.items()]
                    name = f"{case.side} {case.solver} {case.rtol:.0e}"
                    say(f"warm-up {number}/{len(cases)} {name}: {', '.join(told)}")
            if turn > 0:
                say(f"turn {turn}/{repeats}")
                yield record(definition, workers, cases)
        for worker in workers.values():
            worker.close()


def record(definition: Definition, workers: dict[str, Worker], cases: list[Case]) -> dict:
    rows = [case.row() for case in cases]
    return {
        "command": shlex.join(["python", "benchmarks/peers/brusselator.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, one of {os.cpu_count()} cores, {' '.join(platform.libc_ver())}",
        "versions": {name: v for w in workers.values() for name, v in w.about["versions"].items()},
        "unknowns": definition.y0.size,
        "t_end": definition.t_end,
        "parameters": sum(w.size for w in definition.weights.values()),
        "target_errors": {kind: target_of(rows, kind) for kind in KINDS},
        "ratios": ratios(rows),
        "cases": rows,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=SIZE, help="points along an axis")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], help="names of solvers; default: all")
    asked = parser.parse_args()
    if not PEERS.exists():
        sys.exit("no .venv-peers yet: run `make bench-peers`")
    RESULTS.mkdir(exist_ok=True)
    stem = "peers_brusselator" + (f"_{asked.size}" if asked.size != SIZE else "")
    for found in run(asked.size, asked.repeats, asked.only):
        (RESULTS / f"{stem}.json").write_text(json.dumps(found, indent=1) + "\n")
        draw(found, RESULTS / f"{stem}.png")
