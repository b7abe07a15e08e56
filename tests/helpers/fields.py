"""A small reaction-diffusion system with a closure, on a torus, for tests of linear solvers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from gradients import compare
from small_problems import times
from torch import Tensor, nn

from stiffml import Newton, Solution, Split, solve
from stiffml.distributed import Field
from stiffml.distributed.field import FieldRHS

POINTS = 5
TIGHT = Newton(rtol=1e-13, atol=1e-16, max_iterations=50)
ERROR, RATE = 1e-6, 1.9
T = times(0.1, 0.15, 0.3)

Function = Callable[[Tensor, Tensor], Tensor]


class Diffusion(nn.Module):
    """(…, 2, N, N) -> the same; linear, with eigenvalues down to about -40."""

    def __init__(self, points: int) -> None:
        super().__init__()
        self.points = points
        self.coefficients = nn.Parameter(torch.tensor([0.2, 0.1], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        wide = torch.cat([y[..., -1:], y, y[..., :1]], dim=-1)
        return self.of(torch.cat([wide[..., -1:, :], wide, wide[..., :1, :]], dim=-2))

    def of(self, ghosted: Tensor) -> Tensor:
        """(…, 2, N + 2, N + 2) -> (…, 2, N, N)"""
        across = ghosted[..., 1:-1, 2:] + ghosted[..., 1:-1, :-2]
        along = ghosted[..., 2:, 1:-1] + ghosted[..., :-2, 1:-1]
        second = (across + along - 4 * ghosted[..., 1:-1, 1:-1]) * self.points**2
        return self.coefficients[:, None, None] * second


class Reaction(nn.Module):
    """The Brusselator, driven by a source, and a network at every point; not autonomous."""

    bump: Tensor

    def __init__(self, points: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.hidden, self.out = (nn.Linear(*sizes, dtype=torch.float64) for sizes in ((2, 3), (3, 2)))
        for parameter in (*self.hidden.parameters(), *self.out.parameters()):
            nn.init.normal_(parameter, 0.0, 0.4, generator=generator)
        x = torch.arange(points, dtype=torch.float64) / points
        bump = torch.sin(2 * math.pi * x)[:, None] * torch.cos(2 * math.pi * x)
        self.register_buffer("bump", torch.stack([bump, bump.T]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        u, v = y.unbind(-3)
        turned = u**2 * v
        known = torch.stack([1 + turned - 4.4 * u, 3.4 * u - turned], dim=-3)
        closure = self.out(torch.tanh(self.hidden(y.movedim(-3, -1)))).movedim(-1, -3)
        return known + closure + torch.sin(3 * t) * self.bump


class Brusselator(nn.Module):
    """y' = diffusion(t, y) + reaction(t, y) of y (…, 2, N, N)."""

    def __init__(self, points: int = POINTS) -> None:
        super().__init__()
        self.diffusion, self.reaction = Diffusion(points), Reaction(points)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.diffusion(t, y) + self.reaction(t, y)

    def split(self, linear: bool = False) -> Split:
        return Split(self.diffusion, self.reaction, linear=linear)

    def on_field(self) -> tuple[FieldRHS, FieldRHS]:
        """Itself, and its diffusion, as right-hand sides of a field on one process."""
        field = Field((self.diffusion.points,) * 2, species=2)
        return field.rhs(Local(self)), field.rhs(lambda t, ghosted: self.diffusion.of(ghosted))


class Local(nn.Module):
    """A Brusselator on a part with its surroundings."""

    def __init__(self, whole: Brusselator) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, t: Tensor, ghosted: Tensor) -> Tensor:
        return self.whole.diffusion.of(ghosted) + self.whole.reaction(t, ghosted[..., 1:-1, 1:-1])


def waves(points: int = POINTS) -> Tensor:
    """(2, N, N), different at every point."""
    x = torch.arange(points, dtype=torch.float64) / points
    u = 1 + 0.5 * torch.sin(2 * math.pi * (x[:, None] + 2 * x) + 0.3)
    return torch.stack([u, 2 + 0.7 * torch.cos(2 * math.pi * (2 * x[:, None] - x))])


def jacobian_of(func: Function, y: Tensor, t: float = 0.1) -> Tensor:
    """∂f/∂y over the flat state, dense."""
    time = torch.tensor(t, dtype=y.dtype)
    found = torch.autograd.functional.jacobian(lambda state: func(time, state), y.detach())
    assert isinstance(found, Tensor)
    return found.reshape(y.numel(), y.numel())


class Own:
    """A preconditioner that factorises shift - (the Jacobian of a function) at every update."""

    def __init__(self, func: Function) -> None:
        self._func = func
        self._factors: tuple[Tensor, Tensor] | None = None

    def update(self, t: Tensor, y: Tensor, shift: float) -> None:
        jacobian = jacobian_of(self._func, y, float(t))
        self._factors = torch.linalg.lu_factor(shift * torch.eye(len(jacobian)).to(jacobian) - jacobian)

    def apply(self, residual: Tensor) -> Tensor:
        return self._solve(residual, transpose=False)

    def apply_transpose(self, residual: Tensor) -> Tensor:
        return self._solve(residual, transpose=True)

    def _solve(self, residual: Tensor, transpose: bool) -> Tensor:
        assert self._factors is not None, "no update before the first product"
        x = torch.linalg.lu_solve(*self._factors, residual.reshape(-1, 1), adjoint=transpose)
        return x.reshape(residual.shape)


class Case:
    """A problem, its inputs by name, and the loss that is differentiated."""

    def __init__(self, func: nn.Module, y0: Tensor | None = None, t: Tensor = T, **extra: Tensor) -> None:
        self.func = func
        self.y0 = (waves() if y0 is None else y0).clone().requires_grad_()
        self.t = t.clone().requires_grad_()
        self.inputs = {"y0": self.y0, "t": self.t, **dict(func.named_parameters()), **extra}

    def solve(self, **arguments: Any) -> Solution:
        return solve(self.func, self.y0, self.t, **arguments)

    def loss(self, solution: Solution) -> Tensor:
        """Of all outputs, that at the start included, with different weights."""
        assert isinstance(solution.y, Tensor)
        return weighted(solution.y)

    def gradients(self, solution: Solution) -> dict[str, Tensor]:
        found = torch.autograd.grad(self.loss(solution), list(self.inputs.values()))
        return dict(zip(self.inputs, found, strict=True))

    def require_gradients(self, look_at: str, steps: Any, **arguments: Any) -> Solution:
        """Compare the gradient of a solve, along one direction through all inputs, with differences."""
        solution = self.solve(steps=steps, **arguments)
        gradients = self.gradients(solution)
        repeat = {**arguments, "steps": solution.steps, "rtol": None, "atol": None}
        error, rate = compare(
            lambda: self.loss(self.solve(**repeat)),
            list(self.inputs.values()),
            list(gradients.values()),
            1e-3,
        )
        assert error <= ERROR, f"the gradient is off by {error:.1e}; {look_at}"
        assert rate >= RATE, f"the Taylor rate is {rate:.2f}; {look_at}"
        return solution


def weighted(y: Tensor) -> Tensor:
    """A loss of outputs (n, …)."""
    weights = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)
    return (weights * (y + y**2 / 2)).sum() / y[0].numel()


def arguments_for(method: str, **more: Any) -> dict[str, Any]:
    """A method, with Newton's iteration tight where it has one."""
    newton = {} if method.startswith("rosw") else {"newton": TIGHT}
    return {"method": method, **newton, **more}
