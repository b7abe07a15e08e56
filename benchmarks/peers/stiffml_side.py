"""stiffml's side of the comparison; see brusselator.py, which runs it."""

from __future__ import annotations

import sys
import time

import torch
from definition import WEIGHTS, Definition
from torch import Tensor, nn
from worker import Run, serve

import stiffml
from problems.stencils import laplacian
from stiffml import GMRES, Assembled, Split, solve


class Brusselator(nn.Module):
    """The right-hand side, with the closure's weights as parameters."""

    def __init__(self, definition: Definition) -> None:
        super().__init__()
        self.alpha, self.B = definition.alpha, definition.B
        for name, value in definition.weights.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(value)))

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return self.alpha * y.shape[-1] ** 2 * laplacian(y)

    def reaction(self, t: Tensor, y: Tensor) -> Tensor:
        u, v = y[..., :1, :, :], y[..., 1:, :, :]
        made = u * u * v
        hidden = torch.tanh(self.W1 @ y.flatten(-2) + self.b1[:, None])
        closure = (self.W2 @ hidden + self.b2[:, None]).reshape(y.shape)
        return torch.cat([1 + made - (self.B + 1) * u, self.B * u - made], dim=-3) + closure

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.diffusion(t, y) + self.reaction(t, y)


class Parts(Split):
    """The diffusion implicit, the reaction and the closure explicit."""

    def __init__(self, model: Brusselator) -> None:
        super().__init__(model.diffusion, model.reaction, linear=True)
        self.model = model  # whose parameters become those of this module


SOLVERS = {
    "bdf3": ("bdf3", False),
    "bdf5": ("bdf5", False),
    "arkimex-4": ("arkimex-4", False),
    "arkimex-5": ("arkimex-5", False),
    "arkimex-4, split": ("arkimex-4", True),
    "arkimex-5, split": ("arkimex-5", True),
}
"""The method, and whether the right-hand side is split."""


def linear_solver(model: Brusselator, split: bool) -> dict[str, object]:
    """GMRES, for which only the diffusion is assembled; where no more is implicit, its sparse factors, which
    serve as long as the step is the same."""
    if split:
        return {"jacobian": "coloured"}
    return {"linear": GMRES(Assembled(model.diffusion, "ilu", constant=True))}


def main(path: str) -> None:
    definition = Definition.load(path)
    model = Brusselator(definition)
    parts = Parts(model)
    y0, t = torch.tensor(definition.y0), torch.tensor([0.0, definition.t_end], dtype=torch.float64)

    def run(solver: str, rtol: float, gradient: bool) -> Run:
        method, split = SOLVERS[solver]
        start = y0.clone().requires_grad_(gradient)
        model.zero_grad()
        began = time.perf_counter()
        with torch.set_grad_enabled(gradient):
            solution = solve(
                parts if split else model,
                start,
                t,
                method=method,
                rtol=rtol,
                atol=rtol,
                **linear_solver(model, split),
            )
            state = solution.y[-1]
            if gradient:
                (state**2).mean().backward()
        seconds = time.perf_counter() - began
        found = {name: getattr(model, name).grad.numpy() for name in WEIGHTS} if gradient else {}
        if gradient:
            found["y0"] = start.grad.numpy()
        counts = ("accepted", "rejected", "rhs_evals", "jacobians", "newton_iterations", "krylov_iterations")
        stats = {name: getattr(solution.stats, name) for name in counts}
        return Run(seconds, state.detach().numpy(), found or None, stats)

    torch.set_num_threads(1)
    about = {
        "versions": {"stiffml": stiffml.__version__, "torch": torch.__version__},
        "solvers": list(SOLVERS),
        "rhs": model(t[0], y0).detach().flatten().tolist(),
    }
    serve(about, run)


if __name__ == "__main__":
    main(sys.argv[1])
