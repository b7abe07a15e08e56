"""What linear="auto" takes for a field, against settings chosen by hand: CPU time forwards and backwards.

    python benchmarks/large_fields/choice.py [--grid 64] [--repeats 1]

Fields of 2 · grid² unknowns or about as many, BDF with adaptive steps (rtol 1e-5, atol 1e-8); gradients are
by one constant and y0. Each setting solves for a short time to find the pattern, then ``--repeats`` times;
the least counts.
Writes benchmarks/results/field_choice.json and field_choice.png.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from measuring import ONE_THREAD, RESULTS, Bound, in_own_process, machine, store
from torch import Tensor

import problems
from problems.stencils import laplacian, second_difference
from stiffml import GMRES, LU, Assembled, solve

D = torch.float64
SETTINGS = {
    "auto": {},
    "new LU": {"linear": LU(), "jacobian": "coloured"},
    "kept LU": {"linear": GMRES(Assembled(solver="lu"))},
    "kept ILU": {"linear": GMRES(Assembled(solver="ilu"))},
}
ALLOWED = 1.1


def brusselator(grid: int) -> tuple[Callable, Tensor, Tensor, float]:
    problem = problems.load("brusselator", size=grid)
    func = problem.func(next(iter(problem.parameters)))
    return func, next(func.parameters()), problem.initial_state(), 0.02 * problem.t_span[1]


def heat(grid: int) -> tuple[Callable, Tensor, Tensor, float]:
    points = round(grid * math.sqrt(2))
    x = torch.arange(points, dtype=D) / points
    y0 = torch.sin(2 * math.pi * x)[:, None] * torch.cos(4 * math.pi * x)[None] + 0.3 * torch.cos(
        2 * math.pi * x
    )
    k = torch.tensor(0.05, dtype=D, requires_grad=True)
    return lambda t, y: k * points**2 * laplacian(y) + torch.sin(3 * y), k, y0, 0.3


def bratu(grid: int) -> tuple[Callable, Tensor, Tensor, float]:
    points = round(grid * math.sqrt(2))
    inside = torch.zeros(points, points, dtype=D)
    inside[1:-1, 1:-1] = 1
    k = torch.tensor(2.0, dtype=D, requires_grad=True)
    rhs = lambda t, y: inside * (points**2 * laplacian(y) + k * torch.exp(y))  # noqa: E731
    return rhs, k, torch.zeros(points, points, dtype=D), 0.3


def line(grid: int) -> tuple[Callable, Tensor, Tensor, float]:
    points = 2 * grid**2
    x = torch.arange(points, dtype=D) / points
    k = torch.tensor(0.05, dtype=D, requires_grad=True)
    y0 = torch.sin(2 * math.pi * x) + 0.3 * torch.cos(8 * math.pi * x)
    return lambda t, y: k * points**2 * second_difference(y, -1) + torch.sin(3 * y), k, y0, 0.3


FIELDS = {"brusselator 2-D": brusselator, "heat 2-D": heat, "bratu 2-D": bratu, "heat 1-D": line}


def work(field: str, setting: str, grid: int, repeats: int) -> dict:
    torch.set_num_threads(1)
    func, constant, y0, end = FIELDS[field](grid)
    y0 = y0.requires_grad_()
    given = {"method": "bdf", "rtol": 1e-5, "atol": 1e-8, **SETTINGS[setting]}
    if not isinstance(func, torch.nn.Module):
        given["params"] = [constant]
    forwards, backwards = [], []
    for k in range(1 + repeats):
        t = torch.tensor([0.0, end if k else 1e-4 * end], dtype=D)
        began = time.process_time()
        solution = solve(func, y0, t, **given)
        there = time.process_time()
        torch.autograd.grad(solution.y[-1].square().mean(), [y0, constant])
        forwards.append(there - began)
        backwards.append(time.process_time() - there)
    return {
        "unknowns": y0.numel(),
        "forward_s": min(forwards[1:]),
        "backward_s": min(backwards[1:]),
        "steps": solution.stats.accepted,
        "linear": solution.stats.linear,
    }


def draw(result: dict, path: Path) -> None:
    import matplotlib.pyplot as plt

    count = len(result["fields"])
    figure, panels = plt.subplots(1, count, figsize=(1 + 2.6 * count, 3), layout="constrained", squeeze=False)
    for axes, (field, rows) in zip(panels[0], result["fields"].items(), strict=True):
        at, names = range(len(rows)), list(rows)
        forward = [rows[name]["forward_s"] for name in names]
        axes.barh(at, forward, label="forward")
        axes.barh(at, [rows[name]["backward_s"] for name in names], left=forward, label="backward")
        axes.set_yticks(at, names)
        axes.invert_yaxis()
        axes.set_title(f"{field}, {rows['auto']['unknowns']} unknowns", fontsize=9)
        axes.set_xlabel("CPU time / s")
    panels[0, -1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--fields", nargs="+", choices=list(FIELDS), default=list(FIELDS))
    parser.add_argument("--work", nargs=2, help="one field and setting; used by the script itself")
    given = parser.parse_args()
    if given.work:
        print(json.dumps(work(*given.work, given.grid, given.repeats)))
        return
    fields: dict[str, dict] = {}
    for field in given.fields:
        fields[field] = {}
        for setting in SETTINGS:
            arguments = ["--grid", given.grid, "--repeats", given.repeats, "--work", field, setting]
            fields[field][setting] = in_own_process(__file__, arguments, ONE_THREAD)
            print(field, setting, json.dumps(fields[field][setting]), flush=True)
        keep(fields, given.grid, given.repeats)  # what there is, as the others may take long


def keep(fields: dict[str, dict], grid: int, repeats: int) -> None:
    """Store what has been measured, with the bounds."""
    bounds = []
    for field, rows in fields.items():
        for part in ("forward_s", "backward_s"):
            best = min(row[part] for row in rows.values())
            bounds.append(Bound(f"{field}, {part}: auto / best", rows["auto"][part] / best, ALLOWED))
    named = " ".join(f"'{field}'" for field in fields)
    script = "python benchmarks/large_fields/choice.py"
    command = f"{script} --grid {grid} --repeats {repeats} --fields {named}"
    rows = [bound.row() for bound in bounds]
    found = {"command": command, "machine": machine(), "fields": fields, "bounds": rows}
    store(found, draw, RESULTS, "field_choice")
    print(*bounds, sep="\n", flush=True)


if __name__ == "__main__":
    main()
