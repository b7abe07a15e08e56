"""A million unknowns, forwards and backwards, with a bound on memory.

    python benchmarks/large_fields/million.py [--grids 128 720] [--checkpoints 10] [--t-end 0.25]

The problem is in problem.py: 2 · grid² unknowns, 1 036 800 for 720. ARKIMEX of order 3 takes the diffusion
implicitly, with GMRES, and adapts its steps. The preconditioner is that of problem.py: Fourier transforms,
which invert the diffusion to rounding.

The loss is the mean square of the final state, the gradient that by all weights of the closure and by y0. Up
to 32 768 unknowns it is held against a central difference of the loss along a direction in the weights, by
two more runs with the same steps. ``--checkpoints`` is how many states are kept; "stages" keeps all. Memory
is the growth of the process from just before the solve to its peak. Every case runs in a process of its own,
on one thread, with an allocator that gives large arrays back (see checkpoint_memory.py). Times are of the
processor and of the clock: only the first means something where others use the machine.

Writes benchmarks/results/field_million.json and field_million.png.
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

METHOD = "arkimex-3"
SHIFT = 1e-4
"""By what length along the direction the weights are moved for the difference."""
AGREE = 1e-6
"""Relative. The truncation of the difference is about SHIFT², and NEWTON over SHIFT what a stage may add."""
NEWTON = 1e-10
"""Relative and absolute, of the stages, which are linear equations here."""
CHECKED_UP_TO = 32_768
"""Unknowns up to which there is a difference."""
SHOWN = 45
"""Points along an axis of the picture."""


@dataclass(frozen=True)
class Cost:
    """Seconds of the processor and of the clock, memory in states of 8 bytes an unknown, and results."""

    grid: int
    unknowns: int
    checkpoints: str
    steps: int
    rejected: int
    rhs_evals: int
    krylov_iterations: int
    adjoint_rhs_evals: int
    adjoint_krylov_iterations: int
    forward_s: float
    backward_s: float
    forward_wall_s: float
    backward_wall_s: float
    forward_states: float
    peak_states: float
    loss: float
    gradient_norm: float
    disagreement: float | None
    """Relative, of the derivative along the direction from the difference; None: not looked at."""


def _case(grid: int, checkpoints: str, t_end: float, rtol: float) -> tuple[Cost, list]:
    """What it cost, and u at the end on a coarser grid."""
    import torch
    from large_fields.problem import Brusselator, Fourier, Parts, whole_start

    from stiffml import Discrete, Krylov, Newton, solve

    torch.set_num_threads(1)
    newton = Newton(rtol=NEWTON, atol=NEWTON)
    adjoint = Discrete(checkpoints=int(checkpoints) if checkpoints.isdecimal() else checkpoints)

    def run(points: int, end: float):
        model = Brusselator()
        func = Parts(model)
        y0, t = whole_start(points).requires_grad_(), torch.tensor([0, end], dtype=torch.float64)
        how = {"method": METHOD, "linear": Krylov("gmres", Fourier(points)), "newton": newton}
        marks = [(memory("VmRSS"), time.process_time(), time.perf_counter())]
        sol = solve(func, y0, t, adjoint=adjoint, rtol=rtol, atol=rtol / 1e3, **how)
        loss = sol.y[-1].square().mean()
        marks.append((memory("VmHWM"), time.process_time(), time.perf_counter()))
        loss.backward()
        marks.append((memory("VmHWM"), time.process_time(), time.perf_counter()))
        weights = list(model.parameters())
        disagreement = None
        if y0.numel() <= CHECKED_UP_TO:
            length = sum(float(p.grad.square().sum()) for p in weights) ** 0.5
            losses = []
            for shift in (SHIFT, -SHIFT):
                with torch.no_grad():
                    for p in weights:
                        p += shift * p.grad / length
                    losses.append(solve(func, y0, t, steps=sol.steps, **how).y[-1].square().mean().item())
                    for p in weights:
                        p -= shift * p.grad / length
            disagreement = abs(length / ((losses[0] - losses[1]) / (2 * SHIFT)) - 1)
        norm = torch.cat([p.grad.flatten() for p in [y0, *weights]]).norm().item()
        return marks, sol, loss.item(), norm, disagreement

    run(8, t_end / 100)  # imports, PETSc's own start, code that torch compiles at its first use
    (before, middle, after), sol, loss, norm, disagreement = run(grid, t_end)
    state = 16 * grid**2
    cost = Cost(
        grid,
        2 * grid**2,
        checkpoints,
        sol.stats.accepted,
        sol.stats.rejected,
        sol.stats.rhs_evals,
        sol.stats.krylov_iterations,
        sol.stats.adjoint.rhs_evals,
        sol.stats.adjoint.krylov_iterations,
        middle[1] - before[1],
        after[1] - middle[1],
        middle[2] - before[2],
        after[2] - middle[2],
        (middle[0] - before[0]) / state,
        (after[0] - before[0]) / state,
        loss,
        norm,
        disagreement,
    )
    every = max(1, grid // SHOWN)
    return cost, sol.y[-1, 0, ::every, ::every].tolist()


def measure(grids: Sequence[int], checkpoints: str, t_end: float, rtol: float) -> Iterator[dict]:
    """What is to be written to the JSON file, after every case."""
    cases: list[Cost] = []
    bounds: list[Bound] = []
    for grid in grids:
        found = in_own_process(__file__, ["--case", grid, checkpoints, t_end, rtol], ONE_THREAD | RETURNING)
        cost = Cost(**found["cost"])
        cases.append(cost)
        print(
            f"{spaced(cost.unknowns)} unknowns, {cost.steps} steps, checkpoints {checkpoints}: "
            f"{cost.forward_s:.0f} s + {cost.backward_s:.0f} s of the processor, "
            f"{cost.forward_wall_s:.0f} s + {cost.backward_wall_s:.0f} s of the clock; "
            f"peak {cost.peak_states:.0f} states, {cost.peak_states * 8 * cost.unknowns / 2**30:.2f} GiB",
            flush=True,
        )
        if cost.disagreement is not None:
            what = f"relative difference of the gradient, {spaced(cost.unknowns)} unknowns"
            bounds.append(Bound(what, cost.disagreement, AGREE))
            print(bounds[-1], flush=True)
        done = " ".join(str(case.grid) for case in cases)
        yield {
            "command": f"python benchmarks/large_fields/million.py --grids {done} "
            f"--checkpoints {checkpoints} --t-end {t_end:g} --rtol {rtol:g}",
            "machine": machine(),
            "method": METHOD,
            "t_end": t_end,
            "bounds": [bound.row() for bound in bounds],
            "cases": [asdict(case) for case in cases],
            "u": [[round(value, 4) for value in row] for row in found["u"]],
        }


def draw(result: dict, path: Path) -> None:
    """u at the end, and the two times."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    case = result["cases"][-1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained")
    image = left.imshow(result["u"], origin="lower", extent=(0, 1, 0, 1), cmap="viridis")
    left.set(title="u at the end", xlabel="y", ylabel="x")
    figure.colorbar(image, ax=left)
    for place, name in enumerate(("forward", "backward")):
        right.bar(place, case[f"{name}_s"], color=("#1f5a99", "#c1440e")[place], width=0.6)
        right.annotate(f"{case[f'{name}_s']:.0f} s", (place, case[f"{name}_s"]), ha="center", va="bottom")
    right.set_xticks((0, 1), ("forward", "backward"))
    right.set(
        ylabel="seconds of one processor",
        title=f"{case['steps']} steps, peak {case['peak_states']:.0f} states",
    )
    right.margins(y=0.12)
    right.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{spaced(case['unknowns'])} unknowns, checkpoints: {case['checkpoints']}")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grids", type=int, nargs="+", default=(128, 720), help="points along an axis")
    parser.add_argument("--checkpoints", default="10", help='how many states are kept, or "stages"')
    parser.add_argument("--t-end", type=float, default=0.25)
    parser.add_argument("--rtol", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    asked = parser.parse_args(arguments)
    for result in measure(asked.grids, asked.checkpoints, asked.t_end, asked.rtol):
        store(result, draw, asked.out, "field_million")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        points, kept, end, tolerance = sys.argv[2:]
        cost, shown = _case(int(points), kept, float(end), float(tolerance))
        print(json.dumps({"cost": asdict(cost), "u": shown}))
    else:
        main()
