"""Peak memory and wall time of a solve and its backward pass, by what ``Discrete(checkpoints=…)`` keeps.

    python benchmarks/checkpoint_memory.py [--size 1000000] [--steps 200] [--linear lu]

A reaction A ⇌ 2 B with a stiff rate in each of size/2 independent samples; gradients with respect to the rate
and to all initial values. Every case runs in a process of its own, on one thread. Memory is the growth of the
process from just before the solve to its peak, in states (8 bytes a number): kept states, PETSc's vectors,
Jacobians, factors and torch's temporaries alike. The derivative by the rate that is recorded says only that
there is one: with many steps the reaction ends in equilibrium, where it is zero but for rounding.

What the allocator of glibc before 2.38 makes of that is half as much again: torch's aligned arrays leave
holes in its heap that nothing fits into. With MALLOC_MMAP_THRESHOLD_=200000 in the environment large arrays
go back to the system at once, which takes time; ratios of wall times compare runs under the same allocator.

Linear systems are solved by LU factors of each sample's block, or with ``--linear gmres`` by GMRES without a
preconditioner, which restarts early enough for its vectors to fit into the same bound.

Writes benchmarks/results/checkpoint_memory.json and checkpoint_memory.png, or checkpoint_memory_gmres.*.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from measuring import ONE_THREAD, RESULTS, RETURNING, in_own_process, machine, memory, store

CASES = {
    "lu": {"cn": ("stages", "10", "20", "disk"), "bdf2": ("stages", "10")},
    "gmres": {"cn": ("stages", "10")},
}

RESTART = 3
"""Of GMRES."""

EXTRA = 30
"""States that a run with k checkpoints may take besides those k."""
EACH = 1.1
"""States that a further checkpoint may take."""
SLOWDOWN = 2.5
"""Times the wall time of storing everything."""


@dataclass(frozen=True)
class Cost:
    """Growth of the process up to its peak, in states; wall times in seconds; dL/d(rate)."""

    linear: str
    method: str
    checkpoints: str
    size: int
    steps: int
    forward_states: float
    peak_states: float
    forward_s: float
    backward_s: float
    gradient: float

    @property
    def wall_s(self) -> float:
        return self.forward_s + self.backward_s


def measure(
    method: str, checkpoints: str, size: int, steps: int, linear: str = "lu", returning: bool = True
) -> Cost:
    """One case in a fresh process: ``checkpoints`` is a number, "stages", "solutions" or "disk".

    ``returning``: with an allocator that returns large arrays to the system.
    """
    environment = {**ONE_THREAD, **(RETURNING if returning else dict.fromkeys(RETURNING))}
    return Cost(**in_own_process(__file__, ["--case", linear, method, checkpoints, size, steps], environment))


def _case(linear: str, method: str, checkpoints: str, size: int, steps: int) -> Cost:
    import torch

    from stiffml import GMRES, LU, Discrete, Disk, Fixed, solve

    torch.set_num_threads(1)
    rate = torch.tensor(40.0, dtype=torch.float64, requires_grad=True)

    def reaction(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        a, b = y.unbind(-1)
        speed = rate * (a - b**2)
        return torch.stack([-speed, 2 * speed], dim=-1)

    def run(samples: int, count: int, folder: str) -> tuple[int, float, float, float]:
        kept = int(checkpoints) if checkpoints.isdecimal() else checkpoints
        adjoint = Discrete(checkpoints=Disk(folder) if kept == "disk" else kept)
        y0 = torch.rand(samples, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y0.requires_grad_()
        t = torch.tensor([0, 1.0], dtype=torch.float64)
        before, began = memory("VmRSS"), time.perf_counter()
        y = solve(
            reaction,
            y0,
            t,
            method=method,
            steps=Fixed(1 / count),
            batch_dims=1,
            linear=GMRES(restart=RESTART) if linear == "gmres" else LU(),
            params=[rate],
            adjoint=adjoint,
        ).y
        between, forward = time.perf_counter(), memory("VmHWM")
        (y[-1] ** 2).mean().backward()
        return before, forward, between - began, time.perf_counter() - between

    with tempfile.TemporaryDirectory() as folder:
        run(2, 3, folder)  # imports, PETSc's own start, code that torch compiles at its first use
        rate.grad = None
        before, forward, forward_s, backward_s = run(size // 2, steps, folder)
    state = size * 8
    return Cost(
        linear,
        method,
        checkpoints,
        size,
        steps,
        (forward - before) / state,
        (memory("VmHWM") - before) / state,
        forward_s,
        backward_s,
        float(rate.grad),
    )


def run(linear: str, size: int, steps: int) -> Iterator[dict]:
    """What is to be written to the JSON file, after every case."""
    jobs = [(method, kept, True) for method, every in CASES[linear].items() for kept in every]
    if linear == "lu":
        jobs += [("cn", kept, False) for kept in ("stages", "10")]
    rows: list[dict] = []
    wall: dict[tuple[str, bool], float] = {}
    result = {
        "command": f"python benchmarks/checkpoint_memory.py --size {size} --steps {steps} --linear {linear}",
        "machine": machine(),
        "bounds": {
            "extra_states": EXTRA,
            "states_a_checkpoint": EACH,
            "slowdown": SLOWDOWN,
        },
        "cases": rows,
    }
    for number, (method, kept, returning) in enumerate(jobs, 1):
        cost = measure(method, kept, size, steps, linear, returning)
        wall.setdefault((method, returning), cost.wall_s)  # "stages" comes first
        slowdown = cost.wall_s / wall[method, returning]
        rows.append({**asdict(cost), "returning_allocator": returning, "slowdown": slowdown})
        print(
            f"{number}/{len(jobs)} {method} {kept}: {cost.peak_states:.1f} states, {slowdown:.2f} ×",
            flush=True,
        )
        yield result


def draw(result: dict, path: Path) -> None:
    """Bars: peak memory in states, and wall time relative to storing everything."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = [row for row in result["cases"] if row["returning_allocator"]]
    labels = [f"{row['method']}, {row['linear']}  {row['checkpoints']}" for row in cases]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 0.36 * len(cases) + 1.6), sharey=True)
    left.barh(labels, [row["peak_states"] for row in cases], color="tab:blue")
    left.set_xlabel("peak memory (states)")
    right.barh(labels, [row["slowdown"] for row in cases], color="tab:orange")
    right.axvline(SLOWDOWN, color="black", linestyle=":", linewidth=1)
    right.set_xlabel("wall time, forward and backward (× storing all stages)")
    for axis, name, form in ((left, "peak_states", "{:.0f}"), (right, "slowdown", "{:.2f}")):
        for place, row in enumerate(cases):
            axis.annotate(
                form.format(row[name]), (row[name], place), (3, 0), textcoords="offset points", va="center"
            )
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
    left.invert_yaxis()
    size = f"{cases[0]['size']:,}".replace(",", "\u2009")
    figure.suptitle(f"What checkpoints cost: {size} unknowns, {cases[0]['steps']} steps")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        l, m, c, n, k = sys.argv[2:]
        print(json.dumps(asdict(_case(l, m, c, int(n), int(k)))))
    else:
        parser = argparse.ArgumentParser(
            description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--size", type=int, default=1_000_000, help="unknowns, an even number")
        parser.add_argument("--steps", type=int, default=200)
        parser.add_argument("--linear", choices=tuple(CASES), default="lu")
        asked = parser.parse_args()
        name = "checkpoint_memory" + ("" if asked.linear == "lu" else f"_{asked.linear}")
        for found in run(asked.linear, asked.size, asked.steps):
            store(found, draw, RESULTS, name)
