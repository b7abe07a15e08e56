"""Whether a compiled function is the one that torch evaluates, with its derivatives.

A trace cannot follow what leaves torch, as numpy does, nor know of derivatives that a user defines. Both show
where values and products with random vectors are compared at states without anything special about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from stiffml.compiled.function import CompiledFunction
from stiffml.compiled.refusal import NotCompilableError
from stiffml.compiled.trace import Flat

SAME = 1e-8
"""How much a derivative may differ, relative to the sizes of the terms it is made of."""

SAME_VALUE = 1e-11
"""The same for values."""

ROUNDING = 1e-11
"""How much a derivative may differ, relative to the largest of those that belong together."""

State = tuple[float, np.ndarray]
"""A time and a flat state (size,)."""


def require_same(
    function: Flat,
    compiled: CompiledFunction,
    states: Iterable[State],
    what: str,
    tensors: Sequence[Tensor] | None = None,
) -> None:
    """Raise NotCompilableError unless a part of a compiled function is torch's at all of some states.

    ``what``: ``"blocks"``, ``"pull"``, ``"push"`` or ``"bend"``. ``tensors``: those that the function
    reads now in place of ``compiled.lifted``, the default.
    """
    random = np.random.default_rng(0)
    tensors = compiled.lifted if tensors is None else tensors
    for t, u in states:
        comparison = _Comparison(function, compiled, tensors, t, u, random)
        getattr(comparison, what)()


def agrees(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether values of f differ by less than the rounding of each. Where not, :func:`excess` decides."""
    return bool((np.abs(found - wanted) <= SAME_VALUE * np.abs(wanted)).all())


def excess(found: np.ndarray, wanted: np.ndarray, jacobian: np.ndarray, u: np.ndarray) -> float:
    """By how much values of f (size,) differ beyond rounding, zero if not; ``jacobian`` (size, size)."""
    terms = np.abs(wanted) + np.abs(jacobian) @ np.abs(u)
    off = np.abs(found - wanted)
    wrong = ~(off <= SAME_VALUE * (terms + 1e-3 * terms.max()))
    return float(np.nanmax(np.where(wrong, np.nan_to_num(off, nan=np.inf), 0.0), initial=0.0))


