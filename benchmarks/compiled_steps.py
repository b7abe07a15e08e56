"""What is left between a solve and bare PETSc when nothing in a step is Python.

    python benchmarks/compiled_steps.py [--repeats 15]

Robertson's reaction to t = 100, 40 outputs, rtol = 1e-6, six ways: func in torch, with steps taken one by
one from Python, or by PETSc in C, which calls func; compiled, likewise, or by the rows of the method in C,
without PETSc; and ``bare_steps.c``, PETSc's own loop with the reaction written in C. The smallest of the
repeats counts, in CPU time, all in one process on one thread, taken in turn.

stiffml limits how fast the steps of BDF grow, for the sake of gradients, so it takes more of them than bare
PETSc; times are compared by step. ``steps_ms`` is the time of a run: the set-up of PETSc, the steps, and what
is kept of them. Besides, a solve checks its arguments, looks for parameters, tries func in torch at the start
and the end, and makes tensors of the results.

Writes benchmarks/results/compiled_steps.json and compiled_steps.png.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from measuring import RESULTS, Bound, machine, store
from torch import Tensor, nn

from stiffml import Solution, solve
from stiffml.compiled.cache import library_of
from stiffml.interface import steppers
from stiffml.native.compiled_run import alone
from stiffml.petsc.compiled_run.library import compiler_flags
from stiffml.petsc.compiled_run.qualifying import obstacle
from stiffml.petsc.library import PETSc
from stiffml.run import forward as run_forward

rows_obstacle = alone.obstacle

METHODS: dict[str, dict[str, str]] = {
    "bdf5": {
        **{"ts_type": "bdf", "ts_bdf_order": "5", "snes_linesearch_type": "basic"},
        **{"snes_rtol": "1e-8", "snes_atol": "1e-13", "snes_stol": "1e-8"},
    },
    "rosw-rodaspr2": {"ts_type": "rosw", "ts_rosw_type": "rodaspr2"},
}
"""The options of bare PETSc for each."""

WAYS = ("torch", "torch, PETSc in C", "compiled", "compiled, PETSc in C", "compiled, rows in C")
RTOL, ATOL = 1e-6, (1e-9, 1e-13, 1e-9)
MOST = 1.5
"""Times bare PETSc's time a step."""


