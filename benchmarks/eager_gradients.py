"""Gradients of small stiff systems whose function is not compiled.

    python benchmarks/eager_gradients.py [--repeats 5] [--limit 60] [--methods NAME …] [--systems …]

- share: the backward pass of every stiff method with adaptive steps, relative to its forward pass, on
  Robertson's reaction and HIRES at rtol = 1e-4. Medians of CPU time.
- adjoint: torchdiffeq's implicit methods, scipy's Radau and BDF with `odeint_adjoint`, and stiffml, on
  Robertson's reaction to 100 s, HIRES and van der Pol's oscillator. Each solver runs at several tolerances;
  what counts is its fastest gradient with an error of at most 1e-2, relative to the largest entry, forward
  pass included. The reference is stiffml's gradient by bdf5 at rtol = 1e-10. Each of torchdiffeq's runs has a
  process of its own, which is ended after so many seconds (``--limit``): its time is then more than that.

Both differentiate the mean of the squares of the states at 20 outputs, each component divided by its largest
size, by the initial state and by factors on all components of f.

Writes benchmarks/results/eager_gradients.json and eager_gradients.png.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measuring import RESULTS, Bound, machine, store
from torch import Tensor, nn

import problems
from stiffml import METHODS, SolveError, solve
from stiffml.methods import resolve

OUTPUTS = 20
ENDS = {"robertson": 100.0, "hires": 321.8122, "vanderpol": 2.0}
SHARES = ("robertson", "hires")
RTOL = 1e-4
TARGET = 1e-2
OURS = ("bdf5", "rosw-rodaspr2")
THEIRS = ("Radau", "BDF")
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
THEIR_TOLERANCES = (1e-4, 1e-6)


class Scaled(nn.Module):
    """A problem whose slopes have factors to be differentiated by."""

    def __init__(self, name: str) -> None:
        super().__init__()
        problem = problems.load(name)
        self._func, self.y0 = problem.func(), problem.initial_state()
        self.threshold = torch.as_tensor(problem.atol(1.0), dtype=torch.float64).expand(self.y0.shape)
        self.factors = nn.Parameter(torch.ones_like(self.y0))
        self.t = torch.linspace(0.0, ENDS[name], OUTPUTS + 1, dtype=torch.float64)
        if name == "robertson":
            self.t = torch.cat([self.t[:1], torch.logspace(-5, 2, OUTPUTS, dtype=torch.float64)])

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.factors * self._func(t, y)


@dataclass
class Found:
    """CPU seconds forward and backward, and the gradient (n + factors,)."""

    forward: float
    backward: float
    gradient: np.ndarray

    @property
    def seconds(self) -> float:
        return self.forward + self.backward


def differentiated(model: Scaled, integrate, scale: Tensor | None) -> Found:
    """``integrate``: from y0 to the states (outputs, n)."""
    model.zero_grad()
    y0 = model.y0.clone().requires_grad_()
    began = time.process_time()
    y = integrate(y0)
    middle = time.process_time()
    size = y.detach().abs().amax(0) if scale is None else scale
    (y / size.clamp_min(1e-300)).square().mean().backward()
    ended = time.process_time()
    assert y0.grad is not None
    assert model.factors.grad is not None
    gradient = torch.cat([y0.grad, model.factors.grad]).numpy()
    return Found(middle - began, ended - middle, gradient)


def ours(model: Scaled, method: str, rtol: float, scale: Tensor | None = None) -> Found:
    def integrate(y0: Tensor) -> Tensor:
        return solve(model, y0, model.t, method=method, rtol=rtol, atol=rtol * model.threshold).y

    return differentiated(model, integrate, scale)


def theirs(model: Scaled, solver: str, rtol: float, scale: Tensor) -> Found:
    from torchdiffeq import odeint_adjoint

    def integrate(y0: Tensor) -> Tensor:
        atol = rtol * float(model.threshold.min())
        options = {"solver": solver}
        return odeint_adjoint(
            model, y0, model.t, rtol=rtol, atol=atol, method="scipy_solver", options=options
        )

    with warnings.catch_warnings(action="ignore"):
        return differentiated(model, integrate, scale)


def median(runs: list[Found]) -> Found:
    return Found(
        statistics.median(run.forward for run in runs),
        statistics.median(run.backward for run in runs),
        runs[0].gradient,
    )


def shares(name: str, methods: Sequence[str], repeats: int) -> list[dict]:
    """A row for each stiff method."""
    model, rows = Scaled(name), []
    for method in methods:
        known = resolve(method)
        if not (known.implicit and known.adaptive and known.whole) or known.exponential:
            continue
        try:
            ours(model, method, RTOL)
        except SolveError as error:
            rows.append({"system": name, "method": method, "failure": str(error)})
            continue
        found = median([ours(model, method, RTOL) for _ in range(repeats + 1)][1:])
        rows.append(
            {
                "system": name,
                "method": method,
                "forward_ms": 1e3 * found.forward,
                "backward_ms": 1e3 * found.backward,
                "share": found.backward / found.forward,
            }
        )
        print(rows[-1], flush=True)
    return rows


def compared(name: str, repeats: int, limit: float) -> dict:
    """The fastest accurate gradients of stiffml and of torchdiffeq."""
    model = Scaled(name)
    with torch.no_grad():
        scale = solve(model, model.y0, model.t, rtol=1e-9, atol=1e-9 * model.threshold).y.abs().amax(0)
    sizes = torch.cat([torch.maximum(model.y0.abs(), model.threshold), torch.ones_like(scale)]).numpy()
    wanted = ours(model, "bdf5", 1e-10, scale).gradient * sizes

    def error(gradient: np.ndarray) -> float:
        return float(np.abs(gradient * sizes - wanted).max() / np.abs(wanted).max())

    mine = []
    for method in OURS:
        for rtol in TOLERANCES:
            found = median([ours(model, method, rtol, scale) for _ in range(repeats + 1)][1:])
            mine.append({"method": method, "rtol": rtol, "s": found.seconds, "error": error(found.gradient)})
    peers = []
    for solver in THEIRS:
        for rtol in THEIR_TOLERANCES:
            row: dict = {"method": solver, "rtol": rtol}
            answer = alone(name, solver, rtol, scale, limit)
            if "gradient" in answer:
                row |= {"s": answer["s"], "error": error(np.array(answer["gradient"]))}
            else:
                row |= answer
            peers.append(row)
            print(name, row, flush=True)
    best = min((row for row in mine if row["error"] <= TARGET), key=lambda row: row["s"])
    # A run that was ended would have taken longer still; one that failed has no gradient.
    times = [row["s"] for row in peers if row.get("error", np.inf) <= TARGET]
    times += [row["after_s"] for row in peers if row.get("ended")]
    ratio = min(times) / best["s"] if times else None
    return {"system": name, "stiffml": mine, "torchdiffeq": peers, "ratio_at_least": ratio}


def alone(name: str, solver: str, rtol: float, scale: Tensor, limit: float) -> dict:
    """What a process says that makes one run of torchdiffeq's; why not, if it fails or takes too long."""
    asked = json.dumps({"name": name, "solver": solver, "rtol": rtol, "scale": scale.tolist()})
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--one", asked],
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failure": f"not done after {limit:g} s", "after_s": limit, "ended": True}
    if done.returncode:
        return {"failure": done.stderr.strip().splitlines()[-1][:200], "after_s": limit}
    return json.loads(done.stdout.splitlines()[-1])


