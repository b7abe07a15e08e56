"""stiffml's side of the comparison on small systems; see compare.py, which runs it."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version

import torch
from systems import System, load
from torch import Tensor, nn
from worker import Run, serve

import stiffml

METHODS = ("bdf3", "bdf5", "rosw-ra34pw2", "rosw-rodaspr2", "dirk-es648sa")


class Model(nn.Module):
    """The right-hand side, with its constants as a parameter."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.rhs, self.p = system.rhs, nn.Parameter(torch.tensor(system.p))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.stack(self.rhs(t, y.unbind(-1), self.p.unbind()), dim=-1)


def main(path: str) -> None:
    torch.set_num_threads(1)
    system, scale = load(path)
    model = Model(system)
    y0, t, threshold = (torch.tensor(v) for v in (system.y0, system.t, system.threshold))
    weights = torch.tensor(1 / scale)

    def run(solver: str, rtol: float, gradient: bool) -> Run:
        start = y0.clone().requires_grad_(gradient)
        model.zero_grad()
        began = time.perf_counter()
        with torch.set_grad_enabled(gradient):
            solution = stiffml.solve(
                model, start, t, method=solver, rtol=rtol, atol=rtol * threshold, compile=True
            )
            if gradient:
                ((solution.y * weights) ** 2).mean().backward()
        seconds = time.perf_counter() - began
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
