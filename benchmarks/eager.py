"""Small stiff systems whose function is not compiled, against scipy's Radau and BDF, and CVODE.

    python benchmarks/eager.py [--repeats 5] [--only NAME …]

Robertson's reaction to 1e5 s, van der Pol's oscillator (μ² = 1e6), HIRES, POLLU and the ignition of hydrogen
with air, forward. Every solver calls the same function in torch: stiffml as it is, the others through arrays
of numpy. CVODE, by scikit-SUNDAE, takes part where it can be imported. A solver runs at the cheapest of the
scanned tolerances at which its error is at most 1e-5: the largest at an output, relative to the range of the
component. Times are medians of CPU time on one thread, the solvers taking turns; the first run is dropped.
The reference is scipy's Radau at rtol 1e-10. A ratio is stiffml's time by that of the fastest other solver.

Writes benchmarks/results/eager.json and eager.png.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measuring import RESULTS, machine, store
from scipy.integrate import solve_ivp
from torch import Tensor

import problems
from problems.problem import Problem
from stiffml import solve

try:
    from sksundae.cvode import CVODE
except ImportError:
    CVODE = None

TARGET = 1e-5
TOLERANCES = [10 ** (-k / 2) for k in range(6, 19)]
OURS = ("bdf", "rosw-rodaspr2")
ENDS = {"robertson": 1e5, "vanderpol": 2.0, "hires": 321.8122, "pollu": 60.0, "h2air": None}
OUTPUTS = 20

Solver = Callable[[float], tuple[np.ndarray, int]]
"""From rtol to the states (outputs, n) and the evaluations of f; raises RuntimeError if it fails."""


@dataclass(frozen=True)
class System:
    """A problem at its outputs, with absolute tolerances of ``threshold`` times rtol."""

    problem: Problem
    func: Callable[[Tensor, Tensor], Tensor]
    y0: Tensor
    t: Tensor
    threshold: np.ndarray

    @classmethod
    def of(cls, name: str) -> System:
        problem = problems.load(name)
        begin, end = problem.t_span[0], ENDS[name] or problem.t_span[1]
        t = torch.linspace(begin, end, OUTPUTS + 1, dtype=torch.float64)
        if name == "robertson":
            t = torch.cat([t[:1], torch.logspace(-5, 5, OUTPUTS, dtype=torch.float64)])
        atol = torch.as_tensor(problem.atol(1.0), dtype=torch.float64)
        y0 = problem.initial_state()
        return cls(problem, problem.func(), y0, t, atol.expand(y0.shape).numpy())

    def called(self, t: float, y: np.ndarray) -> np.ndarray:
        """The function, for those that call with arrays."""
        with torch.no_grad():
            return self.func(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y)).numpy()

    def ours(self, method: str) -> Solver:
        def run(rtol: float) -> tuple[np.ndarray, int]:
            with torch.no_grad():
                atol = torch.from_numpy(rtol * self.threshold)
                solution = solve(self.func, self.y0, self.t, method=method, rtol=rtol, atol=atol)
            return solution.y.numpy(), solution.stats.rhs_evals

        return run

    def scipys(self, method: str) -> Solver:
        def run(rtol: float) -> tuple[np.ndarray, int]:
            found = solve_ivp(
                self.called,
                (float(self.t[0]), float(self.t[-1])),
                self.y0.numpy(),
                method=method,
                t_eval=self.t.numpy(),
                rtol=rtol,
                atol=rtol * self.threshold,
            )
            if not found.success:
                raise RuntimeError(found.message)
            return found.y.T, found.nfev

        return run

    def cvodes(self) -> Solver:
        def rhs(t: float, y: np.ndarray, into: np.ndarray) -> None:
            into[:] = self.called(t, np.array(y))

        def run(rtol: float) -> tuple[np.ndarray, int]:
            settings = {"rtol": rtol, "atol": rtol * self.threshold, "max_num_steps": 100_000}
            found = CVODE(rhs, method="BDF", **settings).solve(self.t.numpy(), self.y0.numpy())
            if not found.success:
                raise RuntimeError(str(found.message))
            return np.asarray(found.y), int(found.nfev)

        return run

    def solvers(self) -> dict[str, Solver]:
        """By name; stiffml's first."""
        found = {f"stiffml {method}": self.ours(method) for method in OURS}
        found |= {f"scipy {method}": self.scipys(method) for method in ("Radau", "BDF")}
        return found if CVODE is None else found | {"CVODE": self.cvodes()}


