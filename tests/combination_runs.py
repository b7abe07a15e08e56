"""A drawn combination as a solve: its function, tensors and arguments, and a loss of all that comes out."""

from __future__ import annotations

import dataclasses
import inspect
import math
import tempfile
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from combination_problems import FACTORS, Algebraic, Field, problem_of
from combinations import Combination
from torch import Tensor, nn

import stiffml
from stiffml import GMRES, Adaptive, Assembled, Discrete, Disk, Fixed, Grid, Krylov, PointBlock, Recorded

CALLS = 100_000
"""Of the function in one solve, beyond which it counts as one that does not end."""

NAMES = set(inspect.signature(stiffml.solve).parameters)
"""The arguments that there are."""


class TooManyCallsError(RuntimeError):
    """A solve goes on for ever."""


class Function(nn.Module):
    """func(t, y) of a combination; ``part`` is the whole, or one of the parts of a split."""

    def __init__(self, run: Run, part: str = "slopes") -> None:
        super().__init__()
        self.q = run.q  # an nn.Parameter
        self._run, self._part = [run], part  # in a list: it is no part of this module
        self.calls = 0

    def forward(self, t: Tensor, y: Any) -> Any:
        self.calls += 1
        if self.calls > CALLS:
            raise TooManyCallsError(f"{CALLS} calls of func")
        run = self._run[0]
        return run.as_state(run.scaled(self._slopes(run, t, run.as_rows(y))))

    def _slopes(self, run: Run, t: Tensor, rows: Tensor) -> Tensor:
        s = run.direction * (t - run.c.offset)
        p = list((run.base * self.q).unbind(-1))
        if run.c.style == "single":
            rows = torch.stack([rows[i] for i in range(run.problem.width)], dim=-1)
        elif run.c.style == "branching" and not rows[..., 0] > -1e9:
            rows = rows * 2
        return getattr(run.problem, self._part)(s, rows, p, self._jump(run, t) if run.c.breakpoints else 1.0)

    def _jump(self, run: Run, t: Tensor) -> Tensor | float:
        jump: Tensor | float = FACTORS[0]
        for at, factor in zip(run.breaks.detach(), FACTORS[1:], strict=False):
            if run.c.style == "branching":
                jump = factor if run.direction * (float(t) - float(at)) > 0 else jump
            else:
                before, after = (torch.as_tensor(value, dtype=run.dtype) for value in (jump, factor))
                jump = torch.where(run.direction * (t - at) > 0, after, before)
        return jump


