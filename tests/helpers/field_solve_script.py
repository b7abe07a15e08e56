"""Solves fields on the processes it is started on, and writes what process 0 gathers: states and gradients.

mpiexec -n 2 python tests/helpers/field_solve_script.py out.npz [--few]
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor, nn

from stiffml import GMRES, Adaptive, Assembled, Discrete, Fixed, Grid, Krylov, Newton, PointBlock, solve
from stiffml.distributed import Field

SHAPE = (10, 9)  # not divisible evenly
TIGHT = {"rtol": 1e-10, "adjoint_rtol": 1e-13}


class Model(nn.Module):
    """A Brusselator with a convolutional closure, driven in time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 1)).double()
        self.alpha = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def diffusion(self, t: Tensor, ghosted: Tensor) -> Tensor:
        centre = ghosted[:, 1:-1, 1:-1]
        sides = ghosted[:, 2:, 1:-1] + ghosted[:, :-2, 1:-1] + ghosted[:, 1:-1, 2:] + ghosted[:, 1:-1, :-2]
        return self.alpha * 100 * (sides - 4 * centre)

    def forward(self, t: Tensor, ghosted: Tensor) -> Tensor:
        u, v = ghosted[:, 1:-1, 1:-1]
        made = u * u * v
        reaction = torch.stack([1 + made - 4.4 * u, 3.4 * u - made])
        return self.diffusion(t, ghosted) + reaction + 0.1 * torch.cos(t) * self.net(ghosted[None])[0]


def cases(field: Field, model: Model) -> dict[str, dict]:
    """Arguments of a solve, by name."""
    diffusion = field.rhs(model.diffusion)
    none, ilu = GMRES(**TIGHT), GMRES(Assembled(diffusion), **TIGHT)
    gamg = GMRES(Assembled(diffusion, "gamg", constant=True), **TIGHT)
    own = GMRES(Assembled(), **TIGHT)
    fixed, newton = Fixed(0.02), Newton(rtol=1e-13, atol=1e-15)
    adaptive = {"steps": Adaptive(), "rtol": 1e-4, "atol": 1e-6}
    return {
        "bdf3, none": {"method": "bdf3", "steps": fixed, "linear": none, "newton": newton},
        "bdf3, gamg": {"method": "bdf3", "steps": fixed, "linear": gamg, "newton": newton},
        "bdf, adaptive": {"method": "bdf", "linear": own, "newton": newton, **adaptive},
        "cn, ilu": {"method": "cn", "steps": fixed, "linear": ilu, "newton": newton},
        **{
            f"cn, {kind}": {
                "method": "cn",
                "steps": fixed,
                "linear": GMRES(Assembled(diffusion, kind), **TIGHT),
                "newton": newton,
            }
            for kind in ("icc", "lu")
        },
        "cn, point blocks": {
            "method": "cn",
            "steps": fixed,
            "linear": GMRES(PointBlock(), **TIGHT),
            "newton": newton,
        },
        "cn, bcgs, few checkpoints": {
            "method": "cn",
            "steps": fixed,
            "linear": Krylov("bcgs", **TIGHT),
            "newton": newton,
            "adjoint": Discrete(checkpoints=3),
        },
        "cn, own, breakpoint": {
            "method": "cn",
            "steps": Grid(2),
            "linear": own,
            "newton": newton,
            "breakpoints": [0.05],
        },
        "rosw": {"method": "rosw-ra34pw2", "steps": fixed, "linear": own},
        "rosw, adaptive": {"method": "rosw-ra34pw2", "linear": gamg, **adaptive},
        "dirk": {"method": "dirk-es213sal", "steps": fixed, "linear": ilu, "newton": newton},
        "arkimex": {"method": "arkimex-3", "steps": fixed, "linear": none, "newton": newton},
        "dopri5": {"method": "dopri5", "steps": fixed},
        "dopri5, adaptive": {"method": "dopri5", **adaptive},
    }


FEW = ("bdf3, gamg", "cn, ilu", "rosw, adaptive")


class Inflow(nn.Module):
    """Diffusion and decay along a line, fed at its low end: a parameter that one process alone knows of."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.low = field.at_low_edge(0)
        self.rate, self.inflow = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (1.3, 0.7))

    def forward(self, t: Tensor, ghosted: Tensor) -> Tensor:
        inner = ghosted[:, 1:-1]
        slope = self.rate * (ghosted[:, 2:] - 2 * inner + ghosted[:, :-2] - inner**2)
        return slope + self.inflow * torch.eye(1, inner.shape[1], dtype=slope.dtype) if self.low else slope


def until_an_event() -> dict[str, np.ndarray]:
    """A line solved until the sum over it has fallen to a number, with gradients."""
    field = Field((12,), species=1, periodic=False)
    model = Inflow(field)
    func = field.rhs(model)
    y0 = field.create(lambda x: [1 + x]).requires_grad_()
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    newton = Newton(rtol=1e-13, atol=1e-15)
    arguments = {"method": "cn", "steps": Fixed(0.05), "linear": GMRES(**TIGHT), "newton": newton}
    solution = solve(func, y0, t, event=lambda t, y: field.sum(y) - 12.0, **arguments)
    assert solution.event is not None
    loss = solution.event.t + field.sum(solution.event.y**2)
    wrt_y0, *others = torch.autograd.grad(loss, [y0, model.rate, model.inflow])
    whole = {"state": field.gather(solution.event.y), "dL/dy0": field.gather(wrt_y0)}
    if field.rank > 0:
        return {}
    found = {f"event: {what}": value.detach().numpy() for what, value in whole.items()}
    found["event: time"] = solution.event.t.detach().numpy()
    return found | {f"event: dL/d{n}": g.numpy() for n, g in zip(("rate", "inflow"), others, strict=True)}


def main(path: str, few: bool) -> None:
    torch.set_num_threads(1)
    field = Field(SHAPE, species=2, periodic=(True, False))
    model = Model()
    func = field.rhs(model)
    found: dict[str, np.ndarray] = {}
    if field.size > 1:
        chosen = solve(func, field.create(lambda x, y: [1 + x, 2 + y]), torch.tensor([0.0, 0.01]).double())
        assert "ilu of the Jacobian" in chosen.stats.linear, f"chosen was {chosen.stats.linear}"
    for name, arguments in cases(field, model).items():
        if few and name not in FEW:
            continue
        y0 = field.create(lambda x, y: [1 + 0.5 * torch.sin(6.28 * x) * torch.cos(3 * y), 2 + x * y])
        y0.requires_grad_()
        t = torch.tensor([0.0, 0.02, 0.1], dtype=torch.float64, requires_grad=True)
        solution = solve(func, y0, t, **arguments)
        loss = field.sum(solution.y**2)
        inputs = [y0, t, *func.parameters()]
        wrt_y0, *others = torch.autograd.grad(loss, inputs)
        whole = {"states": field.gather(solution.y), "dL/dy0": field.gather(wrt_y0)}
        if field.rank == 0:
            found |= {f"{name}: {what}": value.detach().numpy() for what, value in whole.items()}
            names = ["dL/dt", *(f"dL/d({n})" for n, _ in func.named_parameters())]
            found |= {f"{name}: {n}": g.numpy() for n, g in zip(names, others, strict=True)}
            found[f"{name}: accepted steps"] = np.array(float(solution.stats.accepted))
    found |= until_an_event()
    if field.rank == 0:
        np.savez(path, **found)


if __name__ == "__main__":
    main(sys.argv[1], "--few" in sys.argv)
