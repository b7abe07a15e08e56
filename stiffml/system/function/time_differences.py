"""∂f/∂s by differences, where torch does not see how f depends on time: a table read by numpy, say.

Rosenbrock methods have ∂f/∂s in their formula and fall to order one without it. Other methods need it for the
gradient with respect to times. With D₁ and D₂ difference quotients of f in time at s₀,

    f̃(s, u) = f(s₀, u) + (s − s₀) D₁(s₀, u) + ½ (s − s₀)² D₂(s₀, u)    evaluated at s = s₀

has the value of f and these derivatives for torch, which differentiates D₁ and D₂ further with respect to the
state and the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiffml.system.function.difference_check import Differences, contradicts
from stiffml.system.function.span import Span
from stiffml.system.space import Space

Many = Callable[[Tensor, Tensor], Tensor]
"""f at K times (K,) and states (K, size)."""

POINTS = 5
"""Points of a difference quotient: fourth order for the first derivative, at the ends of the span too."""

FRACTIONS = (0.1134, 0.3719, 0.7321)
"""Where the dependence on time is tried, as fractions of the span."""

STEPS = {torch.float64: (1e-4, 1e-4 / 8), torch.float32: (1e-2, 1e-2 / 8)}
"""Two steps, as fractions of the span, whose differences check torch's derivative; by precision."""

LONGEST, HALVINGS = 1 / 20, 24
"""The longest step tried for a difference quotient, as a fraction of the span, and how often it is halved."""

AGREE = 1e-3
"""The difference between quotients of two steps, relative to the largest, up to which they are used."""


