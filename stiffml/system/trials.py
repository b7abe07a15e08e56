"""Trials of the user's function before a solve, of what the solve relies on.

The function must have one value at one state; torch must see how it depends on the state; the samples
of a batch must not depend on each other; a Jacobian from replicated rows must be that of a single state.
A violation would show in nothing but wrong numbers. The trials take some six calls of the function, near the
initial state rather than at it (see ``generic_states``).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.linearization import Linearization
from stiffml.system.derivatives.product_check import ROUNDING, beyond_rounding
from stiffml.system.function.batching import ROWS, Batching, Sample, is_jacobian_right, jacobian_is_right
from stiffml.system.function.difference_check import Differences, contradicts
from stiffml.system.function.evaluation import BATCHED
from stiffml.system.function.generic_states import (
    enlarged,
    first_finite,
    nearby,
    random_signed,
    typical_sizes,
)
from stiffml.system.state import Layout

STEPS = {torch.float64: (1e-4, 1e-5), torch.float32: (2e-2, 5e-3)}
"""Steps of differences, relative to the components, by precision."""

LEAST = (1e-3, 1.0)
"""Least sizes of components, relative to the largest, at further states. An error is raised only if func
leaves autograd at all of them: a kink may be near one, and small components may be lost in rounding."""

SAME = {torch.float64: 1e-6, torch.float32: 1e-4}
"""The difference that two values of f at one state may have, relative to the largest component."""

SUSPICIOUS = 0.1
"""The relative change of a difference with its step from which f is called at the same state again."""

MASKS = 2
"""The number of random halves of the samples whose influence on the others is checked without blocks."""


def try_out(f: Dynamics, s: float, u: np.ndarray, *, exact: bool, blocks: bool) -> bool:
    """Raise ValueError if something about f near a state would lead to wrong numbers.

    Returns whether everything could be tried: not if f is not finite there.

    Parameters
    ----------
    s, u : float, ndarray
        Where the solve begins, (size,).
    exact : bool
        Whether derivatives must be whole, as for gradients; if not, some Jacobian is enough.
    blocks : bool
        Whether blocks of the Jacobian, one a sample, will be evaluated from replicated rows.
    """
    with f.uncounted():
        return _try_out(f, s, u, exact, blocks)


def _try_out(f: Dynamics, s: float, u: np.ndarray, exact: bool, blocks: bool) -> bool:
    random = np.random.default_rng(0)
    trial = _Trial.near(f, s, u, random)
    if trial is None:
        return False  # f is not finite, as the run will report
    trial.require_one_value()
    if (exact or not trial.depends_on_state) and not trial.agrees_with_differences(random):
        others = (_Trial.near(f, s, enlarged(u, least), random) for least in LEAST)
        if not any(other is not None and other.agrees_with_differences(random) for other in others):
            raise ValueError(trial.leaves_autograd())
    if blocks:
        trial.require_blocks(random)
    elif f.layout.samples > 1:
        trial.require_independent_samples(random)
    return trial.is_complete


class _Trial:
    """f at one state, with its graph."""

    def __init__(self, f: Dynamics, s: float, u: np.ndarray, value: np.ndarray) -> None:
        self._f, self._s, self._u, self._value = f, s, u, value
        self._samples: list[Sample] = [(u, value)]
        self._differences: Differences | None = None
        self.is_complete = True
        self._time = torch.tensor([s], dtype=torch.float64)
        self._leaf = torch.from_numpy(u)[None].requires_grad_()
        self._slope = f.evaluate_differentiably(self._time, self._leaf)

    @classmethod
    def near(cls, f: Dynamics, s: float, u: np.ndarray, random: np.random.Generator) -> _Trial | None:
        """At a state near ``u`` where f is finite; None if there is none."""
        found = first_finite(lambda state: f.evaluate_anew(s, state), nearby(u, random), f.space.every)
        return None if found is None else cls(f, s, *found)

    @property
    def _t(self) -> float:
        return self._f.direction * self._s

    @property
    def _eps(self) -> float:
        return torch.finfo(self._f.layout.dtype).eps

    def _product(self, cotangent: np.ndarray) -> np.ndarray | None:
        """(size,) Jᵀw; None if torch sees no dependence of f on the state."""
        if not self._slope.requires_grad:
            return None
        w = torch.from_numpy(cotangent)[None]
        (found,) = torch.autograd.grad(self._slope, self._leaf, w, retain_graph=True, allow_unused=True)
        return None if found is None else found[0].numpy()

    @property
    def depends_on_state(self) -> bool:
        """Whether torch sees that f depends on the state."""
        return not self._f.space.every(self._product(np.ones(self._u.size)) is None)

    def require_one_value(self, again: int = 0) -> None:
        """Raise ValueError if f has another value at the state than it had before."""
        values = [self._slope.detach()[0].numpy()]
        values += [self._f.evaluate_anew(self._s, self._u) for _ in range(again)]
        for value in values:
            off = np.abs(value - self._value)
            largest = [self._f.space.max(float(np.abs(v).max())) for v in (off, self._value, self._u)]
            if largest[0] <= SAME[self._f.layout.dtype] * largest[1] + 1e-8 * largest[2]:
                continue
            where = list(self._f.layout.component(int(np.nanargmax(off))))
            raise ValueError(
                f"func: called twice with the same t = {self._t:.10g} and y, it returned two values, whose "
                f"component {where} differs by {np.nanmax(off):.3g}. Try: module.eval() if it has dropout or "
                "something else that draws random numbers or changes with every call in training mode; draw "
                "random numbers once, before solve"
            )

    def agrees_with_differences(self, random: np.random.Generator) -> bool:
        """Whether torch's derivative along a random direction agrees with differences of f."""
        f, dtype = self._f, self._f.layout.dtype
        self._along = random_signed(random, self._u.size) * typical_sizes(self._u)
        longer, shorter = (self._difference(step) for step in STEPS[dtype])
        if not f.space.every(bool(np.isfinite(longer).all() and np.isfinite(shorter).all())):
            self.is_complete = False
            return True
        change, size = np.abs(longer - shorter), np.abs(shorter)
        if not f.space.every(bool((change <= SUSPICIOUS * size).all())):
            self.require_one_value(again=2)
        self._differences = Differences.of(longer, shorter, random)
        found = self._product(self._differences.weights)
        product = 0.0 if found is None else float(found @ self._along)
        sums = f.space.sum_array(np.append(self._differences.within(), product))
        return not contradicts(sums[:3], float(sums[3]), dtype)

    def _difference(self, step: float) -> np.ndarray:
        """(size,) of f along the direction; NaN where f cannot be evaluated."""
        values = []
        for side in (step, -step):
            state = self._u + side * self._along
            try:
                with np.errstate(all="ignore"):
                    values.append(self._f.evaluate_anew(self._s, state))
            except Exception:  # the user's function may raise anything, and says no more than that
                values.append(np.full(self._u.size, np.nan))
            if len(self._samples) < ROWS and self._u.size <= BATCHED:
                self._samples.append((state, values[-1]))
        return (values[0] - values[1]) / (2 * step)

    def leaves_autograd(self) -> str:
        """The message, after differences have contradicted torch."""
        if not self.depends_on_state:
            seen = "for torch it does not depend on y at all, and its derivative would be taken for zero"
        else:
            seen = "torch sees only part of how it depends on y, and its derivative would be wrong"
            seen += self._worst()
        return (
            f"func: its value changes with y, but {seen}. Somewhere y leaves autograd: by .detach(), .data, "
            ".item() or float(y[i]), numpy, torch.no_grad(), or a tensor made anew from numbers. Try: "
            "operations of torch on y itself, such as torch.stack([-y[0], y[1]]) in place of "
            "torch.tensor([-float(y[0]), float(y[1])]); what must stay outside torch goes into a "
            "torch.autograd.Function with a backward of its own"
        )

    def _worst(self) -> str:
        assert self._differences is not None
        if self._f.space.is_distributed:
            return ""
        found = self._f.state_jvp(self._time, self._leaf.detach(), torch.from_numpy(self._along)[None])
        off = np.abs(self._differences.weights * (found[0].numpy() - self._differences.shorter))
        worst = int(np.argmax(np.nan_to_num(off)))
        return (
            f" (at t = {self._t:.10g}, along a random direction, component "
            f"{list(self._f.layout.component(worst))} changes at a rate of "
            f"{self._differences.shorter[worst]:.4g}, and by torch's derivative at {found[0, worst]:.4g})"
        )

    def require_blocks(self, random: np.random.Generator) -> None:
        """Raise ValueError if samples depend on each other; give up a way of batching that is wrong.

        wᵀJ from all blocks is compared with the same product by automatic differentiation at a single state.
        """
        f, layout = self._f, self._f.layout
        while True:
            mode = f.batching_at(self._s, self._u, self._samples)
            if layout.samples == 1 and is_jacobian_right(f.func, layout, mode):
                return
            if layout.samples == 1 and mode is Batching.LOOP:
                return  # its rows are such products
            w = self._random_cotangent(random)
            exact = self._product(w)
            exact = np.zeros(layout.size) if exact is None else exact
            blocks = f.jacobian_blocks(self._time, self._leaf.detach())[0].numpy()
            rows = w.reshape(layout.samples, 1, layout.width)
            with np.errstate(invalid="ignore", over="ignore"):
                found, size = (rows @ blocks).ravel(), (np.abs(rows) @ np.abs(blocks)).ravel()
                off = np.abs(found - exact)
            if not np.isfinite(off).all():
                self.is_complete = False
                return
            excess = beyond_rounding(off, size, self._eps)
            if excess.max() <= 0:
                jacobian_is_right(f.func, layout, mode)
                return
            if layout.samples > 1:
                self._require_no_influence(int(np.argmax(excess)) // layout.width, w)
            if mode is Batching.LOOP:
                return
            f.batch_no_longer()

    def require_independent_samples(self, random: np.random.Generator) -> None:
        """Raise ValueError if samples depend on each other, by a few products with the transposed Jacobian.

        The values of half of the samples must have no derivative with respect to the other half.
        """
        samples = self._f.layout.samples
        w = self._random_cotangent(random)
        for _ in range(MASKS):
            half = random.permutation(samples) < samples / 2
            for chosen in (half, ~half):
                self._require_zero(chosen, w)

    def _random_cotangent(self, random: np.random.Generator) -> np.ndarray:
        return random_signed(random, self._u.size)

    def _require_no_influence(self, sample: int, w: np.ndarray) -> None:
        """Raise ValueError if the value of other samples depends on this one."""
        chosen = np.ones(self._f.layout.samples, dtype=bool)
        chosen[sample] = False
        self._require_zero(chosen, w)

    def _require_zero(self, chosen: np.ndarray, w: np.ndarray) -> None:
        """Raise ValueError if the value of some samples depends on the others."""
        layout = self._f.layout
        found = self._product(w * np.repeat(chosen, layout.width))
        if found is not None:
            require_no_coupling(np.abs(found).reshape(layout.samples, layout.width), chosen, layout, self._t)


def require_no_coupling(found: np.ndarray, chosen: np.ndarray, layout: Layout, t: float) -> None:
    """Raise ValueError if a product (samples, width) is not zero outside the samples ``chosen``."""
    eps = torch.finfo(layout.dtype).eps
    outside = np.where(chosen[:, None], 0.0, found)
    bound = np.sqrt(eps) * found.max(axis=0) + ROUNDING * eps * found.max()
    if not (outside > bound).any():
        return
    sample = int(np.argmax((outside - bound).max(axis=1)))
    raise ValueError(coupled(layout, sample, t))


def coupled(layout: Layout, sample: int, t: float) -> str:
    """The message that samples depend on each other."""
    where = list(np.unravel_index(sample, layout.batch))
    return (
        f"batch_dims={len(layout.batch)} says that samples are independent, but at t = {t:.10g} the value of "
        f"func for other samples depends on y[{', '.join(map(str, where))}]; the Jacobian then does not fall "
        "into one block a sample, and gradients would be wrong. Try: batch_dims=0; or a func without means, "
        "batch statistics, attention or indices over the leading dimensions"
    )


def require_same_product(linearization: Linearization, f: Dynamics, s: Tensor, u: Tensor, k: int) -> None:
    """Raise ValueError if samples depend on each other at one of the states of a linearisation.

    A product with its transposed blocks is compared with that of automatic differentiation.
    """
    layout, random = f.layout, np.random.default_rng(0)
    w = random_signed(random, layout.size)
    found = linearization.apply(k, w, transpose=True)
    exact = f.state_vjp(s[k : k + 1], u[k : k + 1], torch.from_numpy(w)[None])[0].numpy()
    off, size = np.abs(found - exact), np.abs(found) + np.abs(exact)
    loose = 1e-6 if layout.dtype == torch.float64 else 1e-2
    excess = np.nan_to_num(off - loose * size - 1e-3 * loose * size.max(), nan=-1.0)
    if excess.max() > 0:
        sample = int(np.argmax(excess)) // layout.width
        raise ValueError(coupled(layout, sample, f.direction * float(s[k])))
