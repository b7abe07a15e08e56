"""Time that planning takes where few states are kept of many steps: of the forward run and of its reversal.

    python benchmarks/checkpoint_planning.py [--steps 1000 10000 100000] [--checkpoints 20]

y' = -y with two components and ``rk4``: the cheapest steps there are, so that planning counts most. Planning
is all that is spent on schedules (``checkpoint_schedules``), forwards to place snapshots, backwards in every
gap. Every case runs in a process of its own, on one thread.

Writes benchmarks/results/checkpoint_planning.json and checkpoint_planning.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from measuring import ONE_THREAD, RESULTS, Bound, in_own_process, machine, spaced, store

SHARE = 0.05
"""Of the wall time, what planning may take."""


@dataclass(frozen=True)
class Cost:
    """Wall times in seconds; ``taken_again``: steps of the backward pass."""

    steps: int
    checkpoints: int
    forward_s: float
    forward_planning_s: float
    backward_s: float
    backward_planning_s: float
    taken_again: int

    @property
    def shares(self) -> tuple[float, float]:
        return self.forward_planning_s / self.forward_s, self.backward_planning_s / self.backward_s


def measure(steps: int, checkpoints: int) -> Cost:
    """One case in a fresh process."""
    return Cost(**in_own_process(__file__, ["--case", steps, checkpoints], ONE_THREAD))


def _case(steps: int, kept: int) -> Cost:
    import torch

    from stiffml import Discrete, Grid, solve
    from stiffml.native.replay import Replay
    from stiffml.run import thinned

    torch.set_num_threads(1)
    spent, again = 0.0, 0
    schedule, step = thinned._schedule, Replay.step

    def timed(count: int, slots: int) -> Iterator[object]:
        nonlocal spent
        began = time.perf_counter()
        actions = iter(schedule(count, slots))
        spent += time.perf_counter() - began
        while True:
            began = time.perf_counter()
            action = next(actions, None)
            spent += time.perf_counter() - began
            if action is None:
                return
            yield action

    def counted(self, *arguments, **named):
        nonlocal again
        again += 1
        return step(self, *arguments, **named)

    def run(count: int) -> tuple[float, float, float, float]:
        nonlocal spent, again
        spent, again = 0.0, 0
        y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
        t = torch.tensor([0.0, 1.0], dtype=torch.float64)
        began = time.perf_counter()
        adjoint = Discrete(checkpoints=kept)
        y = solve(lambda t, y: -y, y0, t, method="rk4", steps=Grid(count), adjoint=adjoint).y
        between, forward_planning = time.perf_counter(), spent
        y[-1].sum().backward()
        end = time.perf_counter()
        return between - began, forward_planning, end - between, spent - forward_planning

    thinned._schedule, Replay.step = timed, counted
    try:
        run(10)  # imports, and code that torch compiles at its first use
        return Cost(steps, kept, *run(steps), again)
    finally:
        thinned._schedule, Replay.step = schedule, step


def run(steps: list[int], checkpoints: int) -> Iterator[dict]:
    """What is to be written to the JSON file, after every case."""
    rows: list[dict] = []
    bounds: list[dict] = []
    result = {
        "command": "python benchmarks/checkpoint_planning.py --steps "
        f"{' '.join(map(str, steps))} --checkpoints {checkpoints}",
        "machine": machine(),
        "bounds": bounds,
        "cases": rows,
    }
    for count in steps:
        cost = measure(count, checkpoints)
        forward, backward = cost.shares
        rows.append({**asdict(cost), "forward_share": forward, "backward_share": backward})
        for what, share in (("forwards", forward), ("backwards", backward)):
            bound = Bound(f"planning {what} at {spaced(count)} steps, share of the time", share, SHARE)
            bounds.append(bound.row())
            print(bound, flush=True)
        yield result


def draw(result: dict, path: Path) -> None:
    """Planning and all, by the number of steps."""
    from matplotlib.figure import Figure

    cases = result["cases"]
    counts = [row["steps"] for row in cases]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, what in zip(panels, ("forward", "backward"), strict=True):
        panel.loglog(counts, [row[f"{what}_s"] for row in cases], "o-", color="tab:blue", label="all")
        planning = [row[f"{what}_planning_s"] for row in cases]
        panel.loglog(counts, planning, "s--", color="tab:orange", label="planning")
        panel.set(xlabel="steps", title=f"{what} pass")
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("wall time [s]")
    panels[0].legend(frameon=False)
    figure.suptitle(f"Planning with {cases[0]['checkpoints']} checkpoints")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(asdict(_case(*map(int, sys.argv[2:])))))
    else:
        parser = argparse.ArgumentParser(
            description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--steps", type=int, nargs="+", default=[1000, 10_000, 100_000])
        parser.add_argument("--checkpoints", type=int, default=20)
        parser.add_argument("--out", type=Path, default=RESULTS)
        asked = parser.parse_args()
        for found in run(asked.steps, asked.checkpoints):
            store(found, draw, asked.out, "checkpoint_planning")
