"""The user's function as du/ds = f(s, u; θ) on one flat float64 vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from stiffml.system.function.batching import Batching, Func, Sample, batching_of, evaluate_many, not_batched
from stiffml.system.function.cache import remembered
from stiffml.system.function.span import Span
from stiffml.system.function.time_differences import TimeDifferences, time_differences
from stiffml.system.space import Space
from stiffml.system.state import Layout, State

REPLICATED = 1_000_000
"""Numbers in the replicated rows of one state up to which the Jacobian is evaluated by them."""

BATCHED = 100_000
"""Numbers in a state up to which batches of states are tried: beyond, arithmetic costs more than calls."""

ALONE = 10_000
"""Numbers in a state from which one evaluation after the other costs as little as a batch of them, and needs
no trial of how f is batched."""

LARGE = 500_000
"""Numbers in a state above which memory counts for more than calls of the function."""

_HINTS = {
    np.ndarray: ": by operations of torch on y, not of numpy, which torch cannot differentiate",
    list: ": such as torch.stack([-y[0], y[1]]) in place of [-y[0], y[1]]",
}
"""What to do, by the type of a value that is none."""


class Evaluation:
    """``func`` at one state or at many, as the solver sees it.

    The solver's time s runs forward: s = ``direction`` · t, so that a solve with decreasing times is
    one of −f(−s, u). States are float64 whatever the user's dtype is; ``func`` sees its own dtype.

    Attributes
    ----------
    space : Space
        The processes that hold the state.
    span : Span
        The times at which the function may be called.
    parameters : tuple of Tensor
        Tensors that gradients are wanted for.
    eps : float
        The unit of rounding of the user's dtype.
    largest : int
        Numbers in the largest part of a state, over all processes. The work is divided by it, since that must
        be the same in all processes.
    batching : Batching or None
        How many states are evaluated at once; None until that is tried out.
    rhs_evals : int
        States at which the function was evaluated so far, not counting the trials before the solve.
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
        self.rhs_evals = 0
        self._plain = not layout.is_tuple and layout.dtype == torch.float64 and layout.device.type == "cpu"
        self.batching: Batching | None = None
        self._time_differences: TimeDifferences | None = None
        self._time_is_known = False

    @cached_property
    def is_large(self) -> bool:
        """Whether memory counts for more than calls of the function."""
        return self.largest > LARGE

    @property
    def prefers_single_states(self) -> bool:
        """Whether a batch of states would save nothing, unless it is known already how to evaluate one."""
        return self.is_large or (self.batching is None and self.layout.size > ALONE)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Evaluations within this are not counted, as those of trials are not."""
        count = self.rhs_evals
        yield
        self.rhs_evals = count

    def evaluate_anew(self, s: float, u: np.ndarray) -> np.ndarray:
        """f at one state, always by a call of the function."""
        return self._slope(self.span.trim(s), u.copy())

    def evaluate_once(self, s: float, u: np.ndarray) -> np.ndarray:
        """f at one state that nobody will ask for again; the result must not be written to."""
        return self._slope(self.span.trim(s), u.copy() if self._plain else u)

    def _slope(self, s: float, u: np.ndarray) -> np.ndarray:
        if self.span.degree and not self.span.begin <= s <= self.span.end:
            time, state = torch.tensor([s], dtype=torch.float64), torch.from_numpy(u)[None]
            with torch.no_grad():
                return self._many(time, state)[0].numpy()
        return self._as_slope(self._called(s, u))

    def _called(self, s: float, u: np.ndarray) -> Tensor:
        """func at one state, as a flat vector in its own dtype, direction and device."""
        layout = self.layout
        return self._called_at(s, layout.unflatten(torch.from_numpy(u).to(layout.device, layout.dtype)))

    def _called_at(self, s: float, y: State) -> Tensor:
        layout = self.layout
        time = self.span.own_time(self.direction * s)
        t = torch.tensor(time, dtype=layout.dtype, device=layout.device)
        value = self._checked(self.func(t, y))
        self.rhs_evals += 1
        return layout.flatten(value)

    def called_with_leaf(self, s: float, u: np.ndarray) -> tuple[Tensor, Tensor, np.ndarray]:
        """func at one state (size,) within the span, from a leaf (size,) in its own dtype and on its device.

        Returns the leaf, which may share memory with ``u``; func's value as a flat vector, with its graph;
        and f, as ``evaluate_anew`` does.
        """
        layout = self.layout
        leaf = torch.from_numpy(u).to(layout.device, layout.dtype).requires_grad_()
        value = self._called_at(self.span.trim(s), layout.unflatten(leaf))
        return leaf, value, self._as_slope(value)

    def _as_slope(self, value: Tensor) -> np.ndarray:
        is_plain = self._plain and value.dtype == torch.float64  # then there is nothing to convert
        flat = value.detach().numpy() if is_plain else value.detach().double().cpu().numpy()
        return flat if self.direction > 0 else -flat

    @cached_property
    def may_replicate(self) -> bool:
        """Whether replicated rows of a state take little enough memory, and all lie in this process."""
        if self.layout.size > BATCHED:
            return False
        return not self.space.is_distributed and self.layout.size * self.layout.width <= REPLICATED

    def _replicates(self, s: float, u: np.ndarray) -> bool:
        """Whether a Jacobian is evaluated by replicated rows.

        For a large state it takes one backward pass for each row instead. The overhead of these calls no
        longer matters then, and the function is evaluated once and not ``width`` times.
        """
        return self.may_replicate and self._mode(s, u) is not Batching.LOOP

    def _checked(self, value: State) -> State:
        usual = torch.float64, self.layout.shapes[0]
        if self._plain and type(value) is Tensor and (value.dtype, value.shape) == usual:
            return value
        parts = value if isinstance(value, tuple | list) else (value,)
        if isinstance(value, tuple | list) != self.layout.is_tuple or not all(
            isinstance(part, Tensor) for part in parts
        ):
            kind = "a tuple of tensors" if self.layout.is_tuple else "a tensor"
            hint = _HINTS.get(type(value), "")
            raise TypeError(f"func must return {kind} like y0, not {type(value).__name__}{hint}")
        for part in parts:
            _require_real(part.dtype)
        shapes = tuple(part.shape for part in parts)
        if shapes != self.layout.shapes:
            want, got = (
                (tuple(map(tuple, s)) if self.layout.is_tuple else tuple(s[0]))
                for s in (self.layout.shapes, shapes)
            )
            is_time = not self.layout.is_tuple and got == () != want
            hint = "; it is called as func(t, y), time first" if is_time else ""
            raise ValueError(f"func returned shape {got}, but y0 has shape {want}{hint}")
        return tuple(parts) if self.layout.is_tuple else parts[0]

    def _mode(self, s: float, u: np.ndarray, samples: Sequence[Sample] = ()) -> Batching:
        if self.batching is None and self.layout.size > BATCHED:
            self.batching = Batching.LOOP
        if self.batching is None:
            time = self.span.own_time(self.direction * s)
            others = [self.direction * other for other in self.span.times_within(self.layout.dtype)]
            samples = [(state, self.direction * value) for state, value in samples]
            self.batching = batching_of(
                self.func,
                self.layout,
                torch.tensor(time, dtype=torch.float64),
                torch.from_numpy(u),
                others,
                samples,
            )
        return self.batching

    def batching_at(self, s: float, u: np.ndarray, samples: Sequence[Sample] = ()) -> Batching:
        """How the function is evaluated at several states at once; tried out at a state the first time.

        ``samples``: states near that one, with the values of f there.
        """
        if self.space.is_distributed or self.is_large:
            return Batching.LOOP
        return self._mode(s, u, samples)

    def batch_no_longer(self) -> None:
        """Go on with a slower way of batching, after the present one has given a wrong value."""
        assert self.batching is not None
        not_batched(self.func, self.layout, self.batching)
        self.batching = Batching.VMAP if self.batching is Batching.NATIVE else Batching.LOOP

    def _many(
        self, s: Tensor, u: Tensor, func: Func | None = None, ends: Tensor | None = None, copies: int = 1
    ) -> Tensor:
        """f, or ``func`` instead, at K times (K,) and states (K, size), both float64; differentiable.

        At times beyond the span the values depend on its ``ends`` as well. ``copies``: so many rows in turn
        are the same state, which counts as one evaluation.
        """
        expanded = self.span.expanded(s, ends) if self.span.degree else None
        if expanded is not None:
            rows, weights = expanded.rows.to(u.device), expanded.weights.to(u.device)
            slopes = self._many_within(expanded.times, u[rows], func, copies)
            return torch.zeros_like(u).index_add(0, rows, weights[:, None] * slopes)
        return self._many_within(s, u, func, copies)

    def _many_within(self, s: Tensor, u: Tensor, func: Func | None, copies: int) -> Tensor:
        """The same at times within the span."""
        if s.requires_grad and func is None and torch.is_grad_enabled():
            differences = self._differences_in_time(u)
            if differences is not None:
                return differences.evaluate(partial(self._evaluate, copies=copies), s, u)
        return self._evaluate(s, u, func, copies)

    def _evaluate(self, s: Tensor, u: Tensor, func: Func | None = None, copies: int = 1) -> Tensor:
        """The same, with torch's own derivative with respect to time."""
        func = self.func if func is None else func
        self.rhs_evals += len(s) // copies
        # A single state needs no batch, nor the attempts with which one is tried out.
        if len(s) == 1 or self.space.is_distributed or self.is_large:
            mode = Batching.LOOP
        else:
            mode = self.batching or self._mode(float(s[0].detach()), u[0].detach().numpy())
        if self._plain and self.direction > 0:
            return _real(evaluate_many(func, self.layout, mode, s, u))
        # Vectors are in double precision on the host; the function has its own precision and device.
        device, dtype = self.layout.device, self.layout.dtype
        times, states = (self.direction * s).to(device, dtype), u.to(device, dtype)
        if dtype != torch.float64:
            times = self.span.own_times(times)
        slopes = _real(evaluate_many(func, self.layout, mode, times, states))
        return self.direction * slopes.to(u.device, torch.float64)

    def _differences_in_time(self, u: Tensor) -> TimeDifferences | None:
        """The differences for ∂f/∂s if torch does not see it; tried out the first time."""
        if not self._time_is_known:
            self._time_is_known = True  # before the trial, which comes here again
            state, known = u[0].detach(), remembered(self.func)
            with self.uncounted():
                self._time_differences = time_differences(
                    self._evaluate, self.span, self.layout.dtype, state, self.space, known
                )
        return self._time_differences

    def evaluate_differentiably(
        self, s: Tensor, u: Tensor, ends: Tensor | None = None, copies: int = 1
    ) -> Tensor:
        """f at K states, with the graph of all that it depends on: (K,), (K, size) -> (K, size).

        At times beyond the span that includes its ``ends``. ``copies``: so many rows in turn are the same
        state, which counts as one evaluation.
        """
        with torch.enable_grad():
            return self._many(s, u, ends=ends, copies=copies)


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
    """Slopes in double precision; functions may return integers."""
    if slopes.dtype == torch.float64:
        return slopes
    _require_real(slopes.dtype)
    return slopes.double()
