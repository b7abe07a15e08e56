"""A solve of a large field and its backward pass on one process and on two.

    python benchmarks/large_fields/ranks.py [--grid 256] [--ranks 1 2] [--repeats 1] [--t-end 1]

The problem is in problem.py: 2 · grid² unknowns, here in a Field whose parts lie on the processes, with the
right-hand side written for a part and its ghosts. GMRES is preconditioned with the diffusion by algebraic
multigrid over all processes. Each process has one thread; `mpiexec` starts them and must lie beside this
Python or on the path. A tiny field is solved first, then a tiny part of the time at full size; then come
``--repeats`` runs. Times are medians of what the slowest process took.

Loss and gradients are compared with those of one process. The multigrid of two processes is another one, and
with it what Newton's iteration leaves, up to 1 % of the tolerance of a step, at each step.

Writes benchmarks/results/field_ranks.json and field_ranks.png.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import ONE_THREAD, RESULTS, Bound, in_own_process, machine, spaced, store

SPEED_UP, ON = 1.6, 2
"""By what factor so many processes must be faster than one."""
AGREE = 1e-6
"""Relative difference of losses and gradients: a tenth of the tolerance of the steps."""


@dataclass(frozen=True)
class Cost:
    """Seconds (of the slowest process, medians), and counts. ``stiffml.Stats`` says of what."""

    ranks: int
    grid: int
    unknowns: int
    repeats: int
    preparation_s: float
    forward_s: float
    backward_s: float
    wall_s: float
    steps: int
    rejected: int
    newton_iterations: int
    krylov_iterations: int
    adjoint_krylov_iterations: int
    loss: float


@dataclass(frozen=True)
class Found:
    """What a number of processes cost and gave."""

    cost: Cost
    weights: np.ndarray
    y0: np.ndarray

    def differences(self, other: Found) -> dict[str, float]:
        """Of the loss and of the gradients from those of another, relative to these."""
        pairs = {
            "loss": (self.cost.loss, other.cost.loss),
            "gradient by weights": (self.weights, other.weights),
            "gradient by y0": (self.y0, other.y0),
        }
        return {
            name: float(np.linalg.norm(np.subtract(a, b)) / np.linalg.norm(b))
            for name, (a, b) in pairs.items()
        }


def measure(ranks: int, grid: int, repeats: int, t_end: float) -> Found:
    """In fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gradients.npz"
        arguments = ["--worker", grid, repeats, t_end, path]
        cost = in_own_process(__file__, arguments, ONE_THREAD, [launcher(), "-n", str(ranks)])
        with np.load(path) as file:
            return Found(Cost(**cost), file["weights"], file["y0"])


def launcher() -> str:
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise SystemExit("no mpiexec beside this Python, and none on the path")
    return found


def _worker(grid: int, repeats: int, t_end: float, path: Path) -> Cost | None:
    """On every process; the result on the first, and the gradients in the file."""
    import torch
    from large_fields.problem import SOLVE, LocalBrusselator, linear_solver, start

    from stiffml import solve
    from stiffml.distributed import Field

    torch.set_num_threads(1)

    def run(points: int, ends: Sequence[float]):
        """For each end of time: seconds of all, forward and backward; then what the last one gave."""
        field = Field((points, points), species=2)
        local = LocalBrusselator(points)
        func = field.rhs(local)
        linear = linear_solver(field.rhs(local.diffusion), "gamg")
        spent = []
        for end in ends:
            y0 = field.create(start).requires_grad_()
            t = torch.tensor([0, end], dtype=torch.float64)
            func.zero_grad()
            field.space.max(0.0)  # waits for the others
            began = time.perf_counter()
            solution = solve(func, y0, t, linear=linear, **SOLVE)
            loss = field.sum(solution.y[-1].square()) / (2 * points**2)
            between = time.perf_counter()
            loss.backward()
            ended = time.perf_counter()
            seconds = ended - began, between - began, ended - between
            spent.append([field.space.max(s) for s in seconds])
        weights = torch.cat([p.grad.flatten() for p in func.parameters()])
        return spent, field, solution.stats, loss.item(), weights, field.gather(y0.grad)

    run(16, [0.01])
    spent, field, stats, loss, weights, y0 = run(grid, [1e-9] + [t_end] * repeats)
    if field.rank > 0:
        return None
    np.savez(path, weights=weights.numpy(), y0=y0.numpy())
    wall, forward, backward = (statistics.median(column) for column in zip(*spent[1:], strict=True))
    return Cost(
        field.size,
        grid,
        2 * grid**2,
        repeats,
        spent[0][0],
        forward,
        backward,
        wall,
        stats.accepted,
        stats.rejected,
        stats.newton_iterations,
        stats.krylov_iterations,
        stats.adjoint.krylov_iterations,
        loss,
    )


