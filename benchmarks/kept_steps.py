"""A training on kept steps against one that adapts them in every solve: errors, and time of an iteration.

The rate constants of POLLU (20 species, 25 reactions, 60 min) are fitted to its solution, from constants that
are off by 30 %, with adaptive tolerances of 1e-4. At every tenth iteration or so the solution on kept steps,
and that of a solve that adapts, are compared with a reference at the very parameters. Both ways are timed
there, in turn, in one run.

    python benchmarks/kept_steps.py [--iterations 300] [--compared 30]

Writes benchmarks/results/kept_steps.json and kept_steps.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from measuring import RESULTS, Bound, machine, store
from torch import Tensor

import problems
from stiffml import KeptSteps, Solution, solve

RTOL, ATOL = 1e-4, 1e-8
D = torch.float64


class Fit:
    """POLLU with the logarithms of its rate constants as parameters, and a loss of its outputs."""

    def __init__(self, method: str, seed: int = 0) -> None:
        self.problem, self.method = problems.load("pollu"), method
        self.names = list(self.problem.parameters)
        self.y0, self.t = torch.as_tensor(self.problem.y0), torch.linspace(0, 60, 7, dtype=D)
        true = torch.tensor([float(self.problem.values[name]) for name in self.names], dtype=D).log()
        self.logs = true.clone().requires_grad_()
        self.data = self.reference()
        self.scale = self.data.abs().amax(dim=0)
        noise = torch.randn(len(true), generator=torch.Generator().manual_seed(seed), dtype=D)
        with torch.no_grad():
            self.logs += 0.3 * noise
        self.optimizer = torch.optim.Adam([self.logs], lr=1e-2)

    def func(self, t: Tensor, y: Tensor) -> Tensor:
        return self.problem.rhs(t, y, dict(zip(self.names, self.logs.exp(), strict=True)))

    def solve(self, **arguments) -> Solution:
        given = {"method": self.method, "rtol": RTOL, "atol": ATOL, "params": [self.logs], **arguments}
        return solve(self.func, self.y0, self.t, **given)

    def reference(self) -> Tensor:
        """The solution at the present parameters, a thousand times as exact."""
        with torch.no_grad():
            return self.solve(method="rosw-rodaspr2", rtol=1e-8, atol=1e-13).y

    def loss(self, solution: Solution) -> Tensor:
        return ((solution.y - self.data) / self.scale).pow(2).mean()

    def timed(self, **arguments) -> tuple[Solution, Tensor, float]:
        """A solve with its gradient: the solution, the loss and seconds."""
        self.optimizer.zero_grad()
        began = time.perf_counter()
        solution = self.solve(**arguments)
        loss = self.loss(solution)
        loss.backward()
        return solution, loss.detach(), time.perf_counter() - began


def distance(solution: Solution, reference: Tensor) -> float:
    """The largest weighted root mean square over the components, of the outputs after the start."""
    scaled = (solution.y.detach() - reference) / (ATOL + RTOL * reference.abs())
    return float(scaled[1:].pow(2).mean(dim=1).sqrt().max())


@dataclass
class Course:
    """A training: of each iteration what it cost and kept; of some the errors of both ways, in tolerances."""

    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    estimate: list[float] = field(default_factory=list)
    rhs_evals: list[int] = field(default_factory=list)
    compared: list[int] = field(default_factory=list)
    kept_error: list[float] = field(default_factory=list)
    adaptive_error: list[float] = field(default_factory=list)
    adaptive_seconds: list[float] = field(default_factory=list)
    adaptive_rhs_evals: list[int] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Errors on kept steps by those of adaptive ones."""
        return [kept / own for kept, own in zip(self.kept_error, self.adaptive_error, strict=True)]

    def summary(self) -> dict[str, float]:
        chosen = sum(1 for reason in self.renewed if reason)
        on_kept = [s for s, reason in zip(self.seconds, self.renewed, strict=True) if not reason]
        mean = sum(self.seconds) / len(self.seconds)
        adaptive = statistics.median(self.adaptive_seconds)
        return {
            "iterations": len(self.loss),
            "times_chosen": chosen,
            "largest_ratio": max(self.ratios),
            "median_ratio": statistics.median(self.ratios),
            "largest_estimate": max(self.estimate),
            "ms_an_iteration": 1e3 * mean,
            "ms_on_kept_steps": 1e3 * statistics.median(on_kept) if on_kept else 0.0,
            "ms_adaptive": 1e3 * adaptive,
            "times_as_fast": adaptive / mean,
        }