class Own:
    """A preconditioner of one's own: the shift alone."""

    def update(self, t: Tensor, y: Any, shift: float) -> None:
        self._shift = shift

    def apply(self, residual: Any) -> Any:
        if isinstance(residual, tuple):
            return tuple(part / self._shift for part in residual)
        return residual / self._shift

    apply_transpose = apply


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
        self.recorded = uniform(64).double().numpy()
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
    def times_between(self) -> Tensor:
        """To interpolate at afterwards; before the event if there is one."""
        at = self.between[:1] if self.c.event else self.between
        return (self.c.offset + self.direction * at).to(self.time_dtype)

    def clock(self, t: Tensor) -> np.ndarray:
        return (self.direction * (t.detach().double() - self.c.offset)).numpy()

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
        rows = self.start
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

    # Arguments

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

    def arguments(self, steps: Any = None, *, repeated: bool = False) -> dict[str, Any]:
        """Of ``solve``; with other ``steps``, or for steps that are ``repeated`` and must not be cut."""
        c, kind = self.c, self.c.kind
        chosen: dict[str, Any] = {"method": c.method, "steps": self._steps() if steps is None else steps}
        chosen |= {"outputs": c.outputs, "batch_dims": len(c.batch)}
        if c.adaptive and steps is None:
            chosen |= self.tolerances
        if kind.newton and (c.newton == "tight" or repeated):
            tight = (1e-6, 1e-7) if self.dtype is torch.float32 else (1e-13, 1e-16)
            chosen["newton"] = stiffml.Newton(*tight, max_iterations=50)
        if c.has_mass or c.is_dae:
            chosen["mass"] = self.mass.to(self.dtype)
        if not c.consistent:
            chosen["make_consistent"] = True
        if c.event:
            chosen["event"] = self.event
        if c.breakpoints:
            chosen["breakpoints"] = self.breaks
        params = [*([self.q] if c.given == "params" else []), *([self.level] if c.event else [])]
        if params:
            chosen["params"] = params
        kept: Any = Disk(tempfile.gettempdir()) if c.checkpoints == "disk" else c.checkpoints
        if kept != "stages":
            chosen["adjoint"] = Discrete(kept)
        chosen |= self._linear()
        if c.bounds and "bounds" in NAMES:
            chosen["bounds"] = (-100.0, 100.0)
        if c.through and "through" in NAMES and steps is None:
            chosen["through"] = [c.offset + self.direction * 0.33 * self.problem.span]
        return chosen

    @property
    def tolerances(self) -> dict[str, Any]:
        """Such that a run takes some ten to hundred steps, which goes by the order."""
        exponent = min(self.c.kind.order, 4) * (1.0 if self.c.precision == "coarse" else 1.25)
        rtol = 10.0 ** -(1 + exponent)
        atol: Any = rtol / 10
        if self.dtype is torch.float32:
            rtol, atol = max(rtol, 1e-4), max(atol, 1e-5)
        if self.c.atol == "tensor":
            y0 = self.y0.detach()
            atol = atol * (1 + 0.5 * torch.linspace(0, 1, y0.numel(), dtype=y0.dtype).reshape(y0.shape))
        return {"rtol": rtol, "atol": atol}

    def _steps(self) -> Any:
        c, span = self.c, self.problem.span
        finer = 1 if c.precision == "coarse" else 3
        intervals = self.intervals
        if c.steps == "recorded":
            counts = 1 + (self.recorded[: len(intervals) - 1] * 3 * finer).astype(int)
            cuts = [np.cumsum(1 + 0.3 * self.recorded[: n * 2 : 2]) for n in counts]
            return Recorded(tuple(np.append((cut / cut[-1])[:-1], 1.0) for cut in cuts))
        return {
            "adaptive": Adaptive(),
            "bounded": Adaptive(initial=span / 200, maximum=span / 8),
            "fixed": Fixed(span / (7.3 * finer)),
            "grid": Grid(finer * max(1, 9 // len(intervals))),
        }[c.steps]

    @property
    def intervals(self) -> np.ndarray:
        """The clock times that ``steps`` refers to: outputs that steps end on, and breakpoints."""
        outputs = self.clock(self.t)
        if self.c.outputs == "interpolate":
            outputs = outputs[[0, -1]]
        elif self.c.spacing == "close":
            outputs = np.delete(outputs, 2)
        return np.unique(np.concatenate([outputs, self.clock(self.breaks)]))

    def _linear(self) -> dict[str, Any]:
        c, chosen = self.c, {}
        if c.linear == "lu":
            chosen["linear"] = stiffml.LU()
        elif c.linear in ("gmres", "bcgs"):
            single = self.dtype is torch.float32
            exact = not c.kind.newton or c.form == "split linear"
            rtol = 1e-5 if single else 1e-12 if exact else 1e-6
            settings = {"preconditioner": self._preconditioner(), "rtol": rtol}
            settings["adjoint_rtol"] = 1e-5 if single else 1e-11
            chosen["linear"] = GMRES(**settings) if c.linear == "gmres" else Krylov("bcgs", **settings)
        if c.jacobian == "sparsity":
            chosen["jacobian"] = stiffml.Sparsity(self._pattern())
        elif c.jacobian != "auto":
            chosen["jacobian"] = c.jacobian
        return chosen

    def _pattern(self) -> np.ndarray:
        pattern = self.problem.pattern()
        return np.ones_like(pattern) if self.c.mass == "dense" else pattern

    def _preconditioner(self) -> Any:
        sparsity = stiffml.Sparsity(self._pattern())
        choices: dict[str, Callable[[], Any]] = {
            "none": lambda: None,
            "ilu": lambda: Assembled(sparsity=sparsity),
            "lu": lambda: Assembled(solver="lu", sparsity=sparsity),
            "jacobi of a part": lambda: Assembled(self._part(), "jacobi", sparsity=sparsity),
            "points": lambda: PointBlock(0),
            "own": Own,
        }
        return choices[self.c.preconditioner]()

    def _part(self) -> Any:
        return Function(self) if self.c.is_dae else Function(self, "stiff")

    # The solve

    def solve(self, steps: Any = None, *, repeated: bool = False, entry: str = "solve") -> Outcome:
        arguments = self.arguments(steps, repeated=repeated)
        if entry == "odeint":
            return Outcome(self.rows_of(stiffml.odeint(self.func, self.y0, self.t, **arguments)))
        if entry == "block":
            return Outcome(self.rows_of(stiffml.ODEBlock(self.func, self.t, **arguments)(self.y0)))
        solution = stiffml.solve(self.func, self.y0, self.t, **arguments)
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
