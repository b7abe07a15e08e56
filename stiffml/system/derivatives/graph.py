"""Any number of products with the Jacobian and its transpose, from one evaluation of f.

torch's forward mode would evaluate f again for every product, at many times the cost. Instead the graph of
f is kept: Jᵀw is its backward pass, which is linear in w, and J v is the backward pass of that.
"""

from __future__ import annotations

import ctypes
import math
from contextlib import nullcontext
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge, saved_tensors_hooks

from stiffml.system.space import Space

Array = np.ndarray | Tensor
"""A vector: on the host, or shared with PETSc where func runs."""

Vector = TypeVar("Vector", np.ndarray, Tensor)

ADJOINT = 1e-7
"""By how much ⟨w, J v⟩ and ⟨Jᵀw, v⟩ may differ, relative to their sizes."""

ADJOINT_SINGLE = 1e-3
"""The same for a function of float32."""

SHARED = 10_000
"""Numbers in a vector from which copying costs more than sharing its memory."""


class NotTwiceDifferentiableError(RuntimeError):
    """``func`` has an operation whose backward pass cannot be differentiated."""


class Graph:
    """The graph of f at one state.

    Parameters
    ----------
    leaf : Tensor
        (size,) the state, requiring a gradient.
    slope : Tensor
        (size,) f there, float64.
    dtype : torch.dtype
        That f is evaluated in.
    sparing : bool
        Whether memory matters more than the time of looking for tensors of zeros, which need none.
    """

    def __init__(self, leaf: Tensor, slope: Tensor, dtype: torch.dtype, sparing: bool) -> None:
        self._leaf, self._sparing = leaf, sparing
        self._precision = ADJOINT if dtype == torch.float64 else ADJOINT_SINGLE
        # Of f and of Jᵀ·probe only the edges where their graphs begin are kept: the values may be large.
        self._slope = get_gradient_edge(slope) if slope.requires_grad else None
        self._probe: Tensor | None = None
        self._product: GradientEdge | None = None

    def apply(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """J v, or Jᵀ v, for a vector (size,).

        Raises
        ------
        NotTwiceDifferentiableError
            For J v, if ``func`` cannot be differentiated twice; the message names the operation.
        """
        vector = _tensor(v).to(self._leaf.device)
        found = self.product(vector, transpose)
        if found.untyped_storage().data_ptr() == vector.untyped_storage().data_ptr():
            return np.array(found.cpu())  # the vector itself, which is the caller's
        return found.cpu().numpy()

    def product(self, v: Tensor, transpose: bool = False) -> Tensor:
        """The same for a tensor on the device of the state. The result may be ``v`` itself."""
        if self._slope is None:
            return torch.zeros_like(v)
        found = (self._backwards if transpose else self._forwards)(self._slope, v)
        return torch.zeros_like(v) if found is None else found

    def transposed_products(self, w: np.ndarray) -> np.ndarray | None:
        """Jᵀ w for all rows of w (k, size) in one batched call; None if an operation of f cannot do that."""
        if self._slope is None:
            return np.zeros_like(w)
        rows = _tensor(w).to(self._leaf.device)
        try:
            (found,) = torch.autograd.grad(
                [self._slope], self._leaf, rows, retain_graph=True, allow_unused=True, is_grads_batched=True
            )
        except Exception:  # of any kind, where a backward is the caller's; one by one it comes again
            return None
        return np.zeros_like(w) if found is None else found.cpu().numpy()

    def _backwards(self, slope: GradientEdge, w: Tensor) -> Tensor | None:
        return torch.autograd.grad([slope], self._leaf, w, retain_graph=True, allow_unused=True)[0]

    def _forwards(self, slope: GradientEdge, v: Tensor) -> Tensor | None:
        if self._probe is None:
            # Of a large state zeros would be one more vector.
            zero = self._leaf.new_zeros(())
            self._probe = zero.expand(self._leaf.shape).requires_grad_()
            try:
                kept = saved_tensors_hooks(_without_zeros, _as_it_was) if self._sparing else nullcontext()
                with torch.enable_grad(), kept:
                    (product,) = torch.autograd.grad(
                        [slope], self._leaf, self._probe, create_graph=True, allow_unused=True
                    )
            except (RuntimeError, NotImplementedError) as error:
                if not _is_torchs(error):
                    raise
                raise self._not_twice(error) from error
            if product is not None and product.requires_grad:
                self._product = get_gradient_edge(product)
        if self._product is None:
            return None
        try:
            (along,) = torch.autograd.grad(
                [self._product], self._probe, v, retain_graph=True, allow_unused=True
            )
        except (RuntimeError, NotImplementedError) as error:
            if not _is_torchs(error):
                raise
            raise self._not_twice(error) from error
        return along

    def require_adjoint(self, space: Space) -> None:
        """Raise NotTwiceDifferentiableError unless J v and Jᵀw belong to one matrix, tried on random vectors.

        A backward pass that leaves torch (through numpy, say) can be differentiated without an error, as if
        it were constant.
        """
        w, v = np.random.default_rng(0).standard_normal((2, self._leaf.numel()))
        forwards, backwards = self.apply(v), self.apply(w, transpose=True)
        pairs = [(w, forwards), (backwards, v), (w, w), (v, v), (forwards, forwards), (backwards, backwards)]
        sums = [space.sum(float(a @ b)) for a, b in pairs]
        size = math.sqrt(sums[2] * sums[4]) + math.sqrt(sums[3] * sums[5])
        # Where f is not finite, Newton's iteration will say so.
        if abs(sums[0] - sums[1]) > self._precision * size:
            raise self._not_twice(None)

    def _not_twice(self, error: RuntimeError | None) -> NotTwiceDifferentiableError:
        why = "its derivative is not that of its backward pass" if error is None else str(error)
        own = ", ".join(_own_operations(self._slope)) or "none written in Python"
        return NotTwiceDifferentiableError(
            "func cannot be differentiated twice, which J·v without a matrix needs: "
            f"{why} (operations with a backward of their own: {own}). Try: jacobian='coloured' or 'dense', "
            "which take first derivatives only; or write that backward with operations of torch"
        )


def _tensor(v: np.ndarray) -> Tensor:
    """A tensor for reading; a large array is shared.

    torch warns of read-only arrays, as PETSc's are, if it is given them as they are.
    """
    if v.flags.writeable and v.dtype == float:
        return torch.from_numpy(v)
    if v.size < SHARED or v.dtype != float or not v.flags.c_contiguous:
        return torch.from_numpy(np.array(v, dtype=float))
    shared = (ctypes.c_double * v.size).from_address(v.ctypes.data)
    return torch.from_numpy(np.frombuffer(memoryview(shared)))


def _without_zeros(saved: Tensor) -> Tensor:
    """A saved tensor. One of zeros, of which a probe of zeros makes many, takes no memory."""
    if not saved.any():
        return saved.new_zeros(()).expand(saved.shape)
    return saved


def _as_it_was(kept: Tensor) -> Tensor:
    return kept


class LastGraph:
    """The graph of f at the state where it was evaluated last, until it is taken."""

    def __init__(self) -> None:
        self._held: tuple[float, Array, Graph] | None = None

    def keep(self, s: float, u: Array, graph: Graph) -> None:
        """Keep the graph at a time and a state, which must not be written to."""
        self._held = s, u, graph

    def release(self) -> None:
        """Free the graph."""
        self._held = None

    def take(self, s: float, u: Array, space: Space) -> Graph | None:
        """The graph at a time and a state if it is this one; it is not kept any longer."""
        held, self._held = self._held, None
        if held is None:
            return None
        at, state, graph = held
        return graph if space.every(at == s and _equal(u, state)) else None

    def state(self, u: Vector) -> Vector | None:
        """The state of the graph, if it equals ``u``."""
        kept = None if self._held is None else self._held[1]
        return kept if isinstance(kept, type(u)) and _equal(u, kept) else None


def _equal(a: Array, b: Array) -> bool:
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    return np.array_equal(a, b)


REFUSALS = (
    *("differentiate twice", "is not implemented", "not differentiable", "Tensor that requires grad"),
    "double backward",  # of what torch.compile made
)


def _is_torchs(error: Exception) -> bool:
    """Whether torch says that something has no second derivative; it may be an error of the caller's."""
    return any(words in str(error) for words in REFUSALS)


def _own_operations(begin: GradientEdge | None) -> list[str]:
    """Names of the autograd functions written in Python in a graph."""
    found: set[str] = set()
    seen: set[object] = set()
    waiting: list[Node | None] = [] if begin is None else [begin.node]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found.add(type(node).__name__.removesuffix("Backward"))
        waiting += [following for following, _ in node.next_functions]
    return sorted(found)