class Robertson(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b, c = self.k[0] * y[..., 0], self.k[1] * y[..., 1] ** 2, self.k[2] * y[..., 1] * y[..., 2]
        return torch.stack([c - a, a - c - b, b], dim=-1)


def bare() -> Callable[[str], tuple[float, int, float]]:
    """Of a method: seconds, steps, and the last component at the end, by PETSc alone."""
    text = (Path(__file__).parent / "bare_steps.c").read_text()
    function = ctypes.PyDLL(str(library_of(text, compiler_flags()))).bare_solve
    pointer = ctypes.POINTER(ctypes.c_double)
    function.argtypes = [ctypes.c_char_p, ctypes.c_int, pointer, ctypes.c_double, pointer, pointer]
    times = (ctypes.c_double * 41)(*output_times().tolist())
    atol, end = (ctypes.c_double * 3)(*ATOL), (ctypes.c_double * 3)()
    for method, values in METHODS.items():
        options = PETSc.Options(f"bare_{method}_")
        for name, value in values.items():
            options.setValue(name, value)

    def run(method: str) -> tuple[float, int, float]:
        began = time.process_time()
        steps = function(f"bare_{method}_".encode(), 41, times, RTOL, atol, end)
        return time.process_time() - began, steps, end[2]

    return run


def output_times() -> Tensor:
    later = torch.from_numpy(10.0 ** np.linspace(-5, 2, 40))
    return torch.cat([torch.zeros(1, dtype=torch.float64), later])


def measure(repeats: int) -> list[dict]:
    """A row for each method and way."""
    func, petsc = Robertson(), bare()
    y0, t = torch.tensor([1.0, 0, 0], dtype=torch.float64), output_times()
    atol = torch.tensor(ATOL, dtype=torch.float64)
    in_run: list[float] = []
    drive = run_forward._driven

    def timed(*arguments):
        began = time.process_time()
        found = drive(*arguments)
        in_run.append(time.process_time() - began)
        return found

    def told_so(request) -> str:
        return "to be taken in another way"

    def solved(method: str, way: str) -> tuple[Solution, float, float, float]:
        by_petsc = obstacle if way.endswith("in C") else told_so
        by_rows = rows_obstacle if way.endswith("rows in C") else told_so
        began = time.process_time()
        with (
            patch.object(run_forward, "_driven", timed),
            patch.object(steppers, "obstacle", by_petsc),
            patch.object(alone, "obstacle", by_rows),
        ):
            compiled = not way.startswith("torch")
            solution = solve(func, y0, t, method=method, rtol=RTOL, atol=atol, compile=compiled)
        middle = time.process_time()
        solution.y[-1, 2].backward()
        backward = time.process_time() - middle
        return solution, middle - began, backward, in_run[-1]

    rows = []
    for method in METHODS:
        runs: dict[str, list[tuple[Solution, float, float, float]]] = {way: [] for way in WAYS}
        bares = []
        for _ in range(repeats + 1):  # the first compiles
            bares.append(petsc(method))
            for way in WAYS:
                runs[way].append(solved(method, way))
        bare_ms = 1e3 * min(seconds for seconds, _, _ in bares[1:])
        row = {"method": method, "way": "bare", "steps": bares[0][1], "steps_ms": bare_ms}
        rows.append({**row, "us_a_step": 1e3 * bare_ms / bares[0][1]})
        for way in WAYS:
            solution = runs[way][0][0]
            forward, backward, steps = (min(run[i] for run in runs[way][1:]) for i in (1, 2, 3))
            both = min(run[1] + run[2] for run in runs[way][1:])
            assert abs(float(solution.y[-1, 2].detach()) - bares[0][2]) < 1e-4
            assert (solution.stats.in_c > 0) == way.endswith("in C")
            row = {"method": method, "way": way, "steps": solution.stats.accepted, "steps_ms": 1e3 * steps}
            row |= {"us_a_step": 1e6 * steps / solution.stats.accepted, "forward_ms": 1e3 * forward}
            rows.append({**row, "backward_ms": 1e3 * backward, "both_ms": 1e3 * both})
        for row in rows[-len(WAYS) - 1 :]:
            print({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return rows


def run(repeats: int) -> dict:
    """What is to be written to the JSON file."""
    torch.set_num_threads(1)
    rows = measure(repeats)
    bounds = []
    for method in METHODS:
        by_way = {row["way"]: row["us_a_step"] for row in rows if row["method"] == method}
        for way in ("PETSc", "rows"):
            what = f"{method}: time of a step, compiled, {way} in C, relative to bare PETSc"
            bounds.append(Bound(what, by_way[f"compiled, {way} in C"] / by_way["bare"], MOST))
    for bound in bounds:
        print(bound, flush=True)
    return {
        "command": f"python benchmarks/compiled_steps.py --repeats {repeats}",
        "machine": machine(),
        "bounds": [bound.row() for bound in bounds],
        "cases": rows,
    }


def draw(result: dict, path: Path) -> None:
    """Times of the steps, and of solves with gradients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.4), layout="constrained")
    for axes, method in zip(figure.subplots(2, 1), METHODS, strict=True):
        rows = [row for row in result["cases"] if row["method"] == method]
        names = [row["way"].replace(", ", ",\n") for row in rows]
        places = np.arange(len(rows))
        axes.bar(places - 0.2, [row["steps_ms"] for row in rows], 0.4, label="steps")
        both = [row.get("both_ms", np.nan) for row in rows]
        axes.bar(places + 0.2, both, 0.4, label="whole solve with gradient")
        axes.set(yscale="log", ylabel="ms", title=method, xticks=places, xticklabels=names)
        axes.set_ylim(top=8 * np.nanmax([*both, 1.0]))  # room for the legend
        axes.legend(frameon=False, loc="upper right")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    store(run(asked.repeats), draw, asked.out, "compiled_steps")
