"""stiffml's side of the comparison on small systems; see compare.py, which runs it."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version

import torch
from systems import load
from torch_model import model_of
from worker import Run, serve

import stiffml

METHODS = ("bdf3", "bdf5", "rosw-ra34pw2", "rosw-rodaspr2", "dirk-es648sa")


def main(path: str) -> None:
    torch.set_num_threads(1)
    system, scale, compiled = load(path)
    model = model_of(system)
    y0, t, threshold = (torch.tensor(v) for v in (system.y0, system.t, system.threshold))
    weights = torch.tensor(1 / scale)

    def run(solver: str, rtol: float, gradient: bool) -> Run:
        start = y0.clone().requires_grad_(gradient)
        model.zero_grad()
        began = time.process_time()
        with torch.set_grad_enabled(gradient):
            solution = stiffml.solve(
                model, start, t, method=solver, rtol=rtol, atol=rtol * threshold, compile=compiled
            )
            if gradient:
                ((solution.y * weights) ** 2).mean().backward()
        seconds = time.process_time() - began
        found = None
        if gradient:
            assert start.grad is not None
            assert model.p.grad is not None
            found = {"gradient": torch.cat([start.grad, model.p.grad]).numpy()}
        counts = {"accepted": solution.stats.accepted, "rejected": solution.stats.rejected}
        return Run(seconds, solution.y.detach().numpy(), found, counts)

    about = {
        "versions": {"stiffml": version("stiffml"), "torch": torch.__version__},
        "solvers": list(METHODS),
        "rhs": model(t[0], y0).detach().tolist(),
    }
    serve(about, run)


if __name__ == "__main__":
    main(sys.argv[1])
