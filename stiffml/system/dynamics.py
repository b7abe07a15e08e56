"""The user's function as du/ds = f(s, u; θ) on one flat float64 vector, with its derivatives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from stiffml.system.batching import Batching, Func, Sample, batching_of, evaluate_many, not_batched
from stiffml.system.graph import Array, Graph, LastGraph, Vector
from stiffml.system.leaves import origin, roots
from stiffml.system.products import added, derivative, gradient
from stiffml.system.remembered import remembered
from stiffml.system.space import Space
from stiffml.system.span import Span
from stiffml.system.state import Layout, State
from stiffml.system.time_differences import TimeDifferences, time_differences

REPLICATED = 1_000_000
"""Numbers in the replicated rows of one state up to which these are the way to its Jacobian."""

BATCHED = 100_000
"""Numbers in a state up to which a batch of states is tried: beyond, calls cost nothing beside arithmetic."""

LARGE = 500_000
"""Numbers in a state above which memory counts for more than calls of the function."""


class Dynamics:
    """``func`` seen by the solver.

    The solver's time s runs forward: s = ``direction`` · t, so that a solve with decreasing times is
    one of −f(−s, u). States are float64 whatever the user's dtype is; ``func`` sees its own dtype.

    Attributes
    ----------
    space : Space
        Which processes hold the state.
    span : Span
        Between which times the function is called.
    parameters : tuple of Tensor
        What gradients are wanted for.
    eps : float
        The rounding of the user's dtype.
    largest : int
        Numbers in the largest part of a state. How the work is divided must be the same in all processes,
        and so depends on this.
    keeps_graphs : bool
        Whether :meth:`graph` is what Jacobians are asked for with.
    shares_vectors : bool
        Whether PETSc's vectors are shared with torch on the device of the function.
    makes_leaves : bool
        Whether func is known to make tensors that require gradients anew in each call.
    rhs_evals, jacobians : int
        States at which the function and its Jacobian were evaluated so far, trials at the start not included.
    """

    def __init__(
        self,
        func: Func,
        layout: Layout,
        direction: int = 1,
        parameters: Iterable[Tensor] = (),
        space: Space | None = None,
        span: Span | None = None,
    ) -> None:
        self.func = func
        self.span = Span() if span is None else span
        self.space = Space() if space is None else space
        self.layout = layout
        self.eps = float(torch.finfo(layout.dtype).eps)
        self.direction = direction
        self.largest = round(self.space.max(layout.size))
        self.parameters = tuple(p for p in parameters if p.requires_grad)
        self.keeps_graphs = False
        self.shares_vectors = False
        self.makes_leaves = False
        self.rhs_evals = 0
        self.jacobians = 0
        self._plain = not layout.is_tuple and layout.dtype == torch.float64 and layout.device.type == "cpu"
        self._last_time = np.nan
        self._last_state = np.empty(0)
        self._last_slope = np.empty(0)
        self._last_blocks: np.ndarray | None = None
        self._last_graph = LastGraph()
        self._batching: Batching | None = None
        self._time_differences: TimeDifferences | None = None
        self._time_is_known = False

    def evaluate(self, s: float, u: np.ndarray, with_jacobian: bool = False) -> np.ndarray:
        """f at one state, without gradients; the result is remembered, and must not be written to.

        Implicit methods ask for f at an accepted state that Newton has just evaluated; comparing two
        vectors costs far less than a call of the function. ``with_jacobian`` says that the Jacobian
        will be wanted here too: one evaluation then yields both. Of a large state nothing is remembered but
        a slope that is not finite; nor of one that is spread over processes, which would have to agree.
        """
        s = self.span.trim(s)
        if s == self._last_time and np.array_equal(u, self._last_state):
            return self._last_slope
        self._last_graph.forget()  # gives its memory back first
        state = u.copy()
        self._last_blocks = None
        is_remembered = not self.is_large and not self.space.is_distributed
        if with_jacobian and self.keeps_graphs:
            slope = self._slope_with_graph(s, self._placed(state)).cpu().numpy()
        elif with_jacobian and is_remembered and self._replicates(s, state):
            slope, self._last_blocks = self._slope_and_jacobian(s, state)
        else:
            slope = self._slope(s, state)
        if is_remembered:
            self._last_time, self._last_state, self._last_slope = s, state, slope
        else:
            self._last_slope = np.empty(0) if np.isfinite(slope).all() else slope
        return slope

    @property
    def is_large(self) -> bool:
        """Whether memory counts for more than calls of the function."""
        return self.largest > LARGE

    def forget(self) -> None:
        """Let go of what is remembered of the last state."""
        self._last_time, self._last_blocks = np.nan, None
        self._last_graph.forget()
        self._last_state = self._last_slope = np.empty(0)

    def evaluate_anew(self, s: float, u: np.ndarray) -> np.ndarray:
        """f at one state by a call of the function, whatever is remembered."""
        return self._slope(self.span.trim(s), u.copy())

    def jacobian_at(self, s: float, u: np.ndarray) -> np.ndarray:
        """∂f/∂u at one state as an array (samples, width, width), which is not remembered any longer."""
        s = self.span.trim(s)
        if s == self._last_time and np.array_equal(u, self._last_state):
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

    def _slope(self, s: float, u: np.ndarray) -> np.ndarray:
        if self.span.degree and not self.span.begin <= s <= self.span.end:
            time, state = torch.tensor([s], dtype=torch.float64), torch.from_numpy(u)[None]
            with torch.no_grad():
                return self._many(time, state)[0].numpy()
        return self._as_slope(self._called(s, u))

    def _called(self, s: float, u: np.ndarray) -> Tensor:
        """func at one state, as a flat vector in its own dtype, direction and device."""
        layout = self.layout
        y = layout.unflatten(torch.from_numpy(u).to(layout.device, layout.dtype))
        time = self.span.own_time(self.direction * s)
        t = torch.tensor(time, dtype=layout.dtype, device=layout.device)
        value = self._checked(self.func(t, y))
        self.rhs_evals += 1
        return layout.flatten(value)

    def _as_slope(self, value: Tensor) -> np.ndarray:
        flat = value.detach().double().cpu().numpy()
        return flat if self.direction > 0 else -flat

    def attached(self, s: float, u: np.ndarray, remember: bool = False) -> Tensor:
        """func at one state, with the graph of all that it depends on besides the state and the time.

        ``remember``: an :meth:`evaluate` at this state then needs no other call.
        """
        state = u.copy()
        with torch.enable_grad():
            value = self._called(s, state.copy())
        if remember and not self.is_large and not self.space.is_distributed:
            self._last_time, self._last_state, self._last_slope = s, state, self._as_slope(value).copy()
            self._last_blocks = None
        return value

    def attached_slope(self, s: float, u: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """The same, and f there."""
        value = self.attached(s, u)
        return value, self._as_slope(value)

    def _require_known(self, slopes: Tensor, s: Tensor, u: Tensor, known: Sequence[Tensor]) -> None:
        """Raise ValueError if ``slopes``, those at K states, depend on leaves that are not ``known``."""
        names = {origin(tensor) for tensor in known}
        leaves = {} if self.makes_leaves else roots([slopes], names).leaves
        if not leaves:
            return
        # Those that func makes itself are others in another call.
        with torch.enable_grad():
            again = roots([self._many(s.detach(), u.detach())], names).leaves
        stable = [leaf for key, leaf in again.items() if key in leaves]
        if stable:
            raise ValueError(
                f"func uses a tensor of shape {tuple(stable[0].shape)} that requires a gradient, and did not "
                "use it at the start of the solve, by which it could have been found: name it, "
                "params=[tensor]"
            )
        self.makes_leaves = True

    def _replicates(self, s: float, u: np.ndarray) -> bool:
        """Whether replicated rows are the way to a Jacobian.

        A large state takes one backward pass for each of its rows instead: the calls of torch that this
        costs no longer matter, and the function is evaluated once and not ``width`` times.
        """
        return self.may_replicate and self._mode(s, u) is not Batching.LOOP

    @property
    def may_replicate(self) -> bool:
        """Whether replicated rows of a state are few enough, and all in this process."""
        if self.layout.size > BATCHED:
            return False
        return not self.space.is_distributed and self.layout.size * self.layout.width <= REPLICATED

    def _slope_and_jacobian(self, s: float, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """f and ∂f/∂u by replicated rows, as in :meth:`jacobian_blocks`, for one state."""
        layout, width = self.layout, self.layout.width
        # Filled by numpy, whose calls cost a tenth of torch's; this is where small systems spend their time.
        rows, times = np.empty((width, u.size)), np.empty(width)
        rows[:], times[:] = u, s
        leaf = torch.from_numpy(rows).requires_grad_()
        with torch.enable_grad():
            slopes = self._many(torch.from_numpy(times), leaf)
            grads = gradient(slopes, leaf, self._identity)
        grads = _own(grads, self._identity)
        self.rhs_evals += 1 - width
        self.jacobians += 1
        blocks = grads.numpy().reshape(width, layout.samples, width).swapaxes(0, 1)
        return slopes.detach().numpy()[0], blocks

    @cached_property
    def _identity(self) -> Tensor:
        """The cotangent of the replicated rows: copy r asks for row r of every sample's Jacobian."""
        width, samples = self.layout.width, self.layout.samples
        eye = torch.eye(width, dtype=torch.float64)
        return eye[:, None, :].expand(width, samples, width).reshape(width, self.layout.size)

    @property
    def last_slope(self) -> np.ndarray:
        """The result of the last :meth:`evaluate`."""
        return self._last_slope

    def _checked(self, value: State) -> State:
        parts = value if isinstance(value, tuple | list) else (value,)
        if isinstance(value, tuple | list) != self.layout.is_tuple or not all(
            isinstance(part, Tensor) for part in parts
        ):
            kind = "a tuple of tensors" if self.layout.is_tuple else "a tensor"
            raise TypeError(f"func must return {kind} like y0, not {type(value).__name__}")
        for part in parts:
            _require_real(part.dtype)
        shapes = tuple(part.shape for part in parts)
        if shapes != self.layout.shapes:
            want, got = (
                (tuple(map(tuple, s)) if self.layout.is_tuple else tuple(s[0]))
                for s in (self.layout.shapes, shapes)
            )
            raise ValueError(f"func returned shape {got}, but y0 has shape {want}")
        return tuple(parts) if self.layout.is_tuple else parts[0]

    def _mode(self, s: float, u: np.ndarray, samples: Sequence[Sample] = ()) -> Batching:
        if self._batching is None and self.layout.size > BATCHED:
            self._batching = Batching.LOOP
        if self._batching is None:
            time = self.span.own_time(self.direction * s)
            others = [self.direction * other for other in self.span.times_within(self.layout.dtype)]
            samples = [(state, self.direction * value) for state, value in samples]
            self._batching = batching_of(
                self.func,
                self.layout,
                torch.tensor(time, dtype=torch.float64),
                torch.from_numpy(u),
                others,
                samples,
            )
        return self._batching

    def batching_at(self, s: float, u: np.ndarray, samples: Sequence[Sample] = ()) -> Batching:
        """How the function is evaluated at several states at once, tried out at one if need be.

        ``samples``: states near to it with values of f that are known.
        """
        if self.space.is_distributed or self.is_large:
            return Batching.LOOP
        return self._mode(s, u, samples)

    def batch_no_longer(self) -> None:
        """Go on with a slower way of batching, since the one so far has shown a wrong value."""
        assert self._batching is not None
        not_batched(self.func, self.layout, self._batching)
        self._batching = Batching.VMAP if self._batching is Batching.NATIVE else Batching.LOOP

    def _many(self, s: Tensor, u: Tensor, func: Func | None = None, ends: Tensor | None = None) -> Tensor:
        """f, or ``func`` in its place, at K times (K,) and states (K, size), both float64, differentiable.

        At times beyond the span it depends on the ``ends`` of that as well.
        """
        expanded = self.span.expanded(s, ends) if self.span.degree else None
        if expanded is not None:
            rows, weights = expanded.rows.to(u.device), expanded.weights.to(u.device)
            slopes = self._many_within(expanded.times, u[rows], func)
            return torch.zeros_like(u).index_add(0, rows, weights[:, None] * slopes)
        return self._many_within(s, u, func)

    def _many_within(self, s: Tensor, u: Tensor, func: Func | None) -> Tensor:
        """The same at times within the span."""
        if s.requires_grad and func is None and torch.is_grad_enabled():
            differences = self._differences_in_time(u)
            if differences is not None:
                return differences.evaluate(self._evaluate, s, u)
        return self._evaluate(s, u, func)

    def _evaluate(self, s: Tensor, u: Tensor, func: Func | None = None) -> Tensor:
        """The same, with derivatives with respect to time as torch has them."""
        func = self.func if func is None else func
        self.rhs_evals += len(s)
        # A single state needs no batch, nor the attempts with which one is tried out.
        if len(s) == 1 or self.space.is_distributed or self.is_large:
            mode = Batching.LOOP
        else:
            mode = self._batching or self._mode(float(s[0].detach()), u[0].detach().numpy())
        if self._plain and self.direction > 0:
            return _real(evaluate_many(func, self.layout, mode, s, u))
        # Vectors live where PETSc works, in double precision; the function on its own device, in its own.
        device, dtype = self.layout.device, self.layout.dtype
        times, states = (self.direction * s).to(device, dtype), u.to(device, dtype)
        if dtype != torch.float64:
            times = self.span.own_times(times)
        slopes = _real(evaluate_many(func, self.layout, mode, times, states))
        return self.direction * slopes.to(u.device, torch.float64)

    def _differences_in_time(self, u: Tensor) -> TimeDifferences | None:
        """What ∂f/∂s is taken from where torch does not see it, tried out when it is first asked for."""
        if not self._time_is_known:
            self._time_is_known = True  # first, since trying calls what asks for this
            counts = self.rhs_evals, self.jacobians
            self._time_differences = time_differences(
                self._evaluate, self.span, self.layout.dtype, u[0].detach(), self.space, remembered(self.func)
            )
            self.rhs_evals, self.jacobians = counts
        return self._time_differences

    def differentiable(self, s: Tensor, u: Tensor) -> Tensor:
        """f at K states with a graph back to what requires a gradient: (K,), (K, size) -> (K, size)."""
        return self._many(s, u)

    def evaluate_shared(self, s: float, u: Tensor, with_jacobian: bool = False) -> Tensor:
        """:meth:`evaluate` where the state is a tensor on the device of ``func``, as one there."""
        self.forget()
        s = self.span.trim(s)
        if with_jacobian:
            return self._slope_with_graph(s, u.clone())
        with torch.no_grad():
            return self._many(torch.tensor([s], dtype=torch.float64), u[None])[0]

    def graph(self, s: float, u: Array) -> Graph:
        """f at one state with its Jacobian's products; the last :meth:`evaluate` may have it already."""
        self.jacobians += 1
        s, u = self.span.trim(s), self._placed(u)
        return self._last_graph.take(s, u, self.space) or self._graph(s, u)[0]

    def copied(self, u: Vector) -> Vector:
        """A copy of a state, which may be that of the last :meth:`evaluate`; it must not be written to."""
        kept = self._last_graph.state(u)
        if kept is not None:
            return kept
        return u.clone() if isinstance(u, Tensor) else u.copy()

    def _placed(self, u: Array) -> Array:
        """A state where graphs begin."""
        if self.shares_vectors and isinstance(u, np.ndarray):
            return torch.from_numpy(u).to(self.layout.device)
        return u

    def _slope_with_graph(self, s: float, u: Array) -> Tensor:
        """f at a state; its graph is kept until :meth:`graph` asks for it."""
        graph, slope = self._graph(s, u)
        self._last_graph.keep(s, u, graph)
        return slope

    def _graph(self, s: float, u: Array) -> tuple[Graph, Tensor]:
        """The graph of f at a state, which must stay as it is, and the value."""
        with torch.enable_grad():
            if isinstance(u, np.ndarray):
                u = torch.from_numpy(u if u.flags.writeable else u.copy())
            leaf = u.detach().requires_grad_()
            slope = self._many(torch.tensor([s], dtype=torch.float64), leaf[None], self._for_graphs())[0]
        return Graph(leaf, slope, self.layout.dtype, self.is_large), slope.detach()

    def _for_graphs(self) -> Func:
        """The function; if the state is large, with parameters whose gradients no graph need be kept for."""
        func = self.func
        if not self.is_large or not isinstance(func, nn.Module) or isinstance(func, torch.jit.ScriptModule):
            return func
        values = {name: parameter.detach() for name, parameter in func.named_parameters()}
        return lambda t, y: functional_call(func, values, (t, y))

    def evaluate_many(self, s: Tensor, u: Tensor, with_jacobian: bool = False) -> Tensor:
        """f at K states without gradients: (K,), (K, size) -> (K, size).

        ``with_jacobian`` says that the Jacobian will be wanted at these states too, before they change: the
        graph of a single one then serves for both.
        """
        if with_jacobian and self.keeps_graphs and len(s) == 1:
            return self._slope_with_graph(float(s[0]), self._placed(u[0].numpy())).cpu()[None]
        with torch.no_grad():
            return self._many(s, u)

    def jacobian_blocks(self, s: Tensor, u: Tensor) -> Tensor:
        """∂f/∂u at K states: (K,), (K, size) -> (K, samples, width, width).

        By replicated rows: f at ``width`` copies of each state, then one backward pass in which copy
        r asks for row r of the Jacobian of every sample at once.
        """
        count, (samples, width) = len(s), (self.layout.samples, self.layout.width)
        self.jacobians += count
        eye = torch.eye(width, dtype=torch.float64)
        if not self._replicates(float(s[0]), u[0].numpy()):
            return self._jacobian_rows(s, u, eye)
        with torch.enable_grad():
            leaf = u.detach().repeat_interleave(width, dim=0).requires_grad_()
            slopes = self._many(s.repeat_interleave(width), leaf).view(count, width, samples, width)
            self.rhs_evals -= count * (width - 1)
            grads = _own(gradient(slopes, leaf, eye[None, :, None, :].expand_as(slopes)), eye)
        return grads.view(count, width, samples, width).transpose(1, 2)

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

    def state_vjp(self, s: Tensor, u: Tensor, cotangents: Tensor) -> Tensor:
        """Jᵀw at K states: (K,), (K, size), (K, size) -> (K, size)."""
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            return gradient(self._many(s, leaf), leaf, cotangents)

    def evaluate_differentiably(self, s: Tensor, u: Tensor) -> Tensor:
        """f at K states, with the graph of all that it depends on: (K,), (K, size) -> (K, size)."""
        with torch.enable_grad():
            return self._many(s, u)

    def vjp(
        self, s: Tensor, u: Tensor, cotangents: Tensor, wrt_time: bool
    ) -> tuple[Tensor, list[Tensor | None], Tensor, Tensor]:
        """Values of f at K states, and the products of ``cotangents`` (K, size) with ∂f/∂θ and ∂f/∂s.

        Returns f (K, size), a gradient for each of ``parameters`` (None where f does not depend on
        it), wᵀ∂f/∂s (K,), zero unless ``wrt_time``, and the same (2,) for the ends of the span, on which f
        depends at times beyond them.
        """
        if len(s) > 1 and self.is_large:
            return self._vjp_one_by_one(s, u, cotangents, wrt_time)
        times, ends = s.detach().requires_grad_(wrt_time), self.span.ends().requires_grad_(wrt_time)
        wanted: Sequence[Tensor] = [*self.parameters, *([times, ends] if wrt_time else [])]
        with torch.enable_grad():
            slopes = self._many(times, u.detach(), ends=ends)
        self._require_known(slopes, s, u, wanted)
        if slopes.requires_grad and wanted:
            grads: list[Tensor | None] = [
                *torch.autograd.grad(slopes, wanted, cotangents, retain_graph=True, allow_unused=True)
            ]
        else:
            grads = [None] * len(wanted)
        own = len(self.parameters)
        wrt_s, wrt_ends = torch.zeros_like(s), torch.zeros(2, dtype=torch.float64)
        for into, part in zip((wrt_s, wrt_ends), grads[own:], strict=False):
            if part is not None:
                into.copy_(part)
        return slopes.detach(), grads[:own], wrt_s, wrt_ends

    def _vjp_one_by_one(
        self, s: Tensor, u: Tensor, cotangents: Tensor, wrt_time: bool
    ) -> tuple[Tensor, list[Tensor | None], Tensor, Tensor]:
        """The graph of one large state at a time."""
        slopes, wrt_s, wrt_ends = (
            torch.empty_like(u),
            torch.zeros_like(s),
            torch.zeros(2, dtype=torch.float64),
        )
        gradients: list[list[Tensor | None]] = []
        for k in range(len(s)):
            one = slice(k, k + 1)
            slopes[one], found, wrt_s[one], at_ends = self.vjp(s[one], u[one], cotangents[one], wrt_time)
            wrt_ends += at_ends
            gradients.append(found)
        return slopes, [added(parts) for parts in zip(*gradients, strict=True)], wrt_s, wrt_ends

    def state_jvp(self, s: Tensor, u: Tensor, directions: Tensor) -> Tensor:
        """J v at K states: (K,), (K, size), (K, size) -> (K, size)."""
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            return derivative(self._many(s, leaf), [leaf], [directions]).detach()

    def jvps(self, s: Tensor, u: Tensor, directions: Sequence[Sequence[Tensor | None]]) -> Tensor:
        """∂f/∂θ along P directions, each given by parameter (None: no change): -> (P, K, size)."""
        result = torch.zeros(len(directions), *u.shape, dtype=torch.float64)
        with torch.enable_grad():
            slopes = self._many(s, u.detach())
            for row, direction in zip(result, directions, strict=True):
                pairs = [(p, v) for p, v in zip(self.parameters, direction, strict=True) if v is not None]
                if pairs:
                    row.copy_(derivative(slopes, *zip(*pairs, strict=True)).detach())
        return result

    def second_vjp(
        self, s: Tensor, u: Tensor, cotangents: Tensor, tangents: Tensor, direction: Sequence[Tensor | None]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The derivatives of Jᵀf̄ (K, size) and f_θᵀf̄ along (``tangents`` of u, ``direction`` of θ)."""
        with torch.enable_grad():
            leaf = u.detach().clone().requires_grad_()
            slopes = self._many(s, leaf)
            moved = [(leaf, tangents)]
            moved += [(p, v) for p, v in zip(self.parameters, direction, strict=True) if v is not None]
            inputs = [leaf, *self.parameters]
            if slopes.requires_grad:
                change = (derivative(slopes, *zip(*moved, strict=True)) * cotangents).sum()
            if not slopes.requires_grad or not change.requires_grad:
                return torch.zeros_like(u), [None] * len(self.parameters)
            grads: list[Tensor | None] = [
                *torch.autograd.grad(change, inputs, retain_graph=True, allow_unused=True)
            ]
        return torch.zeros_like(u) if grads[0] is None else grads[0], grads[1:]

    def time_derivative(self, s: Tensor, u: Tensor) -> Tensor:
        """∂f/∂s at K states: -> (K, size)."""
        with torch.enable_grad():
            times = s.detach().clone().requires_grad_()
            return derivative(self._many(times, u.detach()), [times], [torch.ones_like(s)]).detach()

    def directional_blocks(self, s: Tensor, u: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """∂/∂u of D = J y + τ ∂f/∂s at K states: -> (K, samples, width, width)."""
        count, (samples, width) = len(s), (self.layout.samples, self.layout.width)
        eye = torch.eye(width, dtype=torch.float64)
        loop = not self._replicates(float(s[0]), u[0].numpy())
        copies = 1 if loop else width
        with torch.enable_grad():
            leaf = u.detach().repeat_interleave(copies, dim=0).requires_grad_()
            times = s.repeat_interleave(copies).requires_grad_()
            along = [y.repeat_interleave(copies, dim=0), tau.repeat_interleave(copies)]
            slopes = derivative(self._many(times, leaf), [leaf, times], along)
            slopes = slopes.view(count, copies, samples, width)
            self.rhs_evals -= count * (copies - 1)
            if loop:
                rows = [gradient(slopes, leaf, eye[r].expand_as(slopes), retain=True) for r in range(width)]
                grads = torch.stack(rows, dim=1)
            else:
                grads = gradient(slopes, leaf, eye[None, :, None, :].expand_as(slopes))
        return grads.view(count, width, samples, width).transpose(1, 2)

    def directional_vjp(
        self, s: Tensor, u: Tensor, y: Tensor, tau: Tensor, cotangents: Tensor, others: bool
    ) -> tuple[Tensor, list[Tensor | None], Tensor, Tensor]:
        """Products of ``cotangents`` (K, size) with the derivatives of D = J y + τ ∂f/∂s at K states.

        Returns those with respect to u (K, size), and if ``others`` to each of ``parameters`` (summed
        over the states), s (K,) and τ (K,).
        """
        with torch.enable_grad():
            leaf, times = u.detach().requires_grad_(), s.detach().clone().requires_grad_()
            tau = tau.detach().requires_grad_()
            slopes = derivative(self._many(times, leaf), [leaf, times], [y, tau])
            inputs = [leaf, *([times, tau, *self.parameters] if others else [])]
            grads: list[Tensor | None] = [None] * len(inputs)
            if slopes.requires_grad:
                grads = [
                    *torch.autograd.grad(slopes, inputs, cotangents, retain_graph=True, allow_unused=True)
                ]
        zeros = [torch.zeros_like(value) for value in (leaf, times, tau)]
        parts = [*grads[:3], *[None] * (3 - len(grads[:3]))]
        wrt_u, wrt_s, wrt_tau = (z if g is None else g for z, g in zip(zeros, parts, strict=True))
        return wrt_u.detach(), grads[3:], wrt_s.detach(), wrt_tau.detach()


def _require_real(dtype: torch.dtype) -> None:
    if dtype.is_complex:
        raise TypeError(
            f"func must return real values, not {dtype}, whose imaginary part would be lost. Try: y0 = "
            "torch.view_as_real(z0), and in func torch.view_as_complex(y) and torch.view_as_real(result)"
        )
    if dtype == torch.bool:
        raise TypeError(
            f"func must return numbers, not {dtype}. Try: torch.where(condition, 1.0, 0.0), or "
            "condition.to(y.dtype)"
        )


def _real(slopes: Tensor) -> Tensor:
    """Slopes in double precision; integers are as good as other numbers."""
    if slopes.dtype == torch.float64:
        return slopes
    _require_real(slopes.dtype)
    return slopes.double()


def _own(gradients: Tensor, cotangents: Tensor) -> Tensor:
    """In memory of their own: func may pass cotangents on, and the caller may overwrite a Jacobian."""
    shared = gradients.untyped_storage().data_ptr() == cotangents.untyped_storage().data_ptr()
    return gradients.clone() if shared else gradients
