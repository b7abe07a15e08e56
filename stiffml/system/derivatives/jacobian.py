"""The user's function with its Jacobian, as dense blocks or as a graph to take products from."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from stiffml.system.derivatives.graph import Array, Graph, LastGraph, Vector
from stiffml.system.derivatives.product_check import beyond_rounding
from stiffml.system.derivatives.products import gradient
from stiffml.system.function.batching import Func
from stiffml.system.function.evaluation import Evaluation

NARROW = 16
"""Components of a sample up to which a whole Jacobian is evaluated even where single products would do, or
where it may turn out not to be needed: calls of torch then cost more than arithmetic."""


SMALL = 1000
"""Numbers in a state up to which a copy of it costs less than a call of numpy that compares."""

WORTH_REPLICATING = 10_000
"""Numbers in replicated rows up to which one backward pass through these is faster than one for each row."""


def _is_same(u: np.ndarray, other: np.ndarray) -> bool:
    """Whether two states are the same numbers; of small ones by their bytes, in a tenth of numpy's time."""
    if u.size > SMALL:
        return np.array_equal(u, other)
    return u.tobytes() == other.tobytes()


class WithJacobian(Evaluation):
    """f with its Jacobian. Values at the last state are remembered: Newton's iteration asks for each twice.

    Attributes
    ----------
    jacobians : int
        States at which the Jacobian was evaluated so far, not counting the trials before the solve.
    """

    jacobians = 0
    _last_time = np.nan
    _last_state = _last_slope = np.empty(0)
    _last_blocks: np.ndarray | None = None

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Evaluations of f and its Jacobian within this are not counted, as those of trials are not."""
        count = self.jacobians
        with super().uncounted():
            yield
        self.jacobians = count

    @cached_property
    def _last_graph(self) -> LastGraph:
        return LastGraph()

    def evaluate(
        self, s: float, u: np.ndarray, with_jacobian: bool = False, as_graph: bool = False
    ) -> np.ndarray:
        """f at one state, without gradients. The result is remembered, and must not be written to.

        Implicit methods ask for f at an accepted state that Newton has just evaluated. Comparing two
        vectors costs far less than a call of the function. Of a large state nothing is remembered but a
        slope that is not finite; nor of a state spread over processes, which would have to agree.

        Parameters
        ----------
        with_jacobian : bool
            Whether the Jacobian will be wanted here too; one evaluation then yields both.
        as_graph : bool
            How it will be wanted: as the :meth:`graph` of f, or by :meth:`jacobian_at`.
        """
        s = self.span.trim(s)
        if s == self._last_time and _is_same(u, self._last_state):
            return self._last_slope
        self._last_graph.release()  # frees its memory before more is taken
        state = u.copy()
        self._last_blocks = None
        is_remembered = not self.is_large and not self.space.is_distributed
        if with_jacobian and as_graph:
            slope = self.evaluate_with_graph(s, state).cpu().numpy()
        elif with_jacobian and is_remembered and self._replicates(s, state):
            slope, self._last_blocks = self._slope_and_jacobian(s, state)
        else:
            slope = self._slope(s, state)
        if is_remembered:
            self._last_time, self._last_state, self._last_slope = s, state, slope
        else:
            self._last_slope = np.empty(0) if np.isfinite(slope).all() else slope
        return slope

    def release(self) -> None:
        """Free what is remembered of the last state."""
        self._last_time, self._last_blocks = np.nan, None
        self._last_graph.release()
        self._last_state = self._last_slope = np.empty(0)

    def known_slope(self, s: float, u: np.ndarray) -> np.ndarray | None:
        """func's own value at a state, if that was evaluated last; it must not be written to."""
        if self.span.trim(s) != self._last_time or not _is_same(u, self._last_state):
            return None
        return self._last_slope

    def attached(self, s: float, u: np.ndarray, remember: bool = False) -> Tensor:
        """func at one state, with the graph of all that it depends on besides the state and the time.

        ``remember``: keep the value for a later :meth:`evaluate` at this state.
        """
        state = u.copy()
        with torch.enable_grad():
            value = self._called(s, state.copy())
        if remember and not self.is_large and not self.space.is_distributed:
            self._last_time, self._last_state, self._last_slope = s, state, self._as_slope(value).copy()
            self._last_blocks = None
        return value

    def attached_with_leaf(self, s: float, u: np.ndarray) -> tuple[Tensor, Tensor, np.ndarray]:
        """The same from a leaf, as ``called_with_leaf``; the value is kept for a later :meth:`evaluate`."""
        s, state = self.span.trim(s), u.copy()
        with torch.enable_grad():
            leaf, value, slope = self.called_with_leaf(s, state)
        if not self.is_large and not self.space.is_distributed:
            self._last_time, self._last_state, self._last_slope = s, state, slope.copy()
            self._last_blocks = None
        return leaf, value, slope

    def attached_slope(self, s: float, u: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """The same, and f there."""
        value = self.attached(s, u)
        return value, self._as_slope(value)

    def jacobian_at(self, s: float, u: np.ndarray) -> np.ndarray:
        """∂f/∂u at one state as an array (samples, width, width), which the caller may overwrite."""
        s = self.span.trim(s)
        if s == self._last_time and _is_same(u, self._last_state):
            u = self._last_state
            if self._last_blocks is not None:
                blocks, self._last_blocks = self._last_blocks, None
                return blocks
        else:
            u = u.copy()
        if self._replicates(s, u):
            return self._slope_and_jacobian(s, u)[1]
        time = torch.tensor([s], dtype=torch.float64)
        return self.jacobian_blocks(time, torch.from_numpy(u)[None])[0].numpy()

    def constant_blocks(self, s: float, u: np.ndarray) -> np.ndarray:
        """∂f/∂u of an f that is linear: (1, width, width) if it is that of all samples, else one a sample.

        One backward pass yields as many rows as there are samples, each of which gets another unit vector as
        cotangent. A product with a random vector then shows whether the rows are those of all samples.
        """
        (samples, width), time = (
            (self.layout.samples, self.layout.width),
            torch.tensor([s], dtype=torch.float64),
        )
        state, eye = torch.from_numpy(u.copy())[None], torch.eye(width, dtype=torch.float64)
        w = np.random.default_rng(0).standard_normal((samples, width))
        block = torch.empty(width, width, dtype=torch.float64)
        with torch.enable_grad():
            leaf = state.requires_grad_()
            slopes = self._many(time, leaf)
            for begin in range(0, width, samples):
                row = (begin + torch.arange(samples)) % width
                found = gradient(slopes, leaf, eye[row].view_as(slopes), retain=True)
                block[row] = found.view(samples, width)
            exact = gradient(slopes, leaf, torch.from_numpy(w).view_as(slopes)).view(samples, width).numpy()
        self.jacobians += 1
        one = block.numpy()
        with np.errstate(invalid="ignore", over="ignore"):
            excess = beyond_rounding(np.abs(w @ one - exact), np.abs(w) @ np.abs(one), self.eps)
        if excess.max() <= 0:
            return one[None]
        return self._jacobian_rows(time, state.detach(), eye)[0].numpy()

    def _slope_and_jacobian(self, s: float, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """f and ∂f/∂u by replicated rows, as in :meth:`jacobian_blocks`, for one state."""
        layout, width = self.layout, self.layout.width
        # Filled by numpy, whose calls cost a tenth of torch's: small systems spend their time here.
        rows, times = np.empty((width, u.size)), np.empty(width)
        rows[:], times[:] = u, s
        leaf = torch.from_numpy(rows).requires_grad_()
        with torch.enable_grad():
            slopes = self._many(torch.from_numpy(times), leaf, copies=width)
            grads = gradient(slopes, leaf, self._identity)
        grads = _own(grads, self._identity)
        self.jacobians += 1
        blocks = grads.numpy().reshape(width, layout.samples, width).swapaxes(0, 1)
        return slopes.detach().numpy()[0], blocks

    @property
    def _identity(self) -> Tensor:
        """The cotangents of replicated rows of one state: copy r yields row r of every sample's Jacobian."""
        return _identities(1, self.layout.width, self.layout.samples)

    @property
    def last_slope(self) -> np.ndarray:
        """The result of the last :meth:`evaluate`."""
        return self._last_slope

    def evaluate_shared(self, s: float, u: Tensor, with_jacobian: bool = False) -> Tensor:
        """:meth:`evaluate` for a state that is a tensor on the device of ``func``; so is the result.

        ``with_jacobian``: its :meth:`graph` will be wanted here too.
        """
        self.release()
        s = self.span.trim(s)
        if with_jacobian:
            return self.evaluate_with_graph(s, u.clone())
        with torch.no_grad():
            return self._many(torch.tensor([s], dtype=torch.float64), u[None])[0]

    def graph(self, s: float, u: Array) -> Graph:
        """The graph of f at one state, for products with J; that of the last evaluation if it was there."""
        self.jacobians += 1
        s = self.span.trim(s)
        return self._last_graph.take(s, u, self.space) or self._graph(s, u)[0]

    def copied(self, u: Vector) -> Vector:
        """A copy of a state that must not be written to; it may be the one that the last graph keeps."""
        kept = self._last_graph.state(u)
        if kept is not None:
            return kept
        return u.clone() if isinstance(u, Tensor) else u.copy()

    def _graph(self, s: float, u: Array) -> tuple[Graph, Tensor]:
        """The graph of f at a state, which must stay as it is, and the value."""
        with torch.enable_grad():
            if isinstance(u, np.ndarray):
                u = torch.from_numpy(u if u.flags.writeable else u.copy())
            leaf = u.detach().requires_grad_()
            slope = self._many(torch.tensor([s], dtype=torch.float64), leaf[None], self._for_graphs())[0]
        return Graph(leaf, slope, self.layout.dtype, self.is_large), slope.detach()

    def _for_graphs(self) -> Func:
        """The function; for a large state with detached parameters, so that the graph keeps less."""
        func = self.func
        if not self.is_large or not isinstance(func, nn.Module) or isinstance(func, torch.jit.ScriptModule):
            return func
        values = {name: parameter.detach() for name, parameter in func.named_parameters()}
        return lambda t, y: functional_call(func, values, (t, y))

    def evaluate_with_graph(self, s: float, u: Array) -> Tensor:
        """f at one state (size,), whose graph is kept until :meth:`graph` asks for it.

        ``u`` must not be written to until then.
        """
        graph, slope = self._graph(s, u)
        self._last_graph.keep(s, u, graph)
        return slope

    def evaluate_many(self, s: Tensor, u: Tensor) -> Tensor:
        """f at K states without gradients: (K,), (K, size) -> (K, size)."""
        with torch.no_grad():
            return self._many(s, u)

    def jacobian_blocks(self, s: Tensor, u: Tensor) -> Tensor:
        """∂f/∂u at K states: (K,), (K, size) -> (K, samples, width, width)."""
        if self._replicates(float(s[0]), u[0].numpy()):
            return self.values_and_blocks(s, u)[1]
        self.jacobians += len(s)
        return self._jacobian_rows(s, u, torch.eye(self.layout.width, dtype=torch.float64))

    def values_and_blocks(self, s: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """f and ∂f/∂u at K states: (K,), (K, size) -> (K, size), (K, samples, width, width).

        By replicated rows: f at ``width`` copies of each state, then one backward pass in which copy
        r yields row r of the Jacobian of every sample at once.
        """
        if not self._replicates(float(s[0]), u[0].numpy()):
            return self.evaluate_many(s, u), self.jacobian_blocks(s, u)
        count, (samples, width) = len(s), (self.layout.samples, self.layout.width)
        self.jacobians += count
        if u.numel() * width > WORTH_REPLICATING:
            return self._values_and_rows(s, u)
        # Replicated by numpy, whose calls cost a tenth of torch's.
        leaf = torch.from_numpy(np.repeat(u.detach().numpy(), width, axis=0)).requires_grad_()
        times = torch.from_numpy(np.repeat(s.numpy(), width))
        with torch.enable_grad():
            slopes = self._many(times, leaf, copies=width)
            ones = _identities(count, width, samples)
            grads = _own(gradient(slopes, leaf, ones), ones)
        blocks = grads.view(count, width, samples, width).transpose(1, 2)
        return slopes.detach()[::width], blocks

    def _values_and_rows(self, s: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The same by one evaluation at all states and one backward pass for each row."""
        width = self.layout.width
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            slopes = self._many(s, leaf)
            rows = [
                gradient(slopes, leaf, one.expand_as(slopes), retain=r < width - 1)
                for r, one in enumerate(self._identity)
            ]
        blocks = torch.stack(rows, dim=1).view(len(s), width, self.layout.samples, width)
        return slopes.detach(), blocks.transpose(1, 2)

    def _jacobian_rows(self, s: Tensor, u: Tensor, eye: Tensor) -> Tensor:
        samples, width = self.layout.samples, self.layout.width
        blocks = torch.empty(len(s), samples, width, width, dtype=torch.float64)
        for part, state, into in zip(s.split(1), u.split(1), blocks, strict=True):
            with torch.enable_grad():
                leaf = state.detach().requires_grad_()
                slopes = self._many(part, leaf).view(samples, width)
                for r in range(width):
                    row = gradient(slopes, leaf, eye[r].expand_as(slopes), retain=r < width - 1)
                    into[:, r] = row.view(samples, width)
        return blocks


@functools.lru_cache(maxsize=16)
def _identities(count: int, width: int, samples: int) -> Tensor:
    """The cotangents of replicated rows of ``count`` states, one after the other; not to be written to."""
    eye = np.broadcast_to(np.eye(width)[:, None, :], (count, width, samples, width))
    return torch.from_numpy(eye.reshape(count * width, samples * width).copy())


def _own(gradients: Tensor, cotangents: Tensor) -> Tensor:
    """Gradients in memory of their own: they may be the cotangents, and the caller may overwrite them."""
    shared = gradients.untyped_storage().data_ptr() == cotangents.untyped_storage().data_ptr()
    return gradients.clone() if shared else gradients
