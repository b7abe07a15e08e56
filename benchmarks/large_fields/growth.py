"""How the time of a solve and of its backward pass, and Krylov iterations, grow with the size of a field.

    python benchmarks/large_fields/growth.py [--grids 32 64 128 256 512] [--ilu-up-to 512] [--repeats 3]

The problem is in problem.py: 2 · grid² unknowns, solved by BDF of order 3 with adaptive steps. The
diffusion preconditions: by algebraic multigrid (GAMG); by fast Fourier transforms (FFT), a preconditioner
written for this problem; and by incomplete factors (ILU). The first two go with FGMRES, which applies them
once less a solve than GMRES, and ILU with BiCGStab: GMRES would spend as long on making its many vectors
orthogonal as on products, and does not converge on the largest field if it is restarted after 10.

Every case runs in a process of its own, on one thread. A tiny field is solved first, then a tiny part of
the time at full size: that finds where the diffusion's Jacobian has entries, which a training does once
too, and is listed as preparation. Then times are medians of ``--repeats`` runs up to 32 768 unknowns, and
of one above.

Forward, Krylov iterations are given for each Newton iteration; backward, for each step, which solves one
transposed system, but much more accurately. The share outside of func is what is left of the time without
that in func and in torch.autograd.grad: PETSc, the preconditioner, and all of stiffml itself.

Writes benchmarks/results/field_growth.json and field_growth.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import ONE_THREAD, RESULTS, Bound, in_own_process, machine, spaced, store

GRIDS = (32, 64, 128, 256, 512)
ILU_UP_TO = 512
KRYLOV = {"gamg": "fgmres", "fft": "fgmres", "ilu": "bcgs"}
"""The Krylov method that goes with each preconditioner."""
REPEATED_UP_TO = 32_768
"""Unknowns up to which runs are repeated."""

BACKWARD, BACKWARD_AT = 1.2, 8_192
"""Times of a forward run that a backward pass may take, and at how many unknowns."""
GROWTH = 1.3
"""By what factor time may grow faster than the number of unknowns, from the smallest to the largest."""
OUTSIDE, OUTSIDE_FROM = 0.35, 32_768
"""Share of the time that may be spent outside of func, and from how many unknowns on."""
FLAT = 1.5
"""By what factor the iterations of a solve may grow, from the smallest to the largest."""


@dataclass(frozen=True)
class Cost:
    """Seconds (medians), shares of them outside of func, and counts. ``stiffml.Stats`` says of what."""

    preconditioner: str
    grid: int
    unknowns: int
    repeats: int
    preparation_s: float
    forward_s: float
    backward_s: float
    forward_outside: float
    backward_outside: float
    steps: int
    rejected: int
    newton_iterations: int
    krylov_iterations: int
    adjoint_krylov_iterations: int
    loss: float
    gradient_norm: float

    @property
    def ratio(self) -> float:
        return self.backward_s / self.forward_s

    @property
    def forward_iterations(self) -> float:
        """Of a solve."""
        return self.krylov_iterations / self.newton_iterations

    @property
    def backward_iterations(self) -> float:
        return self.adjoint_krylov_iterations / self.steps

    def row(self) -> dict:
        return {
            **asdict(self),
            "backward_over_forward": self.ratio,
            "krylov_iterations_a_solve": self.forward_iterations,
            "adjoint_krylov_iterations_a_step": self.backward_iterations,
        }


def measure(preconditioner: str, grid: int, repeats: int, t_end: float) -> Cost:
    """One case in a fresh process."""
    found = in_own_process(__file__, ["--case", preconditioner, grid, repeats, t_end], ONE_THREAD)
    return Cost(**found)


def _case(preconditioner: str, grid: int, repeats: int, t_end: float) -> Cost:
    import torch
    from large_fields.problem import SOLVE, Brusselator, Fourier, linear_solver, whole_start
    from large_fields.stopwatch import inside

    from stiffml import Krylov, solve

    torch.set_num_threads(1)
    model = Brusselator()
    method = KRYLOV[preconditioner]
    # Patterns that are found are kept as long as this is.
    assembled = linear_solver(model.diffusion, preconditioner, method)

    def run(points: int, end: float):
        """Forward and backward: seconds, seconds outside of func; the solution, the loss, gradients."""
        y0, t = whole_start(points).requires_grad_(), torch.tensor([0, end], dtype=torch.float64)
        linear = Krylov(method, Fourier(points)) if preconditioner == "fft" else assembled
        model.zero_grad()
        with inside(model) as watch:
            began = time.perf_counter()
            solution = solve(model, y0, t, linear=linear, **SOLVE)
            loss = solution.y[-1].square().mean()
            between, within = time.perf_counter(), watch.seconds
            loss.backward()
            ended = time.perf_counter()
        spent = [between - began, ended - between]
        outside = [spent[0] - within, spent[1] - (watch.seconds - within)]
        return spent, outside, solution.stats, loss, [y0.grad, *(p.grad for p in model.parameters())]

    run(8, 0.01)
    began = time.perf_counter()
    run(grid, 1e-9)
    preparation_s = time.perf_counter() - began
    runs = [run(grid, t_end) for _ in range(repeats)]
    spent = [[run[0][k] for run in runs] for k in range(2)]
    shares = [[run[1][k] / run[0][k] for run in runs] for k in range(2)]
    *_, stats, loss, gradients = runs[-1]
    return Cost(
        preconditioner,
        grid,
        2 * grid**2,
        repeats,
        preparation_s,
        *map(statistics.median, spent),
        *map(statistics.median, shares),
        stats.accepted,
        stats.rejected,
        stats.newton_iterations,
        stats.krylov_iterations,
        stats.adjoint.krylov_iterations,
        loss.item(),
        torch.cat([g.flatten() for g in gradients]).norm().item(),
    )


def bounds(costs: Sequence[Cost]) -> list[Bound]:
    """For each preconditioner, those that the sizes measured say something about."""
    return [
        bound
        for preconditioner in KRYLOV
        if (mine := [cost for cost in costs if cost.preconditioner == preconditioner])
        for bound in _bounds(mine)
    ]


def _bounds(costs: Sequence[Cost]) -> Iterator[Bound]:
    first, last = costs[0], costs[-1]
    name = first.preconditioner.upper()
    for cost in costs:
        if cost.unknowns == BACKWARD_AT:
            what = f"{name}: backward / forward at {spaced(cost.unknowns)} unknowns"
            yield Bound(what, cost.ratio, BACKWARD)
    large = [cost for cost in costs if cost.unknowns >= OUTSIDE_FROM]
    for direction in ("forward", "backward"):
        if last is not first:
            span = f"{spaced(first.unknowns)} to {spaced(last.unknowns)} unknowns"
            ratio = getattr(last, f"{direction}_s") / getattr(first, f"{direction}_s")
            what = f"{name}: growth of {direction} time relative to linear, {span}"
            yield Bound(what, ratio / (last.unknowns / first.unknowns), GROWTH)
            ratio = getattr(last, f"{direction}_iterations") / getattr(first, f"{direction}_iterations")
            yield Bound(f"{name}: growth of iterations a solve, {direction}, {span}", ratio, FLAT)
        if large:
            share = max(getattr(cost, f"{direction}_outside") for cost in large)
            what = f"{name}: {direction} share outside of func, {spaced(OUTSIDE_FROM)} unknowns or more"
            yield Bound(what, share, OUTSIDE)


def run(grids: Sequence[int], ilu_up_to: int, repeats: int, t_end: float) -> Iterator[dict]:
    """What is to be written to the JSON file, after every case."""
    costs: list[Cost] = []
    print(HEADER)
    for grid in grids:
        for preconditioner in KRYLOV:
            if preconditioner == "ilu" and grid > ilu_up_to:
                continue
            times = repeats if 2 * grid**2 <= REPEATED_UP_TO else 1
            costs.append(measure(preconditioner, grid, times, t_end))
            print(line(costs[-1]), flush=True)
            yield {
                "command": f"python benchmarks/large_fields/growth.py --grids {' '.join(map(str, grids))} "
                f"--ilu-up-to {ilu_up_to} --repeats {repeats} --t-end {t_end:g}",
                "machine": machine(),
                "t_end": t_end,
                "bounds": [bound.row() for bound in bounds(costs)],
                "cases": [cost.row() for cost in costs],
            }
    print(*bounds(costs), sep="\n")


HEADER = """\
                            seconds                  outside of func                  iterations a solve
       unknowns  prepar.  forward backward  b / f   forward backward  steps  Newton   forward backward"""


def line(cost: Cost) -> str:
    """A row of the table."""
    seconds = f"{cost.preparation_s:8.2f} {cost.forward_s:8.2f} {cost.backward_s:8.2f} {cost.ratio:6.2f}"
    outside = f"{cost.forward_outside:9.1%} {cost.backward_outside:8.1%}"
    iterations = f"{cost.forward_iterations:9.2f} {cost.backward_iterations:8.2f}"
    return (
        f"{cost.preconditioner:>4} {spaced(cost.unknowns):>10} {seconds} {outside} {cost.steps:6} "
        f"{cost.newton_iterations:7} {iterations}"
    )


def draw(result: dict, path: Path) -> None:
    """Times and iterations by unknowns."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    lines = {"forward": ("-", "o"), "backward": ("--", "s")}
    columns = {"forward": "krylov_iterations_a_solve", "backward": "adjoint_krylov_iterations_a_step"}
    for preconditioner, color in zip(KRYLOV, ("tab:blue", "tab:green", "tab:orange"), strict=True):
        rows = [row for row in result["cases"] if row["preconditioner"] == preconditioner]
        sizes = [row["unknowns"] for row in rows]
        for name, (style, marker) in lines.items():
            look = {"linestyle": style, "marker": marker, "markersize": 4, "color": color}
            label = f"{preconditioner.upper()}, {name}"
            left.plot(sizes, [row[f"{name}_s"] for row in rows], label=label, **look)
            right.plot(sizes, [row[columns[name]] for row in rows], label=label, **look)
    rows = [row for row in result["cases"] if row["preconditioner"] == "gamg"]
    ends = [rows[0]["unknowns"], rows[-1]["unknowns"]]
    first = rows[0]["forward_s"]
    left.plot(ends, [first, first * ends[1] / ends[0]], ":", color="black", linewidth=1, label="slope 1")
    left.set(xscale="log", yscale="log", xlabel="unknowns", ylabel="seconds, one thread")
    right.set(xscale="log", xlabel="unknowns", ylabel="Krylov iterations a solve")
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.get_layout_engine().set(wspace=0.06)
    figure.suptitle("A two-dimensional Brusselator with a neural closure, by the size of its field")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grids", type=int, nargs="+", default=GRIDS, help="points along an axis")
    parser.add_argument("--ilu-up-to", type=int, default=ILU_UP_TO, help="points along an axis")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--t-end", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    asked = parser.parse_args(arguments)
    for result in run(asked.grids, asked.ilu_up_to, asked.repeats, asked.t_end):
        store(result, draw, asked.out, "field_growth")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        kind, points, count, end = sys.argv[2:]
        print(json.dumps(asdict(_case(kind, int(points), int(count), float(end)))))
    else:
        main()
