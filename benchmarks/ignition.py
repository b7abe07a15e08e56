"""Methane that ignites in air by GRI-Mech: 53 species, 325 reactions, at constant pressure.

    python benchmarks/ignition.py [--repeats 5]

1 500 K, 1 atm, a stoichiometric mixture, to 10 ms, with 20 outputs. stiffml's functions are compiled; Cantera
integrates with CVODES. Each runs at several tolerances, atol = 1e-6 of rtol (stiffml's of temperature: rtol).
The error is the largest at an output, relative to the largest size of the component, where that is more than
1e-9; the reference is Cantera's at rtol = 1e-12. Forward times are compared at the cheapest tolerance with an
error of at most 1e-3. The gradient is that of the mean temperature by the logarithms of all pre-exponential
factors. Medians of CPU time on one thread, in turns. ``first_s`` is the time of the first solve with its
gradient, most of which is compiling, unless code is kept on disk from before.

Writes benchmarks/results/ignition.json and ignition.png. Needs ``pip install '.[chemistry,compile]'``.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cantera
import numpy as np
import torch
from measuring import RESULTS, Bound, machine, store

from problems.chemistry import ONE_ATMOSPHERE, ConstantPressureReactor, Mechanism
from stiffml import solve

TEMPERATURE, END, OUTPUTS = 1500.0, 1e-2, 20
METHODS = ("bdf", "bdf5", "rosw-rodaspr2")
TOLERANCES = [10 ** (-k / 2) for k in range(6, 19)]
TARGET = 1e-3
MINOR = 1e-9
ATOL = 1e-6


@dataclass
class Case:
    """A tool at a tolerance. ``run`` returns the states (outputs, 54), and CPU seconds forward and back."""

    tool: str
    rtol: float
    run: Callable[[], tuple[np.ndarray, float, float]]
    error: float = 0.0
    times: list[tuple[float, float]] = field(default_factory=list)

    def row(self) -> dict:
        forward, backward = (statistics.median(column) for column in zip(*self.times, strict=True))
        return {
            "tool": self.tool,
            "rtol": self.rtol,
            "error": self.error,
            "forward_ms": 1e3 * forward,
            "backward_ms": 1e3 * backward,
        }


class Ignition:
    """The reactor on both sides."""

    def __init__(self) -> None:
        self.mechanism = Mechanism.from_yaml("gri30.yaml")
        self.mechanism.log_A.requires_grad_()
        self.reactor = ConstantPressureReactor(self.mechanism, pressure=ONE_ATMOSPHERE)
        fractions = self.mechanism.premixed(1.0, "CH4", "O2:1, N2:3.76")
        self.y0 = self.reactor.state(TEMPERATURE, fractions)
        self.t = torch.linspace(0.0, END, OUTPUTS + 1, dtype=torch.float64)
        self.gas = cantera.Solution("gri30.yaml")

    def ours(self, method: str, rtol: float) -> tuple[np.ndarray, float, float]:
        atol = torch.full_like(self.y0, ATOL * rtol)
        atol[0] = rtol
        self.mechanism.log_A.grad = None
        began = time.process_time()
        with torch.no_grad():
            states = solve(self.reactor, self.y0, self.t, method=method, rtol=rtol, atol=atol, compile=True).y
        ended = time.process_time()
        again = solve(self.reactor, self.y0, self.t, method=method, rtol=rtol, atol=atol, compile=True).y
        middle = time.process_time()
        again[:, 0].mean().backward()
        return states.numpy(), ended - began, time.process_time() - middle

    def canteras(self, rtol: float) -> tuple[np.ndarray, float, float]:
        self.gas.TP = TEMPERATURE, ONE_ATMOSPHERE
        self.gas.set_equivalence_ratio(1.0, "CH4", "O2:1, N2:3.76")
        began = time.process_time()
        reactor = cantera.IdealGasConstPressureReactor(self.gas)
        network = cantera.ReactorNet([reactor])
        network.rtol, network.atol = rtol, ATOL * rtol
        states = [np.concatenate([[reactor.T], reactor.thermo.Y])]
        for t in self.t[1:].tolist():
            network.advance(t)
            states.append(np.concatenate([[reactor.T], reactor.thermo.Y]))
        return np.array(states), time.process_time() - began, 0.0


def measured(repeats: int) -> tuple[list[dict], float]:
    ignition = Ignition()
    reference, *_ = ignition.canteras(1e-12)
    scale = np.abs(reference).max(axis=0)
    matter = scale > MINOR
    began = time.process_time()
    ignition.ours("rosw-rodaspr2", 1e-4)
    first = time.process_time() - began
    cases = [
        Case("Cantera", rtol, lambda rtol=rtol: ignition.canteras(rtol))  # type: ignore[misc]
        for rtol in TOLERANCES
    ]
    cases += [
        Case(method, rtol, lambda method=method, rtol=rtol: ignition.ours(method, rtol))  # type: ignore[misc]
        for method in METHODS
        for rtol in TOLERANCES
    ]
    for case in cases:
        states, *_ = case.run()
        case.error = float((np.abs(states - reference)[:, matter] / scale[matter]).max())
    kept = [case for case in cases if 1e-6 <= case.error <= 1e-1]
    for turn in range(repeats):
        for case in kept:
            _, forward, backward = case.run()
            case.times.append((forward, backward))
        print(f"turn {turn + 1} of {repeats}", flush=True)
    return [case.row() for case in kept], first


def draw(result: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for tool, colour in zip(
        ("Cantera", *METHODS), ("black", "tab:blue", "tab:orange", "tab:green"), strict=True
    ):
        rows = [row for row in result["cases"] if row["tool"] == tool]
        errors = [row["error"] for row in rows]
        left.loglog(errors, [row["forward_ms"] for row in rows], "o-", color=colour, label=tool, markersize=4)
        if tool != "Cantera":
            share = [row["backward_ms"] / row["forward_ms"] for row in rows]
            right.semilogx(errors, share, "o-", color=colour, label=tool, markersize=4)
    left.axvline(TARGET, color="gray", linestyle=":")
    left.set(title="forward", xlabel="achieved error", ylabel="ms of CPU")
    right.axhline(1, color="gray", linestyle=":")
    right.set(title="backward pass / forward pass", xlabel="achieved error", ylim=(0, None))
    for ax in (left, right):
        ax.invert_xaxis()
        ax.grid(alpha=0.25, which="both")
        ax.legend(frameon=False)
    figure.suptitle("Methane ignites in air, GRI-Mech 3.0: 54 components, 325 rate constants")
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cases, first = measured(asked.repeats)

    def best(tool: str) -> dict:
        accurate = [row for row in cases if row["tool"] == tool and row["error"] <= TARGET]
        return min(accurate, key=lambda row: row["forward_ms"])

    fastest = min(map(best, METHODS), key=lambda row: row["forward_ms"])
    ratio = fastest["forward_ms"] / best("Cantera")["forward_ms"]
    bounds = [Bound(f"forward, by {fastest['tool']}: stiffml's time by Cantera's", ratio, 10)]
    bounds += [
        Bound(f"{tool}: backward / forward", best(tool)["backward_ms"] / best(tool)["forward_ms"], 1)
        for tool in METHODS
    ]
    for bound in bounds:
        print(bound)
    result = {
        "command": shlex.join(["python", "benchmarks/ignition.py", *(arguments or sys.argv[1:])]),
        "machine": {**machine(), "cantera": cantera.__version__},
        "target": TARGET,
        "first_s": first,
        "bounds": [bound.row() for bound in bounds],
        "cases": cases,
    }
    store(result, draw, asked.out, "ignition")


if __name__ == "__main__":
    main()
