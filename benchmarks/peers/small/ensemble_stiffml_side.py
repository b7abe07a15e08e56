"""stiffml's side of the comparison of ensembles; see ensembles.py, which runs it.

Rates of a sample are components of its state, with the derivative zero.
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version

import torch
from ensemble_systems import START, THRESHOLD, Ensemble
from torch import Tensor
from worker import Run, serve

import stiffml

METHODS = ("bdf3", "bdf5", "rosw-ra34pw2", "rosw-rodaspr2")


def reactions(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y[..., :3].unbind(-1)
    k = y[..., 3:].exp()
    first, second, third = k[..., 0] * a, k[..., 1] * b * c, k[..., 2] * b * b
    slopes = torch.stack([second - first, first - second - third, third], -1)
    return torch.cat([slopes, torch.zeros_like(slopes)], -1)


def main(path: str) -> None:
    torch.set_num_threads(1)
    given = Ensemble.load(path)
    samples = len(given.log_rates)
    start = torch.tensor(START).expand(samples, 3)
    t = torch.tensor(given.t).expand(samples, -1)
    atol = torch.tensor([*THRESHOLD, 1.0, 1.0, 1.0]).expand(samples, 6)

    def run(solver: str, rtol: float, gradient: bool) -> Run:
        y0 = torch.cat([start, torch.tensor(given.log_rates)], -1).requires_grad_(gradient)
        began = time.perf_counter()
        with torch.set_grad_enabled(gradient):
            solution = stiffml.solve(
                reactions, y0, t, batch_dims=1, method=solver, rtol=rtol, atol=rtol * atol, compile=True
            )
            states = solution.y[..., :3]
            if gradient:
                ((states / torch.tensor([1.0, 3e-5, 1.0])) ** 2).mean().backward()
        seconds = time.perf_counter() - began
        found = None if y0.grad is None else {"gradient": y0.grad.numpy()}
        counts = {"accepted": solution.stats.accepted}
        return Run(seconds, states.detach().transpose(0, 1).numpy(), found, counts)

    serve({"versions": {"stiffml": version("stiffml")}, "solvers": list(METHODS)}, run)


if __name__ == "__main__":
    main(sys.argv[1])
