"""A drawn combination as a solve: its function, tensors and arguments, and a loss of all that comes out."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import stiffml
from combinations.arguments import arguments_of, tolerances
from combinations.drawing import Combination
from combinations.functions import Function
from combinations.problems import Algebraic, Field, problem_of


@dataclasses.dataclass
class Outcome:
    """What a solve led to: rows (n, samples·width), and the solution where the way in gives one."""

    rows: Tensor
    solution: stiffml.Solution | None = None
    event: tuple[Tensor, Tensor] | None = None
    afterwards: Tensor | None = None


class Run:
    """The tensors of a combination, its function and arguments.

    The leaves that gradients are taken for are ``start``, ``q``, ``tau`` (output times on the problem's
    clock), ``beta`` (breakpoints), ``entries`` (of the mass matrix), ``level`` (of the event) and ``between``
    (times to interpolate at). Numbers are the same in single and double precision.
    """

    def __init__(self, c: Combination, level: float = 0.0, speed: float = 1.0) -> None:
        self.c, self.problem = c, problem_of(c)
        if c.style == "numpy time":
            self.problem.tabulate_time()
        self.dtype, self.time_dtype = getattr(torch, c.dtype), getattr(torch, c.time_dtype)
        self.direction = -1.0 if c.reversed else 1.0
        self.speed = speed
        self.base = torch.tensor(self.problem.base, dtype=self.dtype)
        width, span = self.problem.width, self.problem.span
        g = torch.Generator().manual_seed(c.seed)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=g, dtype=torch.float32)

        start = torch.tensor(self.problem.start, dtype=torch.float32) * (0.9 + 0.2 * uniform(*c.batch, width))
        if c.equal_start:
            start = torch.full_like(start, self.problem.equal)
        q = 0.9 + 0.2 * uniform(*c.batch, len(self.problem.base))
        inner = {"even": torch.tensor([0.255, 0.505, 0.755]), "ends": torch.zeros(0)}
        fractions = inner.get(c.spacing, torch.tensor([0.11, 0.3, 0.42, 0.8]) + 0.05 * uniform(4))
        tau = span * torch.cat([torch.zeros(1), fractions, torch.ones(1)])
        beta = span * (torch.tensor([0.22, 0.61])[: c.breakpoints] + 0.05 * uniform(c.breakpoints))
        between = span * torch.tensor([0.07, 0.37, 0.71])
        self.recorded = uniform(128).double().numpy()
        self._mass_numbers = uniform(width, width).double(), uniform(math.prod(c.batch)).double()
        double = torch.float64

        def leaf(values: Tensor, dtype: torch.dtype = double) -> Tensor:
            return values.to(dtype).clone().requires_grad_()

        def times(values: Tensor) -> Tensor:
            return leaf(torch.round(values * 2**14) / 2**14)  # single precision has these exactly

        self.start, self.q = leaf(start, self.dtype), nn.Parameter(q.to(self.dtype))
        self.tau, self.beta, self.between = times(tau), times(beta), times(between)
        self.entries = leaf(torch.zeros_like(self.mass_base))
        self.level = leaf(torch.tensor(level), self.dtype)

    # Times

    @property
    def t(self) -> Tensor:
        tau = self.tau
        if self.c.spacing == "close":
            tau = torch.cat([tau[:3], tau[2:3] + 1e-12, tau[3:]])
        return (self.c.offset + self.direction * tau).to(self.time_dtype)

    @property
    def breaks(self) -> Tensor:
        """In the order of the run; the first is an output where that was drawn."""
        breaks = self.c.offset + self.direction * self.beta
        if self.c.break_on_output and len(breaks):
            at = self.t[1] if self.c.breakpoints > 1 else self.t[len(self.t) // 2]
            breaks = torch.cat([at.double()[None], breaks[1:]])
        return breaks

    @property
    def through(self) -> list[float]:
        """The time that steps end on besides, or none."""
        return [self.c.offset + self.direction * 0.33 * self.problem.span] if self.c.through else []

    @property
    def times_between(self) -> Tensor:
        """To interpolate at afterwards; before the event if there is one."""
        at = self.between[:1] if self.c.event else self.between
        return (self.c.offset + self.direction * at).to(self.time_dtype)

    def clock(self, t: Tensor) -> np.ndarray:
        return (self.direction * (t.detach().double() - self.c.offset)).numpy()

    @property
    def intervals(self) -> np.ndarray:
        """The clock times that ``steps`` refers to: outputs that steps end on, what they pass through, and
        breakpoints."""
        outputs = self.clock(self.t)
        if self.c.outputs == "interpolate":
            outputs = outputs[[0, -1]]
        elif self.c.spacing == "close":
            outputs = np.delete(outputs, 2)
        through = self.clock(torch.tensor(self.through, dtype=torch.float64))
        return np.unique(np.concatenate([outputs, through, self.clock(self.breaks)]))

    # States

    def as_rows(self, y: Any) -> Tensor:
        """A state with any leading dimensions -> (…, width)."""
        if isinstance(y, tuple):
            if not isinstance(self.problem, Field):
                y = (y[0][..., None], *y[1:])
            return torch.cat(y, dim=-1)
        return y.reshape(*y.shape[:-2], 20) if isinstance(self.problem, Field) else y

    def as_state(self, rows: Tensor) -> Any:
        if isinstance(self.problem, Field):
            parts = rows.reshape(*rows.shape[:-1], 2, 10)
            return tuple(parts.unbind(-2)) if self.c.state == "tuple" else parts
        if self.c.state == "tensor":
            return rows
        return (rows[..., 0], *([rows[..., 1:]] if self.problem.width > 1 else []))

    @property
    def y0(self) -> Any:
        return self.state_from(self.start)

    def state_from(self, rows: Tensor) -> Any:
        """The initial state; its algebraic variable fits, if that was drawn."""
        if isinstance(self.problem, Algebraic) and self.c.consistent:
            s = (self.direction * (self.t[0] - self.c.offset)).to(self.dtype)
            rows = self.problem.completed(s, rows, list((self.base * self.q).unbind(-1)))
        return self.as_state(rows)

    # The mass matrix: R (D + entries) where D and entries have the same zeros, so that the rank stays.

    @cached_property
    def mass_base(self) -> Tensor:
        """(width,) or (width, width), with a dimension for the samples where they differ."""
        numbers, factors = self._mass_numbers
        base = torch.diag(0.8 + 0.4 * numbers[0])
        if self.c.mass == "dense":
            base = base + 0.3 * (numbers - 0.5)
        if self.c.is_dae:
            base[-1], base[:, -1] = 0, 0
        if self.c.mass != "dense":
            base = torch.diagonal(base)
        if self.c.mass_batch:
            lead = (*self.c.batch, *[1] * base.dim())
            base = base * (0.8 + 0.4 * factors).reshape(lead)
        return base

    @cached_property
    def mixing(self) -> Tensor:
        """(width, width) R, which makes combinations of the equations."""
        numbers, _ = self._mass_numbers
        eye = torch.eye(self.problem.width, dtype=torch.float64)
        return eye + 0.4 * (numbers - 0.5) if self.c.mixes_rows else eye

    @property
    def mass(self) -> Tensor:
        moved = self.mass_base + self.entries * (self.mass_base != 0)
        return self.mixing @ moved if self.c.mass == "dense" else moved

    def scaled(self, slopes: Tensor) -> Tensor:
        """f = R (D y' + algebraic residual), up to the direction of time."""
        if self.c.has_mass or self.c.is_dae:
            base = self.mass_base.to(self.dtype)
            found = (base @ slopes[..., None])[..., 0] if self.c.mass == "dense" else base * slopes
            if self.c.is_dae:
                last = torch.zeros(self.problem.width, dtype=self.dtype)
                last[-1] = 1
                found = found + last * slopes
            slopes = (self.mixing.to(self.dtype) @ found[..., None])[..., 0] if self.c.mixes_rows else found
        return self.direction * slopes

    @cached_property
    def func(self) -> Any:
        if self.c.form == "whole":
            whole = Function(self)
            return whole if self.c.given == "module" else lambda t, y: whole(t, y)
        stiff, rest = Function(self, "stiff"), Function(self, "rest")
        linear = self.c.form == "split linear"
        if self.c.given == "module":
            return stiffml.Split(stiff, rest, linear=linear)
        return stiffml.Split(lambda t, y: stiff(t, y), lambda t, y: rest(t, y), linear=linear)

    def event(self, t: Tensor, y: Any) -> Tensor:
        """Grows at a speed that no slow component makes up for, and is zero once."""
        first = self.as_rows(y).reshape(-1)[self.problem.slow]
        s = self.direction * (t - self.c.offset)
        return first - self.level + self.speed * (s - 0.55 * self.problem.span)

    @property
    def tolerances(self) -> dict[str, Any]:
        return tolerances(self)

    # The solve

    def solve(
        self, steps: Any = None, *, repeated: bool = False, entry: str = "solve", moved: bool = False
    ) -> Outcome:
        """By ``solve``, ``odeint`` or an ``ODEBlock``; from a ``moved`` initial state, in which nothing is
        differentiated."""
        arguments = arguments_of(self, steps, repeated=repeated)
        y0 = self.state_from(self.start.detach() * 1.01) if moved else self.y0
        if entry == "odeint":
            return Outcome(self.rows_of(stiffml.odeint(self.func, y0, self.t, **arguments)))
        if entry == "block":
            return Outcome(self.rows_of(stiffml.ODEBlock(self.func, self.t, **arguments)(y0)))
        solution = stiffml.solve(self.func, y0, self.t, **arguments)
        outcome = Outcome(self.rows_of(solution.y), solution)
        if solution.event is not None:
            outcome.event = solution.event.t, self.rows_of(solution.event.y, 0)
        if self.c.afterwards:
            outcome.afterwards = self.rows_of(solution.interpolate(self.times_between))
        return outcome

    def rows_of(self, y: Any, lead: int = 1) -> Tensor:
        """States with ``lead`` dimensions before theirs -> (…, samples·width)."""
        rows = self.as_rows(y)
        return rows.reshape(*rows.shape[:lead], -1)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The leaves, by what they stand for."""
        found = {"y0": self.start, "parameters": self.q, "t": self.tau}
        if self.c.breakpoints - self.c.break_on_output > 0:
            found["breakpoints"] = self.beta
        if self.c.has_mass or self.c.is_dae:
            found["mass"] = self.entries
        if self.c.event:
            found["event"] = self.level
        if self.c.afterwards:
            found["times of interpolate"] = self.between
        return found


def loss(outcome: Outcome) -> Tensor:
    """Of all outputs, with weights of one sign, so that nothing cancels."""
    parts = [outcome.rows, *([] if outcome.afterwards is None else [outcome.afterwards])]
    if outcome.event is not None:
        parts += [outcome.event[0][None], outcome.event[1]]
    total = torch.zeros((), dtype=torch.float64)
    for y in parts:
        weights = torch.linspace(0.5, 1.5, y.numel(), dtype=torch.float64).reshape(y.shape)
        total = total + (weights * (y + y**2 / 2)).sum()
    return total
