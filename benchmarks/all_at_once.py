"""Cost of one training iteration whose steps are known: solve, loss and backward pass, one by one and all at
once, and these with a compiled function, alternately at the same parameters. Medians of CPU time count, which
neighbours on the machine disturb less than wall time.

- fit: the Robertson fit of stiffml.experiments, 40 Crank-Nicolson steps of a network, its first iterations of
  training. In f-units: multiples of one eager call of the network. The guess is the iteration before.
- samples: the same network and steps from 256 initial states.
- mechanism: Robertson's reactions to 1e5 s on the steps of an adaptive bdf3 solution; the rate constants move
  by 1 % from one iteration to the next, which is the guess.

    python benchmarks/all_at_once.py [--repeats 25] [--rounds 3]

The best round counts: a neighbour on the machine can only make it slower. Bounds are of one machine; what
must hold on all of them, in counts, is in tests/costs/test_speed.py.

Writes benchmarks/results/all_at_once.json and all_at_once.png.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from measuring import RESULTS, Bound, machine, store
from torch import Tensor

import problems
from stiffml import Grid, Recorded, Solution, solve
from stiffml.experiments.robertson import LEARNING_RATE, Network, error_of, observations

WAYS: dict[str, dict] = {
    "one by one": {"stepping": "sequential"},
    "all at once": {},
    "with a guess": {},
    "compiled, cold": {"compile": True},
    "compiled, with a guess": {"compile": True},
}
SAMPLES = 256
MOVE = 0.01
"""The relative change of the rate constants between two iterations."""

BOUNDS = {
    ("fit", "all at once"): 90.0,
    ("fit", "with a guess"): 60.0,
    ("fit", "compiled, cold"): 25.0,
    ("fit", "compiled, with a guess"): 16.0,
    ("samples", "all at once"): 8.0,
    ("samples", "with a guess"): 8.0,
    ("mechanism", "with a guess"): 20.0,
}
"""Of the fit the most f-units of an iteration; of the others the least ratio to one by one."""


class Case(NamedTuple):
    """A training: its parameters, its solve, the loss of a solution, the step to the next iteration, and a
    call of func."""

    parameters: list[Tensor]
    solve: Callable[..., Solution]
    loss: Callable[[Solution], Tensor]
    step: Callable[[], object]
    call: Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """Medians: CPU time of an eager call in µs, of an iteration forward and backward in such calls, its wall
    time in calls; of a solve its Newton iterations, of which the first are a guess's without new Jacobians,
    and its Jacobians."""

    call_us: float
    forward_f: float
    backward_f: float
    wall_f: float
    newton_iterations: float
    jacobians: float

    @property
    def total_f(self) -> float:
        return self.forward_f + self.backward_f


def fit(samples: int = 1) -> Case:
    """The Robertson fit; for several samples from initial states near its own."""
    data, network = observations(), Network(0)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    arguments = {"method": "cn", "steps": Grid()}
    if samples == 1:
        return Case(
            list(network.parameters()),
            lambda **more: solve(network, data.scaled[0], data.times, **arguments, **more),
            lambda solution: error_of(solution, data),
            optimizer.step,
            lambda: network(data.times[0], data.scaled[0]),
        )
    generator = torch.Generator().manual_seed(0)
    start = data.scaled[0] + 0.1 * torch.rand(samples, 3, dtype=torch.float64, generator=generator)
    return Case(
        list(network.parameters()),
        lambda **more: solve(network, start, data.times, batch_dims=1, **arguments, **more),
        lambda solution: (solution.y - data.scaled[:, None]).abs().mean(),
        optimizer.step,
        lambda: network(data.times[0], start),
    )


def mechanism() -> Case:
    """The rate constants of Robertson's reactions, on recorded steps."""
    problem = problems.load("robertson")
    t = torch.cat([torch.zeros(1), torch.logspace(-5, 5, 40)]).double()
    y0 = torch.from_numpy(np.array(problem.y0, dtype=float))
    values = torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64)
    k = values.clone().requires_grad_()

    def func(t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        forward, slow, back = k[0] * a, k[1] * b * b, k[2] * b * c
        return torch.stack([back - forward, forward - back - slow, slow], dim=-1)

    steps = solve(func, y0, t, method="bdf3", rtol=1e-6, atol=1e-10).steps
    assert isinstance(steps, Recorded)
    data = solve(func, y0, t, method="bdf3", steps=steps).y.detach()
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        signs = 2 * torch.randint(0, 2, (3,), generator=generator) - 1
        with torch.no_grad():
            k.copy_(k * (1 + MOVE * signs))
            k.copy_(torch.minimum(torch.maximum(k, values / 1.5), values * 1.5))

    return Case(
        [k],
        lambda **more: solve(func, y0, t, method="bdf3", steps=steps, params=[k], **more),
        lambda solution: ((solution.y - data) / data.amax(0)).square().mean(),
        step,
        lambda: func(t[0], y0),
    )


CASES = {"fit": fit, "samples": lambda: fit(SAMPLES), "mechanism": mechanism}
SHARES = {"fit": 1.0, "samples": 0.25, "mechanism": 0.25}
"""Of the repeats, for cases that take longer."""


def measure(case: Case, repeats: int) -> dict[str, Cost]:
    """Iterations of a training, each measured in all ways in turn, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        before = {way: case.solve(**more) for way, more in WAYS.items() if way.endswith("with a guess")}
        case.step()
        calls: list[tuple[float, float]] = []
        rows: dict[str, list[tuple[float, ...]]] = {way: [] for way in WAYS}
        for repeat in range(repeats + 2):
            with torch.no_grad():
                wall, began = time.perf_counter(), time.process_time()
                for _ in range(50):
                    case.call()
                call = (time.process_time() - began) / 50
                wall_call = (time.perf_counter() - wall) / 50
            for way in WAYS:
                more = WAYS[way] | ({"guess": before[way]} if way in before else {})
                for parameter in case.parameters:
                    parameter.grad = None
                wall, began = time.perf_counter(), time.process_time()
                solution = case.solve(**more)
                loss = case.loss(solution)
                between = time.process_time()
                loss.backward()
                backward, wall = time.process_time() - between, time.perf_counter() - wall
                if repeat >= 2:  # the first two are warm-up
                    counts = solution.stats.newton_iterations, solution.stats.jacobians
                    rows[way].append((between - began, backward, wall, *counts))
                if way in before:
                    before[way] = solution
            if repeat >= 2:
                calls.append((call, wall_call))
            case.step()
    finally:
        torch.set_num_threads(threads)
    call, wall_call = (statistics.median(column) for column in zip(*calls, strict=True))
    medians = {way: [statistics.median(column) for column in zip(*rows[way], strict=True)] for way in WAYS}
    return {
        way: Cost(call * 1e6, forward / call, backward / call, wall / wall_call, *counts)
        for way, (forward, backward, wall, *counts) in medians.items()
    }


def draw(result: dict, path: Path) -> None:
    """The iterations of the best rounds by way, a panel for each case, with ratios to one by one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    cases = list(dict.fromkeys(case["case"] for case in result["cases"]))
    for panel, name in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        rows = [case for case in result["cases"] if case["case"] == name]
        best = [min((r for r in rows if r["way"] == way), key=lambda r: r["total_f"]) for way in WAYS]
        forward, backward = ([row[part] for row in best] for part in ("forward_f", "backward_f"))
        names = [way.replace(" ", "\n") for way in WAYS]
        panel.bar(names, forward, color="tab:blue", label="forward")
        bars = panel.bar(names, backward, bottom=forward, color="tab:orange", label="backward")
        labels = [
            f"{row['total_f']:.0f}" + (f"\n{best[0]['total_f'] / row['total_f']:.1f} ×" if number else "")
            for number, row in enumerate(best)
        ]
        panel.bar_label(bars, labels, fontsize="small")
        panel.set(title=name, ylabel="calls of func")
        panel.margins(y=0.2)
        panel.tick_params("x", labelsize="small")
    figure.axes[0].legend(frameon=False)
    figure.suptitle("One training iteration: solve, loss and backward pass (×: times less than one by one)")
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    found, bounds = [], []
    for name in asked.cases:
        repeats = max(1, round(SHARES[name] * asked.repeats))
        rounds = [measure(CASES[name](), repeats) for _ in range(asked.rounds)]
        for number, costs in enumerate(rounds, 1):
            for way, cost in costs.items():
                ratio = costs["one by one"].total_f / cost.total_f
                row = {"case": name, "round": number, "way": way, **asdict(cost)}
                found.append({**row, "total_f": cost.total_f, "times_less": ratio})
                print({key: round(v, 1) if isinstance(v, float) else v for key, v in found[-1].items()})
        for way in WAYS:
            if (name, way) not in BOUNDS:
                continue
            limit = BOUNDS[name, way]
            if name == "fit":
                least = min(costs[way].total_f for costs in rounds)
                bounds.append(Bound(f"{name}, {way}: f-units of an iteration", least, limit))
            else:
                ratio = statistics.median(
                    costs["one by one"].total_f / costs[way].total_f for costs in rounds
                )
                bounds.append(Bound(f"{name}, {way}: times less than one by one", ratio, limit, True))
    print(*bounds, sep="\n")
    result = {
        "command": f"python benchmarks/all_at_once.py --repeats {asked.repeats} --rounds {asked.rounds}",
        "machine": machine(),
        "bounds": [bound.row() for bound in bounds],
        "cases": found,
    }
    store(result, draw, asked.out, "all_at_once")


if __name__ == "__main__":
    main()