def bounds(found: Sequence[Found]) -> list[Bound]:
    """Of the number of processes that there is one for, and of all that were compared."""
    first = found[0]
    unknowns = spaced(first.cost.unknowns)
    results = []
    for other in found[1:]:
        ranks = other.cost.ranks
        if (first.cost.ranks, ranks) == (1, ON):
            ratio = first.cost.wall_s / other.cost.wall_s
            what = f"speed-up by {ranks} processes at {unknowns} unknowns"
            results.append(Bound(what, ratio, SPEED_UP, at_least=True))
        for name, value in other.differences(first).items():
            what = f"relative difference on {ranks} processes, {name}"
            results.append(Bound(what, value, AGREE))
    return results


def run(grid: int, ranks: Sequence[int], repeats: int, t_end: float) -> Iterator[dict]:
    """What is to be written to the JSON file, after every number of processes."""
    found: list[Found] = []
    for count in ranks:
        found.append(measure(count, grid, repeats, t_end))
        cost = found[-1].cost
        print(
            f"{spaced(cost.unknowns)} unknowns on {count}: {cost.forward_s:.2f} s forward + "
            f"{cost.backward_s:.2f} s backward (preparation {cost.preparation_s:.2f} s), {cost.steps} steps, "
            f"{cost.newton_iterations} Newton and {cost.krylov_iterations} Krylov iterations, "
            f"{cost.adjoint_krylov_iterations} backward; loss {cost.loss:.10g}",
            flush=True,
        )
        yield {
            "command": f"python benchmarks/large_fields/ranks.py --grid {grid} --ranks "
            f"{' '.join(map(str, ranks))} --repeats {repeats} --t-end {t_end:g}",
            "machine": machine(),
            "t_end": t_end,
            "bounds": [bound.row() for bound in bounds(found)],
            "cases": [asdict(each.cost) for each in found],
        }
    print(*bounds(found), sep="\n")


def draw(result: dict, path: Path) -> None:
    """Bars: seconds forward and backward by number of processes, and the speed-up."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = result["cases"]
    labels = [f"{row['ranks']} process" + "es" * (row["ranks"] > 1) for row in cases]
    forward, backward = ([row[f"{name}_s"] for row in cases] for name in ("forward", "backward"))
    figure, axis = plt.subplots(figsize=(8, 0.5 * len(cases) + 1.7), layout="constrained")
    axis.barh(labels, forward, color="tab:blue", label="forward")
    axis.barh(labels, backward, left=forward, color="tab:orange", label="backward")
    for place, row in enumerate(cases):
        total = row["forward_s"] + row["backward_s"]
        text = f"{total:.3g} s" + f", {cases[0]['wall_s'] / row['wall_s']:.2f} × as fast" * (place > 0)
        axis.annotate(text, (total, place), (4, 0), textcoords="offset points", va="center")
    axis.set_xlabel("seconds, one thread a process")
    axis.margins(x=0.35)
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    unknowns, steps = spaced(cases[0]["unknowns"]), cases[0]["steps"]
    figure.suptitle(f"A field over processes: {unknowns} unknowns, {steps} steps")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=int, default=256, help="points along an axis")
    parser.add_argument("--ranks", type=int, nargs="+", default=(1, 2), help="numbers of processes")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--t-end", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    asked = parser.parse_args(arguments)
    for result in run(asked.grid, asked.ranks, asked.repeats, asked.t_end):
        store(result, draw, asked.out, "field_ranks")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        points, count, end, file = sys.argv[2:]
        cost = _worker(int(points), int(count), float(end), Path(file))
        if cost is not None:
            print(json.dumps(asdict(cost)))
    else:
        main()
