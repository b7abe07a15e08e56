"""The products of one cotangent with all first derivatives of f, from a graph that is made once.

An explicit method needs Jᵀw at a stage for the stages before it, and (∂f/∂θ)ᵀw for the parameters, with the
same w. Both come from one graph of f: that of the forward pass if it was kept, or of one more evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks

from stiffml.parameters.leaves import next_node, roots
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.jacobian import WORTH_REPLICATING
from stiffml.system.derivatives.products import gradient

NODE_BYTES = 1000
"""Bytes that torch needs for an operation in a graph besides the tensors that it keeps."""

NONE_LEFT = np.empty(0)


class Joint(NamedTuple):
    """The products of a cotangent (size,) with the derivatives of f; None where f does not depend on them.

    Attributes
    ----------
    u : ndarray or None
        (size,) with ∂f/∂u.
    parameters : list of Tensor or None
        With ∂f/∂θ, for each parameter.
    s : float
        With ∂f/∂s.
    ends : ndarray or None
        (2,) with the derivative by the ends of the span, on which f depends at times beyond them.
    """

    u: np.ndarray | None
    parameters: list[Tensor | None]
    s: float
    ends: np.ndarray | None


class Graphed:
    """f at one state with its graph, which must be of use once only.

    Parameters
    ----------
    f : Dynamics
    s, u : float, ndarray
        Time and state (size,), which must not be written to as long as this is of use.
    wrt_time : bool
        Whether the derivative by the time is wanted too. Default False.

    Attributes
    ----------
    slope : ndarray
        (size,) f, which must not be written to either.
    """

    __slots__ = ("_direction", "_edge", "_is_shared", "_leaves", "_like", "slope")

    def __init__(self, f: Dynamics, s: float, u: np.ndarray, wrt_time: bool = False) -> None:
        since = next_node()
        with torch.enable_grad():
            if wrt_time or f.extrapolates(s):
                # In solver time, and differentiable by it whether or not torch sees how f depends on time.
                leaf = torch.from_numpy(u).requires_grad_()
                time = torch.tensor([f.span.trim(s)], dtype=torch.float64, requires_grad=wrt_time)
                ends = f.span.ends().requires_grad_(wrt_time)
                value = f.evaluate_differentiably(time, leaf[None], ends)[0]
                self._leaves, self._direction = [leaf, *([time, ends] if wrt_time else [])], 1
                self.slope = value.detach().numpy()
            else:
                leaf, value, self.slope = f.called_with_leaf(s, u)
                self._leaves, self._direction = [leaf], f.direction
        oldest = f.oldest_node(value, self._leaves)
        if oldest is None:
            f.require_known(value, torch.tensor([s]), torch.from_numpy(u)[None], self._leaves)
        self._keep(value, is_shared=oldest is None or oldest < since)

    @classmethod
    def of_call(cls, f: Dynamics, leaf: Tensor, value: Tensor, slope: np.ndarray) -> Graphed:
        """From what ``called_with_leaf`` has returned: its graph was made by that call, and is known to end
        at parameters of ``f``."""
        found = cls.__new__(cls)
        found._leaves, found._direction, found.slope = [leaf], f.direction, slope
        found._keep(value, is_shared=False)
        return found

    def _keep(self, value: Tensor, is_shared: bool) -> None:
        # Where other calls may share a part of the graph, what it holds outlives its use.
        self._is_shared = is_shared
        self._like = value.device, value.dtype
        # Of the value only the edge where its graph begins is kept.
        self._edge: GradientEdge | None = get_gradient_edge(value) if value.requires_grad else None

    @property
    def operations(self) -> int:
        """The number of operations in the graph."""
        return 0 if self._edge is None else len(roots([self._edge.node]).operations)

    def release_slope(self) -> None:
        """Free the value of f, when nobody will ask for it."""
        self.slope = NONE_LEFT

    def products(self, f: Dynamics, w: np.ndarray) -> Joint:
        """The products of a cotangent (size,) with the derivatives of f at this state."""
        count = len(f.parameters)
        if self._edge is None:
            return Joint(None, [None] * count, 0.0, None)
        cotangent = torch.from_numpy(w).to(*self._like)
        if self._direction < 0:
            cotangent = -cotangent
        wanted = [*self._leaves, *f.parameters]
        shared = self._is_shared
        found: list[Tensor | None] = [
            *torch.autograd.grad([self._edge], wanted, cotangent, retain_graph=shared, allow_unused=True)
        ]
        by_u, times = found[0], found[1 : len(self._leaves)]
        u = None if by_u is None else by_u.double().cpu().numpy()
        wrt_s = float(times[0]) if times and times[0] is not None else 0.0
        ends = times[1].numpy() if times and times[1] is not None else None
        return Joint(u, found[len(self._leaves) :], wrt_s, ends)


class GraphedBlocks:
    """f at K small states in one call, with its Jacobians as blocks, and the graph for further products.

    Parameters
    ----------
    f : Dynamics
        It must take several states in one call.
    s, u : Tensor
        Times (K,) and states (K, size).
    wrt_time : bool
        Whether derivatives by the time are wanted too.

    Attributes
    ----------
    blocks : Tensor
        (K, samples, width, width) ∂f/∂u.
    """

    def __init__(self, f: Dynamics, s: Tensor, u: Tensor, wrt_time: bool) -> None:
        self._f, self._shape, width = f, u.shape, f.layout.width
        # One backward pass through replicated rows, or one for each row where arithmetic costs more.
        self._copies = width if u.numel() * width <= WORTH_REPLICATING else 1
        leaf = u.detach().repeat_interleave(self._copies, dim=0).requires_grad_()
        self._times = s.detach().repeat_interleave(self._copies).requires_grad_(wrt_time)
        self._ends = f.span.ends().requires_grad_(wrt_time)
        self._slopes = f.evaluate_differentiably(self._times, leaf, self._ends, self._copies)
        f.require_known(self._slopes, s, u, [leaf, self._times, self._ends])
        f.jacobians += len(s)
        eye = torch.eye(width, dtype=torch.float64)[:, None].expand(-1, f.layout.samples, -1).flatten(1)
        if self._copies > 1:
            grads = gradient(self._slopes, leaf, eye.repeat(len(s), 1), retain=True)
        else:
            rows = [gradient(self._slopes, leaf, row.expand(u.shape), retain=True) for row in eye]
            grads = torch.stack(rows, dim=1)
        self.blocks = grads.reshape(len(s), width, f.layout.samples, width).transpose(1, 2)

    def vjp(self, cotangents: Tensor, wrt_time: bool) -> tuple[Tensor, list[Tensor | None], Tensor, Tensor]:
        """The same as :meth:`Dynamics.vjp` at these states, without another evaluation."""
        wanted = [*self._f.parameters, *([self._times, self._ends] if wrt_time else [])]
        found: list[Tensor | None] = [None] * len(wanted)
        rows = torch.zeros(self._shape[0], self._copies, self._shape[1], dtype=torch.float64)
        rows[:, 0] = cotangents
        if self._slopes.requires_grad and wanted:
            rows = rows.flatten(0, 1)
            found = [*torch.autograd.grad(self._slopes, wanted, rows, retain_graph=True, allow_unused=True)]
        own, (wrt_s, wrt_ends) = len(self._f.parameters), (None, None)
        if wrt_time:
            wrt_s, wrt_ends = found[own:]
        wrt_s = torch.zeros_like(self._times) if wrt_s is None else wrt_s
        ends = torch.zeros_like(self._ends) if wrt_ends is None else wrt_ends
        slopes = self._slopes.detach()[:: self._copies]
        return slopes, found[:own], wrt_s.view(-1, self._copies)[:, 0].detach(), ends.detach()


class KeptGraphs:
    """Graphs of f that a run keeps for its reverse sweep, by steps, each to be used once.

    Parameters
    ----------
    most : float
        Bytes that they may take; what torch keeps for the operations of one graph is measured, that of all
        others taken to be the same.
    """

    def __init__(self, most: float) -> None:
        self._most, self._each, self._count = most, 0.0, 0
        self._steps: dict[int, list[Graphed]] = {}

    @property
    def has_room(self) -> bool:
        """Whether the graphs of one more step may be kept."""
        return self._count * self._each <= self._most

    def graphed(self, f: Dynamics, s: float, u: np.ndarray) -> Graphed:
        """f at a time and a state (size,) with its graph, whose size is measured if it is the first."""
        if self._each:
            return Graphed(f, s, u)
        held: dict[int, int] = {parameter.untyped_storage().data_ptr(): 0 for parameter in f.parameters}

        def note(saved: Tensor) -> Tensor:
            storage = saved.untyped_storage()
            held.setdefault(storage.data_ptr(), storage.nbytes())
            return saved

        with saved_tensors_hooks(note, lambda saved: saved):
            found = Graphed(f, s, u)
        self._each = sum(held.values()) + u.nbytes + NODE_BYTES * (1 + found.operations)
        return found

    def keep(self, step: int, stages: Sequence[Graphed | None]) -> None:
        """Keep the graphs at the stages of an accepted step, if all are there."""
        there = [graphed for graphed in stages if graphed is not None]
        if len(there) == len(stages):
            for graphed in there:
                graphed.release_slope()
            self._steps[step] = there
            self._count += len(there)

    def take(self, step: int) -> list[Graphed] | None:
        """The graphs of a step, which are not kept any longer."""
        return self._steps.pop(step, None)

    def clear(self) -> None:
        """Keep none any longer."""
        self._steps.clear()

    def __len__(self) -> int:
        return len(self._steps)

    def __deepcopy__(self, _: dict) -> KeptGraphs:
        """An empty one: graphs cannot be copied, and what they are for can be done without them."""
        return KeptGraphs(self._most)

    def __reduce__(self) -> tuple[type[KeptGraphs], tuple[float]]:
        return KeptGraphs, (self._most,)