def one(asked: dict) -> dict:
    """A run of torchdiffeq's, or its error with the CPU time until then."""
    model, began = Scaled(asked["name"]), time.process_time()
    try:
        found = theirs(model, asked["solver"], asked["rtol"], torch.tensor(asked["scale"]).double())
    except (ValueError, RuntimeError, ArithmeticError, AssertionError) as error:
        return {"failure": f"{type(error).__name__}: {error}", "after_s": time.process_time() - began}
    return {"s": found.seconds, "gradient": found.gradient.tolist()}


def draw(result: dict, path: Path) -> None:
    """Shares of the backward pass, and times of gradients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    for system, colour in zip(SHARES, ("tab:blue", "tab:orange"), strict=True):
        rows = [row for row in result["cases"] if row["system"] == system and "share" in row]
        names = [row["method"] for row in rows]
        left.plot(names, [row["share"] for row in rows], "o", color=colour, label=system, markersize=4)
    left.axhline(0.25, color="black", linestyle=":", linewidth=1)
    left.tick_params(axis="x", rotation=90, labelsize=6)
    left.set(title="backward pass / forward pass", ylim=(0, None))
    left.legend(frameon=False)
    for k, found in enumerate(result["adjoint"]):
        best = min((row for row in found["stiffml"] if row["error"] <= TARGET), key=lambda row: row["s"])
        right.plot([k], [best["s"]], "o", color="tab:blue", label="stiffml" if not k else None)
        for row in found["torchdiffeq"]:
            failed = "failure" in row
            seconds = row.get("s", row.get("after_s"))
            right.plot([k], [seconds], "x" if failed else "s", color="tab:red", fillstyle="none")
    right.plot([], [], "s", color="tab:red", fillstyle="none", label="torchdiffeq, scipy's methods")
    right.plot([], [], "x", color="tab:red", label="the same: failed, or ended")
    right.set(yscale="log", title="gradient [s of CPU]", xlim=(-0.5, len(result["adjoint"]) - 0.5))
    right.set_xticks(range(len(result["adjoint"])), [found["system"] for found in result["adjoint"]])
    right.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--systems", nargs="+", default=list(ENDS), choices=list(ENDS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if asked.one:
        print(json.dumps(one(json.loads(asked.one))))
        return
    cases = [row for name in SHARES for row in shares(name, asked.methods, asked.repeats)]
    adjoint = [compared(name, asked.repeats, asked.limit) for name in asked.systems]
    bounds = [
        Bound("backward / forward, the largest", max(row["share"] for row in cases if "share" in row), 0.25)
    ]
    bounds += [
        Bound(
            f"{found['system']}: torchdiffeq's time by stiffml's", found["ratio_at_least"], 10, at_least=True
        )
        for found in adjoint
        if found["ratio_at_least"] is not None
    ]
    result = {
        "command": shlex.join(["python", "benchmarks/eager_gradients.py", *(arguments or sys.argv[1:])]),
        "machine": machine(),
        "cases": cases,
        "adjoint": adjoint,
        "bounds": [bound.row() for bound in bounds],
    }
    for bound in bounds:
        print(bound)
    store(result, draw, asked.out, "eager_gradients")


if __name__ == "__main__":
    main()