def compared(name: str, repeats: int) -> list[dict]:
    """A row for each solver, at the cheapest tolerance with an error of at most ``TARGET``."""
    system = System.of(name)
    reference, _ = system.scipys("Radau")(1e-10)
    span = np.ptp(reference, axis=0)
    scale = np.where(span > 0, span, 1.0)
    chosen: dict[str, tuple[Solver, float, float, int]] = {}
    for solver, run in system.solvers().items():
        for rtol in TOLERANCES:
            try:
                states, evaluations = run(rtol)
            except RuntimeError:
                continue
            error = float((np.abs(states - reference) / scale).max())
            if error <= TARGET:
                chosen[solver] = run, rtol, error, evaluations
                break
    seconds: dict[str, list[float]] = {solver: [] for solver in chosen}
    for _ in range(repeats):
        for solver, (run, rtol, *_) in chosen.items():
            began = time.process_time()
            run(rtol)
            seconds[solver].append(time.process_time() - began)
    return [
        {
            "system": name,
            "solver": solver,
            "rtol": rtol,
            "error": error,
            "f": evaluations,
            "ms": 1e3 * statistics.median(seconds[solver]),
        }
        for solver, (_, rtol, error, evaluations) in chosen.items()
    ]


def ratios(rows: list[dict]) -> dict[str, dict[str, float]]:
    """By system: the time of each of stiffml's methods by that of the fastest other solver."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(row["system"] for row in rows):
        times = {row["solver"]: row["ms"] for row in rows if row["system"] == name}
        others = [ms for solver, ms in times.items() if not solver.startswith("stiffml")]
        if others:
            own = {solver: ms for solver, ms in times.items() if solver.startswith("stiffml")}
            found[name] = {solver: ms / min(others) for solver, ms in own.items()}
    return found


def draw(result: dict, path: Path) -> None:
    """Times by system, a bar for each solver."""
    from matplotlib.figure import Figure

    rows = result["cases"]
    names, solvers = (list(dict.fromkeys(row[key] for row in rows)) for key in ("system", "solver"))
    axes = Figure(figsize=(8, 3.6), layout="constrained").add_subplot()
    for i, solver in enumerate(solvers):
        times = {row["system"]: row["ms"] for row in rows if row["solver"] == solver}
        where = [names.index(name) + (i - (len(solvers) - 1) / 2) * 0.8 / len(solvers) for name in times]
        axes.bar(where, list(times.values()), width=0.75 / len(solvers), label=solver)
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(f"CPU time at an error of {TARGET:g} [ms]")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(solvers), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.figure.savefig(path, dpi=150)


def main(only: list[str], repeats: int, folder: Path) -> None:
    torch.set_num_threads(1)
    rows: list[dict] = []
    for name in only or ENDS:
        found = compared(name, repeats)
        print("\n".join(f"{row['system']:10} {row['solver']:22} {row['ms']:8.1f} ms" for row in found))
        rows += found
    result = {
        "command": shlex.join(["python", "benchmarks/eager.py", *sys.argv[1:]]),
        "machine": machine(),
        "load": os.getloadavg()[0],
        "repeats": repeats,
        "target": TARGET,
        "cases": rows,
        "ratios": ratios(rows),
    }
    store(result, draw, folder, "eager")
    for name, by_method in result["ratios"].items():
        print(name, ", ".join(f"{solver}: {ratio:.2f}" for solver, ratio in by_method.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=[], choices=list(ENDS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    main(asked.only, asked.repeats, asked.out)
