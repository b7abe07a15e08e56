"""What steps of every sample's own save: 100 mixtures of hydrogen and air, from 900 to 1 500 K.

    python benchmarks/own_steps.py [--samples 100] [--end 0.01] [--rtol 1e-6] [--repeats 3]

Constant-pressure reactors with the mechanism h2o2.yaml, stoichiometric, at 1 atm. They ignite at different
times. With shared steps all follow the sample that needs the shortest at each moment. Steps of their own are
taken by torch, samples side by side, and in C with ``compile=True``, each sample by itself. Forward runs, and
a gradient with respect to the initial states, in one process on one thread, in CPU time; for steps of their
own the smallest of the repeats, for shared ones a single time. Errors are those of the final temperatures,
against rtol = 1e-9.

Writes benchmarks/results/own_steps.json and own_steps.png.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from measuring import RESULTS, Bound, machine, store

SHARE = {"own": 1 / 3, "compiled": 1 / 20}
"""Of the time with shared steps in torch, what steps of every sample's own may take."""


def run(samples: int, end: float, rtol: float, repeats: int) -> dict:
    """What is to be written to the JSON file."""
    import torch

    import stiffml
    from problems.chemistry import ConstantPressureReactor, Mechanism

    torch.set_num_threads(1)
    mechanism = Mechanism.from_yaml("h2o2.yaml")
    reactor = ConstantPressureReactor(mechanism)
    moles = {"H2": 2.0, "O2": 1.0, "N2": 3.76}
    fractions = torch.tensor([moles.get(name, 0.0) for name in mechanism.species], dtype=torch.float64)
    fractions = fractions * mechanism.molecular_weights.reshape(-1)
    fractions = fractions / fractions.sum()
    temperatures = torch.linspace(900.0, 1500.0, samples, dtype=torch.float64)
    y0 = torch.stack([reactor.state(float(T), fractions) for T in temperatures]).detach()
    shared = torch.tensor([0.0, end], dtype=torch.float64)
    own = shared.expand(samples, 2)
    for parameter in reactor.parameters():
        parameter.requires_grad_(False)

    def solve(t: torch.Tensor, rtol: float, compiled: bool) -> tuple[stiffml.Solution, float, float]:
        start = y0.clone().requires_grad_()
        began = time.process_time()
        solution = stiffml.solve(
            reactor, start, t, batch_dims=1, rtol=rtol, atol=1e-3 * rtol, compile=compiled
        )
        middle = time.process_time()
        solution.y[-1, :, 0].sum().backward()
        return solution, middle - began, time.process_time() - middle

    exact = solve(own, 1e-9, True)[0].y[-1, :, 0].detach()
    found = {}
    for name, t in (("compiled", own), ("own", own), ("shared", shared)):
        runs = [solve(t, rtol, name == "compiled") for _ in range(1 if name == "shared" else repeats)]
        solution = runs[0][0]
        off = (solution.y[-1, :, 0].detach() - exact).abs()
        steps = solution.steps if isinstance(solution.steps, tuple) else (solution.steps,)
        found[name] = {
            "forward_s": min(forward for _, forward, _ in runs),
            "backward_s": min(backward for _, _, backward in runs),
            "steps": [sum(map(len, one.ends)) for one in steps],
            "rejected": solution.stats.rejected,
            "in_c": solution.stats.in_c,
            "rhs_evals": solution.stats.rhs_evals,
            "jacobians": solution.stats.jacobians,
            "largest_error_K": float(off.max()),
            "median_error_K": float(off.median()),
        }
        print(name, {k: v for k, v in found[name].items() if k != "steps"}, flush=True)
    bounds = []
    for kind, share in SHARE.items():
        whole = ratio(found, kind, "forward_s", "backward_s")
        bounds += [
            Bound(f"forward time, {kind} steps relative to shared", ratio(found, kind, "forward_s"), share),
            Bound(f"time with gradient, {kind} steps relative to shared", whole, share),
        ]
    for bound in bounds:
        print(bound, flush=True)
    return {
        "command": f"python benchmarks/own_steps.py --samples {samples} --end {end} --rtol {rtol:g} "
        f"--repeats {repeats}",
        "machine": machine(),
        "bounds": [bound.row() for bound in bounds],
        "temperatures": temperatures.tolist(),
        **found,
    }


def ratio(found: dict, kind: str, *names: str) -> float:
    own, shared = (sum(found[kind][name] for name in names) for kind in (kind, "shared"))
    return own / shared


def draw(result: dict, path: Path) -> None:
    """Steps by initial temperature, and times."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    left.plot(result["temperatures"], result["own"]["steps"], ".", color="tab:blue", label="its own")
    left.axhline(result["shared"]["steps"][0], color="tab:orange", label="shared by all")
    left.set(xlabel="initial temperature [K]", ylabel="steps of a sample", yscale="log")
    left.grid(alpha=0.25, which="both")
    left.legend(frameon=False)
    kinds = ("compiled", "own", "shared")
    forward = [result[kind]["forward_s"] for kind in kinds]
    backward = [result[kind]["backward_s"] for kind in kinds]
    both = [a + b for a, b in zip(forward, backward, strict=True)]
    right.bar(kinds, both, color="tab:green", label="with gradient")
    right.bar(kinds, forward, color="tab:blue", label="forward")
    right.set(ylabel="CPU time [s]", yscale="log")
    right.legend(frameon=False)
    figure.suptitle(f"{len(result['temperatures'])} mixtures of hydrogen and air, bdf")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--end", type=float, default=0.01)
    parser.add_argument("--rtol", type=float, default=1e-6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    store(run(asked.samples, asked.end, asked.rtol, asked.repeats), draw, asked.out, "own_steps")