class _Comparison:
    """At one state; cotangents have components that make all values of f count alike."""

    def __init__(
        self,
        function: Flat,
        compiled: CompiledFunction,
        tensors: Sequence[Tensor],
        t: float,
        u: np.ndarray,
        random: np.random.Generator,
    ) -> None:
        self._compiled, self._random, self._where = (
            compiled,
            random,
            f" at t = {t:.6g}, near the initial state",
        )
        self._function, self._u, self._tensors = function, u, tensors
        self._p = compiled.packed(tensors)
        self._at = np.array([t]), u[None], self._p
        self._leaves = torch.tensor(t, dtype=torch.float64), torch.from_numpy(u.copy())
        for leaf in self._leaves:
            leaf.requires_grad_()
        with torch.enable_grad():
            self._value = function(*self._leaves)
        self._f, (self._jacobian,) = compiled.blocks(*self._at, compiled.size)
        self._scale = np.abs(self._f[0]) + np.abs(self._jacobian) @ np.abs(u)
        signs = random.choice([-1.0, 1.0], u.size) * random.uniform(0.5, 1.0, u.size)
        self._w = signs / np.maximum(self._scale, 1e-12 * self._scale.max() + 1e-300)
        self._wrt_t, self._wrt_u, *self._wrt_p = self._torch_products(self._w)
        self._total = float(np.abs(self._w) @ self._scale)

    def blocks(self) -> None:
        """Values and ∂f/∂y."""
        off = excess(self._f[0], self._value.detach().numpy(), self._jacobian, self._u)
        if off:
            self._raise("value", off)
        self._require_wrt_y(self._w @ self._jacobian)

    def pull(self) -> None:
        """Products of a cotangent with ∂f/∂y, ∂f/∂t and ∂f/∂p."""
        _, (wrt_y,), wrt_t, wrt_p = self._compiled.pull(*self._at, self._w[None])
        self._require_wrt_y(wrt_y)
        in_time = 1e3 * self._total / max(abs(float(self._at[0][0])), 1e-300)
        self._require("derivative with respect to t", wrt_t, self._wrt_t, np.abs(self._wrt_t), in_time)
        sizes = [wanted.size for wanted in self._wrt_p]
        for part, wanted, tensor in zip(
            np.split(wrt_p, np.cumsum(sizes)[:-1]), self._wrt_p, self._tensors, strict=False
        ):
            if not tensor.requires_grad:  # torch has no derivative, and nobody asks for one
                continue
            size = float(tensor.detach().abs().max())
            largest = max(np.abs(wanted).max(initial=0.0), self._total / max(size, 1e-300))
            what = f"derivative with respect to a tensor of shape {tuple(tensor.shape)}"
            self._require(what, part, wanted, np.abs(wanted), largest)

    def push(self) -> None:
        """Derivatives along directions of y, t and p, in the direction of the cotangent."""
        random, u, p = self._random, np.abs(self._u), np.abs(self._p)
        s, v = random.uniform(0.5, 1.0, 1), random.uniform(0.5, 1.0, u.size) * u
        along = self._compiled.push(*self._at, s, v[None])[0]
        wanted = self._wrt_u @ v + self._wrt_t @ s
        scale = np.abs(self._w) @ np.abs(along) + np.abs(self._wrt_u) @ v + np.abs(self._wrt_t) @ s
        self._require("derivative along y and t", self._w @ along, wanted, scale, self._total)
        moves = [np.full(tensor.numel(), tensor.requires_grad) for tensor in self._tensors]
        q = random.uniform(0.5, 1.0, p.size) * p * np.concatenate([*moves, np.empty(0)])
        moved = self._compiled.move(*self._at, q)[0]
        wrt_p = np.concatenate([*self._wrt_p, np.empty(0)])
        scale = np.abs(self._w) @ np.abs(moved) + np.abs(wrt_p) @ q
        self._require("derivative along parameters", self._w @ moved, wrt_p @ q, scale, self._total)

    def bend(self) -> None:
        """Gradients of products of the cotangent with derivatives along a direction of y and t."""
        random, u = self._random, np.abs(self._u)
        s, v = random.uniform(0.5, 1.0, 1), random.uniform(0.5, 1.0, u.size) * u
        t, (y,), p = self._at
        wrt_y, wrt_p = self._compiled.bend(t, y, p, s, v[None], self._w[None])
        by_y, *by_p = self._torch_second(torch.from_numpy(s)[0], torch.from_numpy(v))
        # What a component of f is made of, and so its derivatives, may cancel.
        sizes = np.maximum(u, 1e-9 * u.max() + 1e-300)
        self._require("second derivative", wrt_y, by_y, np.abs(by_y), self._total / sizes)
        parts = np.split(wrt_p, np.cumsum([part.size for part in by_p])[:-1]) if by_p else []
        for part, expected, tensor in zip(parts, by_p, self._tensors, strict=True):
            if not tensor.requires_grad:
                continue
            largest = max(
                np.abs(expected).max(), self._total / max(float(tensor.detach().abs().max()), 1e-300)
            )
            self._require("second derivative by a tensor", part, expected, np.abs(expected), largest)

    def _require_wrt_y(self, found: np.ndarray) -> None:
        terms, sizes = np.abs(self._w) @ np.abs(self._jacobian), np.abs(self._u)
        floor = (terms * sizes).max() / np.maximum(sizes, 1e-9 * sizes.max() + 1e-300)
        self._require("derivative with respect to y", found, self._wrt_u, terms, floor)

    def _torch_products(self, w: np.ndarray) -> list[np.ndarray]:
        inputs = [*self._leaves, *self._tensors]
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        grads: Sequence[Tensor | None] = [None] * len(wanted)
        if self._value.requires_grad:
            grads = torch.autograd.grad(self._value, wanted, torch.from_numpy(w), allow_unused=True)
        by_input = {id(tensor): grad for tensor, grad in zip(wanted, grads, strict=True)}
        found = [by_input.get(id(tensor)) for tensor in inputs]
        return [
            (torch.zeros_like(tensor) if grad is None else grad).detach().numpy(force=True).ravel()
            for tensor, grad in zip(inputs, found, strict=True)
        ]

    def _torch_second(self, s: Tensor, v: Tensor) -> list[np.ndarray]:
        """The gradients of w·(s ∂f/∂t + ∂f/∂y v) by y and by the tensors."""
        inputs, w = [self._leaves[1], *self._tensors], torch.from_numpy(self._w)
        by_input: dict[int, Tensor | None] = {}
        with torch.enable_grad():
            value = self._function(*self._leaves)
            first: Sequence[Tensor | None] = (None, None)
            if value.requires_grad:
                first = torch.autograd.grad(value, self._leaves, w, create_graph=True, allow_unused=True)
            terms = [
                (g * d).sum() for g, d in zip(first, (s, v), strict=True) if g is not None and g.requires_grad
            ]
            if terms:
                wanted = [x for x in inputs if x.requires_grad]
                second = torch.autograd.grad(sum(terms, torch.zeros(())), wanted, allow_unused=True)
                by_input = {id(x): g for x, g in zip(wanted, second, strict=True)}
        found = [by_input.get(id(x)) for x in inputs]
        return [
            (torch.zeros_like(x) if g is None else g).detach().numpy(force=True).ravel()
            for x, g in zip(inputs, found, strict=True)
        ]

    def _require(self, what: str, found, wanted, terms, largest) -> None:
        off = np.abs(np.asarray(found) - wanted)
        if not (off <= SAME * np.asarray(terms) + ROUNDING * np.asarray(largest)).all():
            self._raise(what, float(np.nanmax(off)))

    def _raise(self, what: str, off: float) -> None:
        raise NotCompilableError(
            f"its compiled {what} differs from torch's by {off:.3g}{self._where}. Part of it may have "
            "left torch (numpy, numbers that change), or have a derivative of its own"
        )
