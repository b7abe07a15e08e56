"""Small problems in the forms that methods take: whole, split, with a linear part, differential-algebraic."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stiffml import METHODS, Newton, Solution, Split, solve

NEWTON = Newton(rtol=1e-13, atol=1e-16)


def numbers(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


class Whole(nn.Module):
    """A stiff and a slow component, coupled and driven; not autonomous."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = numbers(12.0, 0.8)
        self.drive = numbers(0.7)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b = y[..., :1], y[..., 1:]
        forced = self.drive * torch.sin(3 * t)
        return torch.cat([-self.rates[0] * (a - b**2) + forced, -self.rates[1] * b * a - 0.2 * b], dim=-1)


class Part(nn.Module):
    """One part of a split; ``shared`` is a parameter of both."""

    def __init__(self, shared: nn.Parameter, own: float, stiff: bool) -> None:
        super().__init__()
        self.shared, self.own, self.stiff = shared, numbers(own), stiff

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        if self.stiff:
            return -self.own * (y - self.shared * torch.cos(t)) - y**3
        return self.own * torch.sin(y.flip(-1) + t) + self.shared * y**2


class Linear(nn.Module):
    """The linear part of a split, with eigenvalues near −15 and −2; ``shared`` is a parameter of both."""

    def __init__(self, shared: nn.Parameter) -> None:
        super().__init__()
        self.shared, self.rates = shared, numbers(15.0, 2.0)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.shared * y.flip(-1) - self.rates * y


class Algebraic(nn.Module):
    """Two differential equations and one for the algebraic variable z, with a parameter in each."""

    def __init__(self) -> None:
        super().__init__()
        self.k = numbers(2.0, 1.5, 0.7)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        (a, b, z), k = y.split(1, dim=-1), self.k
        slopes = [-k[0] * a + z * b, torch.sin(t) - k[1] * b * z, z + z**3 / 3 - k[2] * a * b]
        return torch.cat(slopes, dim=-1)


class Case:
    """A problem in one of the forms, and the loss that is differentiated."""

    def __init__(self, form: str, outputs: Tensor) -> None:
        self.form, self.t = form, outputs.clone().requires_grad_()
        self.options: dict[str, object] = {}
        self.mass: list[Tensor] = []
        if form == "ode":
            self.func: nn.Module = Whole()
        elif form == "split":
            shared = numbers(0.4)
            self.func = Split(Part(shared, 15.0, True), Part(shared, 0.6, False))
        elif form == "linear":
            shared = numbers(0.4)
            self.func = Split(Linear(shared), Part(shared, 0.6, False), linear=True)
        else:
            self.func = Algebraic()
            mass = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
            self.mass = [mass]
            self.options = {"mass": mass, "make_consistent": True}
        start = [0.9, 0.6] if form != "dae" else [0.9, 0.6, 0.3]
        self.y0 = torch.tensor(start, dtype=torch.float64, requires_grad=True)

    def solve(self, method: str, steps, **arguments) -> Solution:
        if METHODS[method].newton:
            arguments["newton"] = NEWTON
        return solve(self.func, self.y0, self.t, method=method, steps=steps, **self.options, **arguments)

    def loss(self, solution: Solution) -> Tensor:
        """Of all outputs, that at the start included, with different weights."""
        y = solution.y
        assert isinstance(y, Tensor)
        weights = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)
        return (weights * (y + y**2 / 2)).sum()

    @property
    def inputs(self) -> dict[str, list[Tensor]]:
        return {
            "y0": [self.y0],
            "parameters": list(self.func.parameters()),
            "t": [self.t],
            **({"mass": self.mass} if self.mass else {}),
        }

    def gradients(self, solution: Solution) -> dict[str, list[Tensor]]:
        flat = [p for group in self.inputs.values() for p in group]
        found = iter(torch.autograd.grad(self.loss(solution), flat))
        return {name: [next(found) for _ in group] for name, group in self.inputs.items()}


def forms(name: str) -> list[str]:
    method = METHODS[name]
    split = method.split and not method.exponential
    allowed = {"ode": method.whole, "split": split, "linear": method.exponential, "dae": method.dae}
    return [form for form, is_allowed in allowed.items() if is_allowed]
