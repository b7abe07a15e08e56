"""Peak memory of a solve of a large field and its backward pass, with few checkpoints and with all.

    python benchmarks/large_fields/memory.py [--grid 512] [--preconditioner icc] [--t-end 2e-6]

The problem is in problem.py: 2 · grid² unknowns; the method is that with the fewest vectors, the
trapezoidal rule, and so is the Krylov method, BiCGStab, which keeps six however many iterations it takes.
The preconditioner is made of the diffusion's matrix, which exists before. Either 10 checkpoints are kept
or, for comparison, all states. Every case runs in a process of its own, on one thread and with an allocator
that gives large arrays back to the system (see checkpoint_memory.py). Memory is the growth of the process
from just before the solve to its peak, in states (8 bytes an unknown): all that the solve needs, with the
Krylov method's vectors, the preconditioner, and what torch keeps and makes for products with the Jacobian,
about 33 states for this closure of 16 hidden numbers a point. Short runs show the peak as well as long
ones.

Writes benchmarks/results/field_memory.json and field_memory.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import ONE_THREAD, RESULTS, RETURNING, Bound, in_own_process, machine, memory, spaced, store

METHOD, KRYLOV = "cn", "bcgs"
CHECKPOINTS = "10"
MOST = 80
"""States that a run with so many checkpoints may take."""


@dataclass(frozen=True)
class Cost:
    """Growth of the process up to its peak, forward and altogether, in states; wall times in seconds."""

    grid: int
    unknowns: int
    checkpoints: str
    preconditioner: str
    steps: int
    forward_states: float
    peak_states: float
    forward_s: float
    backward_s: float
    gradient_norm: float


def measure(grid: int, checkpoints: str, preconditioner: str, t_end: float) -> Cost:
    """One case in a fresh process: ``checkpoints`` is a number or "stages"."""
    arguments = ["--case", grid, checkpoints, preconditioner, t_end]
    return Cost(**in_own_process(__file__, arguments, ONE_THREAD | RETURNING))


def _case(grid: int, checkpoints: str, preconditioner: str, t_end: float) -> Cost:
    import torch
    from large_fields.problem import SOLVE, Brusselator, diffusion_matrix, linear_solver, whole_start

    from stiffml import Discrete, solve

    torch.set_num_threads(1)
    adjoint = Discrete(checkpoints=int(checkpoints) if checkpoints.isdecimal() else checkpoints)

    def run(points: int, end: float) -> tuple[float, ...]:
        """Memory before and after the forward run, seconds forward and backward, steps, |gradient|."""
        model = Brusselator()
        y0, t = whole_start(points).requires_grad_(), torch.tensor([0, end], dtype=torch.float64)
        linear = linear_solver(diffusion_matrix(points), preconditioner, KRYLOV)
        before, began = memory("VmRSS"), time.perf_counter()
        solution = solve(model, y0, t, linear=linear, adjoint=adjoint, **SOLVE | {"method": METHOD})
        between, forward = time.perf_counter(), memory("VmHWM")
        solution.y[-1].square().mean().backward()
        ended = time.perf_counter()
        gradients = [y0.grad, *(p.grad for p in model.parameters())]
        norm = torch.cat([g.flatten() for g in gradients]).norm().item()
        return before, forward, between - began, ended - between, solution.stats.accepted, norm

    run(8, 0.001)  # imports, PETSc's own start, code that torch compiles at its first use
    before, forward, forward_s, backward_s, steps, norm = run(grid, t_end)
    unknowns = 2 * grid**2
    return Cost(
        grid,
        unknowns,
        checkpoints,
        preconditioner,
        int(steps),
        (forward - before) / (8 * unknowns),
        (memory("VmHWM") - before) / (8 * unknowns),
        forward_s,
        backward_s,
        norm,
    )


def bounds(costs: Sequence[Cost]) -> list[Bound]:
    cost = costs[0]
    what = f"peak at {spaced(cost.unknowns)} unknowns with {cost.checkpoints} checkpoints, in states"
    return [Bound(what, cost.peak_states, MOST)]


def run(grid: int, preconditioner: str, t_end: float) -> Iterator[dict]:
    """What is to be written to the JSON file, after every case."""
    costs: list[Cost] = []
    for kept in (CHECKPOINTS, "stages"):
        cost = measure(grid, kept, preconditioner, t_end)
        costs.append(cost)
        print(
            f"{spaced(cost.unknowns)} unknowns, {preconditioner}, {cost.steps} steps, checkpoints {kept}: "
            f"{cost.forward_states:.1f} states forward, {cost.peak_states:.1f} in all; "
            f"{cost.forward_s:.1f} s + {cost.backward_s:.1f} s; |gradient| {cost.gradient_norm:.8g}",
            flush=True,
        )
        yield {
            "command": f"python benchmarks/large_fields/memory.py --grid {grid} "
            f"--preconditioner {preconditioner} --t-end {t_end:g}",
            "machine": machine(),
            "t_end": t_end,
            "bounds": [bound.row() for bound in bounds(costs)],
            "cases": [asdict(cost) for cost in costs],
        }
    print(*bounds(costs), sep="\n")


def draw(result: dict, path: Path) -> None:
    """Bars: the peaks forward and backward, in states."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = result["cases"]
    labels = [f"{spaced(row['unknowns'])} unknowns\ncheckpoints: {row['checkpoints']}" for row in cases]
    figure, axis = plt.subplots(figsize=(8, 0.75 * len(cases) + 1.6), layout="constrained")
    parts = (("forward_states", "tab:blue", "forward"), ("peak_states", "tab:orange", "with backward pass"))
    for shift, (name, color, label) in zip((-0.19, 0.19), parts, strict=True):
        places, values = [k + shift for k in range(len(cases))], [row[name] for row in cases]
        axis.barh(places, values, height=0.36, color=color, label=label)
        for place, value in zip(places, values, strict=True):
            axis.annotate(
                f"{value:.0f}",
                (value, place),
                (3, 0),
                textcoords="offset points",
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # above the line of the bound
            )
    label = f"bound for {CHECKPOINTS} checkpoints"
    axis.axvline(MOST, color="black", linestyle=":", linewidth=1, label=label)
    axis.set_yticks(range(len(cases)), labels)
    axis.set_xlabel("peak memory (states)")
    axis.margins(x=0.12)
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    kind = cases[0]["preconditioner"].upper()
    figure.suptitle(f"Memory of a two-dimensional Brusselator with a neural closure, {kind}")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=int, default=512, help="points along an axis")
    parser.add_argument("--preconditioner", choices=("icc", "ilu", "gamg"), default="icc")
    parser.add_argument("--t-end", type=float, default=2e-6)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    asked = parser.parse_args(arguments)
    for result in run(asked.grid, asked.preconditioner, asked.t_end):
        store(result, draw, asked.out, "field_memory")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        points, kept, kind, end = sys.argv[2:]
        print(json.dumps(asdict(_case(int(points), kept, kind, float(end)))))
    else:
        main()