def train(iterations: int, compared: int, method: str, renew: int = 25, bound: float = 3.0) -> Course:
    """Train on kept steps; ``compared`` of the iterations are compared with adaptive steps."""
    fit, kept, course = Fit(method), KeptSteps(renew=renew, bound=bound), Course()
    chosen = {round(k * (iterations - 1) / max(1, compared - 1)) for k in range(compared)}
    for iteration in range(iterations):
        if iteration in chosen:
            reference = fit.reference()
            own, _, seconds = fit.timed()
            course.compared.append(iteration)
            course.adaptive_error.append(distance(own, reference))
            course.adaptive_seconds.append(seconds)
            course.adaptive_rhs_evals.append(own.stats.rhs_evals)
        solution, loss, seconds = fit.timed(steps=kept)
        if iteration in chosen:
            course.kept_error.append(distance(solution, reference))
        course.loss.append(float(loss))
        course.seconds.append(seconds)
        course.renewed.append(solution.stats.renewed)
        course.estimate.append(kept.error)
        course.rhs_evals.append(solution.stats.rhs_evals)
        fit.optimizer.step()
    return course


def draw(result: dict, path: Path) -> None:
    """Errors by iteration, and the time of each, for the first case."""
    from matplotlib.figure import Figure

    case = result["cases"][0]
    course = case["course"]
    figure = Figure(figsize=(6, 5), layout="constrained")
    errors, times = figure.subplots(2, sharex=True)
    errors.plot(course["estimate"], color="0.6", lw=1, label="largest estimate of a step (kept)")
    errors.plot(course["compared"], course["kept_error"], "o", ms=4, label="error on kept steps")
    errors.plot(course["compared"], course["adaptive_error"], "x", ms=5, label="error of adaptive steps")
    errors.set(
        ylabel="in tolerances", yscale="log", title=f"POLLU, {case['method']}, steps kept in a training"
    )
    errors.legend(frameon=False, fontsize=8)
    times.plot([1e3 * s for s in course["seconds"]], ".", ms=3, label="kept steps")
    times.plot(
        course["compared"], [1e3 * s for s in course["adaptive_seconds"]], "x", ms=5, label="adaptive steps"
    )
    anew = [i for i, reason in enumerate(course["renewed"]) if reason]
    for number, iteration in enumerate(anew):
        label = "steps chosen anew" if number == 0 else None
        times.axvline(iteration, color="0.85", lw=0.8, zorder=0, label=label)
    times.set(xlabel="iteration", ylabel="ms, forward and backward", yscale="log")
    times.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


CASES = (("bdf3", 25), ("bdf", 25), ("bdf3", 10_000))
"""Method, and solves after which steps are chosen anew; in the last case only the bound has them chosen so.
The first is drawn. ``bdf`` is the default method, of order 5."""

FASTER = 2.0
"""Times as fast as adaptive steps an iteration shall be at least."""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--compared", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cases, bounds = [], []
    for method, renew in CASES:
        course = train(asked.iterations, asked.compared, method, renew)
        summary = course.summary()
        case = {"method": method, "renew": renew, **summary}
        cases.append({**case, "course": asdict(course)})
        of = f"{method}, renewed after {renew}"
        bounds.append(Bound(f"error by that of adaptive steps, {of}", summary["largest_ratio"], 3))
        bounds.append(Bound(f"times as fast, {of}", summary["times_as_fast"], FASTER, at_least=True))
        print(json.dumps(case, indent=1), flush=True)
    found = {
        "command": "python benchmarks/kept_steps.py "
        f"--iterations {asked.iterations} --compared {asked.compared}",
        "machine": machine(),
        "bounds": [each.row() for each in bounds],
        "cases": cases,
    }
    print(*bounds, sep="\n")
    store(found, draw, asked.out, "kept_steps")