@dataclass(frozen=True)
class TimeDifferences:
    """Difference quotients in time with steps of ``step``, at times from ``first`` to ``last`` only.

    ``dtype`` is that in which the function gets its times; the weights are those of the rounded ones.
    """

    step: float
    first: float
    last: float
    dtype: torch.dtype

    def evaluate(self, many: Many, s: Tensor, u: Tensor) -> Tensor:
        """f̃ at K times (K,) and states (K, size), with derivatives with respect to both."""
        at = s.detach()
        times, own, first, second = self._stencils(at)
        slopes = many(times.reshape(-1), u.repeat_interleave(POINTS, dim=0)).view(len(s), POINTS, -1)
        moved = (s - at)[:, None]
        by_time = (first[:, :, None] * slopes).sum(1) + moved / 2 * (second[:, :, None] * slopes).sum(1)
        return slopes[torch.arange(len(s)), own] + moved * by_time

    def _stencils(self, at: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Times (K, points), which of them are ``at`` (K,), and weights (K, points) of both derivatives."""
        at = at.to(self.dtype).double()
        # Stages of some methods lie outside the span; func is asked for no times beyond these.
        first, last = at.clamp(max=self.first), at.clamp(min=self.last)
        room = torch.floor((at - first) / self.step), torch.floor((last - at) / self.step)
        most, half = POINTS - 1, POINTS // 2
        before = torch.maximum(room[0].clamp(0, half), most - room[1].clamp(0, most))
        steps = torch.arange(POINTS, dtype=torch.float64) - before[:, None]
        times = at[:, None] + self.step * steps
        times = torch.minimum(torch.maximum(times, first[:, None]), last[:, None])
        own = before.long()
        times = times.to(self.dtype).double()
        times[torch.arange(len(at)), own] = at
        # Of Σ w_j f(s₀ + x_j) = f⁽ᵈ⁾(s₀) for the polynomials up to degree four.
        powers = ((times - at[:, None]) / self.step)[:, None, :] ** torch.arange(POINTS)[:, None]
        wanted = torch.zeros(POINTS, 2, dtype=torch.float64)
        wanted[1, 0], wanted[2, 1] = 1.0, 2.0
        weights = torch.linalg.solve(powers, wanted.expand(len(at), -1, -1))
        return times, own, weights[:, :, 0] / self.step, weights[:, :, 1] / self.step**2


def time_differences(
    many: Many,
    span: Span,
    dtype: torch.dtype,
    u: Tensor,
    space: Space,
    known: dict[Any, Any],
) -> TimeDifferences | None:
    """Differences that give ∂f/∂s at states like ``u`` (size,); None if torch has it right, or it is zero.

    ``known`` remembers the step that was chosen for a function and a span.
    """
    first, last = span.begin, span.end
    length = last - first
    if not math.isfinite(length):
        return None
    shortest = _shortest(first, last, dtype)
    if not STEPS[dtype][1] * length > shortest:
        return None
    times = first + length * torch.tensor(FRACTIONS, dtype=torch.float64)
    states = u.expand(len(times), -1)
    with torch.enable_grad():
        leaf = times.clone().requires_grad_()
        values = many(leaf, states)
    rows = torch.isfinite(values.detach()).all(dim=1)
    kept = torch.tensor([space.every(bool(row)) for row in rows])
    if not kept.any() or space.every(_is_constant(values.detach()[kept], dtype)):
        return None
    with torch.no_grad():
        longer, shorter = (
            _central(many, times, states, step * length, dtype).nan_to_num().numpy() for step in STEPS[dtype]
        )
    differences = Differences.of(longer, shorter, np.random.default_rng(0))
    weights = torch.from_numpy(differences.weights) * kept[:, None]
    seen = None
    if values.requires_grad:
        (seen,) = torch.autograd.grad(values, leaf, weights, allow_unused=True)
    unseen = torch.zeros_like(leaf) if seen is None else seen
    sums = space.sum_array(np.append(differences.within(kept.numpy()), float(unseen.sum())))
    if not contradicts(sums[:3], float(sums[3]), dtype):
        return None
    key = ("step in time", first, last, dtype)
    if key not in known:
        with torch.no_grad():
            known[key] = _chosen_step(many, times[kept], states[kept], length, shortest, dtype, space)
    step = known[key]
    return None if step is None else TimeDifferences(step, first, last, dtype)


def _shortest(first: float, last: float, dtype: torch.dtype) -> float:
    """The shortest step that times of a dtype resolve well."""
    return 64 * torch.finfo(dtype).eps * max(abs(first), abs(last))


def _is_constant(values: Tensor, dtype: torch.dtype) -> bool:
    """Whether the rows of values are all the same but for rounding."""
    bound = 100 * torch.finfo(dtype).eps * values.abs().amax(dim=0)
    return bool(((values - values[:1]).abs() <= bound).all())


def _central(many: Many, times: Tensor, states: Tensor, step: float, dtype: torch.dtype) -> Tensor:
    """Differences (K, size) of second order, over the times as the function gets them."""
    around = torch.cat([times + step, times - step]).to(dtype).double()
    after, before = many(around, states.repeat(2, 1)).view(2, *states.shape)
    later, earlier = around.view(2, -1, 1)
    return (after - before) / (later - earlier)


def _chosen_step(
    many: Many,
    times: Tensor,
    states: Tensor,
    length: float,
    shortest: float,
    dtype: torch.dtype,
    space: Space,
) -> float | None:
    """The step whose quotient of fourth order differs least from that of twice the step.

    None if no two agree (a function that jumps all the time), or if f is the same around all times (a step
    function, whose derivative torch has right).
    """
    best, step, least = None, LONGEST * length, np.inf
    far = _central(many, times, states, 2 * step, dtype)
    before: Tensor | None = None
    for _ in range(HALVINGS):
        near = _central(many, times, states, step, dtype)
        quotient = (4 * near - far) / 3
        size = space.max(float(quotient.abs().max()))
        if size == 0:
            return None
        if before is not None:
            change = space.max(float((quotient - before).abs().max())) / size
            if change < least:
                best, least = step, change
            elif change > 1e3 * least and least < AGREE:
                break  # from here on rounding grows
        before, far, step = quotient, near, step / 2
        if step < shortest:
            break
    return best if least < AGREE else None
