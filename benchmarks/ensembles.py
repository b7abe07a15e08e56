"""Ensembles of Robertson's reaction, each sample with rates and steps of its own, in C.

    python benchmarks/ensembles.py [--samples 10 100 1000] [--threads 1] [--repeats 5]

The three rates of a sample are its own, spread by a factor of two either way: their logarithms are components
of its state with the derivative zero, so that matrices are 6 x 6. To t = 100 with 40 outputs and to t = 1e5
with 50, rtol = 1e-6, atol = 1e-9; forward, and the gradient of a sum of squares by the initial states, rates
included, and by a shift of all rates. CPU time, the smallest of the repeats, with all that a solve does;
``in_c_ms`` is the part of it in which C takes steps.

Writes benchmarks/results/ensembles.json and ensembles.png.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from unittest.mock import patch

import torch
from measuring import RESULTS, machine, store
from torch import Tensor, nn

import stiffml
from stiffml.native.compiled_run import samples as in_c
from stiffml.native.compiled_run.runs import Runs

SPANS = {"100": (1e2, 40), "1e5": (1e5, 50)}
METHODS = ("rosw-rodaspr2", "bdf")


class Reactions(nn.Module):
    """Robertson's reaction; the state of a sample is its three species and the logarithms of its rates."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y[..., :3].unbind(-1)
        k = torch.exp(y[..., 3:] + self.shift)
        first, second, third = k[..., 0] * a, k[..., 1] * b * b, k[..., 2] * b * c
        slopes = torch.stack([third - first, first - second - third, second], -1)
        return torch.cat([slopes, torch.zeros_like(y[..., 3:])], -1)


def starts(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rates = torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64).log()
    spread = torch.log(torch.tensor(2.0)) * (2 * torch.rand(count, 3, generator=generator) - 1).double()
    first = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(count, 3)
    return torch.cat([first, rates + spread], -1)


def times(end: float, outputs: int) -> Tensor:
    return torch.cat([torch.zeros(1), torch.logspace(-3, 0, outputs)]).double() * end


def ensemble(count: int, span: str, method: str, repeats: int) -> dict:
    func, t = Reactions(), times(*SPANS[span]).expand(count, -1)
    y0, taken = starts(count).requires_grad_(), list[float]()

    def timed(*given) -> Runs:
        began = time.process_time()
        found = Runs(*given)
        taken.append(time.process_time() - began)
        return found

    forward, backward = [], []
    with patch.object(in_c, "Runs", timed):
        for _ in range(repeats + 1):
            began = time.process_time()
            solution = stiffml.solve(
                func, y0, t, batch_dims=1, method=method, rtol=1e-6, atol=1e-9, compile=True
            )
            middle = time.process_time()
            torch.autograd.grad(solution.y[..., :3].square().sum(), [y0, func.shift])
            forward.append(middle - began)
            backward.append(time.process_time() - middle)
    stats = solution.stats
    assert stats.in_c == stats.accepted
    return {
        "samples": count,
        "end": span,
        "method": method,
        "steps": stats.accepted,
        "forward_ms": 1e3 * min(forward[1:]),
        "backward_ms": 1e3 * min(backward[1:]),
        "in_c_ms": 1e3 * min(taken[1:]),
        "us_per_step": 1e6 * min(taken[1:]) / stats.accepted,
    }


def draw(result: dict, path: Path) -> None:
    """Times by the number of samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, len(SPANS), sharey=True)
    for ax, span in zip(axes, SPANS, strict=True):
        for method, colour in zip(METHODS, ("tab:blue", "tab:orange"), strict=True):
            rows = [r for r in result["ensembles"] if r["end"] == span and r["method"] == method]
            counts = [r["samples"] for r in rows]
            ax.loglog(counts, [r["forward_ms"] for r in rows], "o-", color=colour, label=f"{method}, forward")
            ax.loglog(counts, [r["backward_ms"] for r in rows], "s--", color=colour, label="gradient")
        ax.set(xlabel="samples", title=f"to t = {span}")
        ax.grid(alpha=0.25, which="both")
    axes[0].set(ylabel="CPU time [ms]")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    result = {
        "command": f"python benchmarks/ensembles.py --threads {asked.threads} --repeats {asked.repeats}",
        "machine": machine(),
        "ensembles": [
            ensemble(count, span, method, asked.repeats)
            for span in SPANS
            for method in METHODS
            for count in asked.samples
        ],
    }
    for row in result["ensembles"]:
        print(row, flush=True)
    store(result, draw, asked.out, "ensembles")


if __name__ == "__main__":
    main()
