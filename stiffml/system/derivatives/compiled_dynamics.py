"""The user's function with its derivatives from compiled code, as far as that has them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from stiffml.errors import ReplayError
from stiffml.parameters.leaves import origin
from stiffml.parameters.names import Reached
from stiffml.parameters.watch import Watch
from stiffml.system.derivatives.compilation import Compiled, Start, compiled, kept_form
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.finite import is_finite
from stiffml.system.function.batching import Batching, Sample
from stiffml.system.function.generic_states import beside
from stiffml.system.trial_memory import OutdatedError

NUMBERS = 4_000_000
"""Derivatives by parameters that are made at once (32 MB)."""


class CompiledDynamics(Dynamics):
    """Values, Jacobians and first derivatives by compiled code; trials, graphs and all else by torch.

    At times beyond the span, where f is extrapolated, torch evaluates it too.

    Attributes
    ----------
    compiled : Compiled

    ``start``: where the solve begins, if values near it have been compared with those of torch, as far as
    these are finite.
    """

    is_compiled = True

    def __init__(self, dynamics: Dynamics, compiled: Compiled, start: Start | None = None) -> None:
        super().__init__(
            dynamics.func,
            dynamics.layout,
            dynamics.direction,
            dynamics.parameters,
            dynamics.space,
            dynamics.span,
        )
        self.makes_leaves, self.rhs_evals = dynamics.makes_leaves, dynamics.rhs_evals
        self._take(compiled)
        self._last: tuple[float, np.ndarray] | None = None
        self._start = start
        self._watch: Watch | None = None

    def _take(self, compiled: Compiled) -> None:
        self.compiled, self._code = compiled, compiled.code
        self.has_cheap_jacobian = not compiled.code.by_columns

    def renew(self) -> None:
        if self._watch is None:
            self._watch = Watch(self.func)
        if self.compiled.has_its_constants and self._watch.sees(self.func):
            self.compiled.renew()
            return
        # Other values of a buffer, say: they become numbers that the code reads.
        assert self._start is not None, "solves that repeat others are not renewed"
        found = compiled(self.func, self.layout, self.space, self._start, required=True)
        assert found is not None, "it would have raised"
        self._take(found)
        self._watch = Watch(self.func)
        vars(self).pop("places", None)

    def expect(self, states: int, numbers: int) -> None:
        self._code.begin(("forward", self._derivatives_by(numbers)), states)

    def _derivatives_by(self, numbers: int) -> str:
        """A product for each number, or one for each component, whichever are fewer."""
        return "push" if numbers < self._code.size else "pull"

    def stepped(self, evaluations: int, jacobians: int, s: float, u: np.ndarray) -> None:
        """Count what code in C has evaluated by itself, up to a time and a state (size,)."""
        super().stepped(evaluations, jacobians, s, u)
        self._at(np.array([s]), u[None])

    def confirm(self) -> None:
        """Compare the value beside the state where compiled code was last asked with that of torch.

        At the state itself, an equilibrium perhaps, values may be the same by chance.

        Raises
        ------
        OutdatedError
            If they differ, and values at the start have not been compared.
        ReplayError
            If they differ, and these were the same.
        """
        if self._last is None:
            return
        t, u = self._last
        u = beside(u)
        try:
            value = self._torchs(t, u)
            is_known = is_finite(value)
        except Exception:  # the user's function may raise anything at a state that the solve has not come to
            is_known = False
        if not is_known:
            u = self._last[1]
            value = self._torchs(t, u)
        off = self.compiled.excess(t, u, value) if is_finite(value) else 0.0
        if not off or not self.compiled.is_as_it_was:
            return
        if self._start is None:
            raise OutdatedError
        raise ReplayError(
            f"compile: at t = {t:.10g}, where the solve ended, func differs from its compiled form by "
            f"{off:.3g}. It has changed during the solve, or part of it has left torch. Try: compile=False"
        )

    def _torchs(self, t: float, u: np.ndarray) -> np.ndarray:
        """The function's own value (size,) at its own time."""
        with torch.no_grad():
            y = self.layout.unflatten(torch.from_numpy(u.copy()))
            return self.layout.flatten(self.func(torch.tensor(t, dtype=torch.float64), y)).numpy()

    def is_as_it_was(self) -> bool:
        """Whether first derivatives are of compiled code alone, and tensors have the values that it has."""
        compiled, own = self.compiled, self.places is not None and not self.span.degree
        # What is compared with torch now, if it has not been, comes last: func must be that of the run.
        return own and compiled.is_as_it_was and compiled.has_its_constants and compiled.may("pull")

    def evaluate_anew(self, s: float, u: np.ndarray) -> np.ndarray:
        return super()._slope(self.span.trim(s), u.copy())

    def known_slope(self, s: float, u: np.ndarray) -> np.ndarray | None:
        # That of compiled code, which is compared with torch at the end of the solve.
        with self.uncounted():
            return None if self.extrapolates(s) else self.evaluate(s, u)

    def _slope(self, s: float, u: np.ndarray) -> np.ndarray:
        if self.extrapolates(s):
            return super()._slope(s, u)
        self.rhs_evals += 1
        t, y = self._at(np.array([s]), u[None])
        return self._forward(self._code.values(t, y, self.compiled.p)).reshape(-1)

    def _slope_and_jacobian(self, s: float, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slopes, blocks = self.values_and_blocks(
            torch.tensor([s], dtype=torch.float64), torch.from_numpy(u)[None]
        )
        return slopes[0].numpy(), blocks[0].numpy()

    def _replicates(self, s: float, u: np.ndarray) -> bool:
        return self.may_replicate

    def batching_at(self, s: float, u: np.ndarray, samples: Sequence[Sample] = ()) -> Batching:
        return Batching.LOOP

    def evaluate_many(self, s: Tensor, u: Tensor) -> Tensor:
        if self.extrapolates(s.numpy()):
            return super().evaluate_many(s, u)
        self.rhs_evals += len(s)
        t, y = self._at(s.numpy(), u.numpy())
        return torch.from_numpy(self._forward(self._code.values(t, y, self.compiled.p))).view(u.shape)

    def jacobian_blocks(self, s: Tensor, u: Tensor) -> Tensor:
        return self.values_and_blocks(s, u)[1]

    def values_and_blocks(self, s: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        if self.extrapolates(s.numpy()):
            return super().values_and_blocks(s, u)
        self.rhs_evals += len(s)
        self.jacobians += len(s)
        t, y = self._at(s.numpy(), u.numpy())
        samples, width = self.layout.samples, self.layout.width
        f, blocks = self._code.blocks(t, y, self.compiled.p, width)
        shape = (len(s), samples, width, width)
        return (
            torch.from_numpy(self._forward(f)).view(u.shape),
            torch.from_numpy(self._forward(blocks)).view(shape),
        )

    def state_vjp(self, s: Tensor, u: Tensor, cotangents: Tensor) -> Tensor:
        if self.extrapolates(s.numpy()) or not self.compiled.may("pull"):
            return super().state_vjp(s, u, cotangents)
        return torch.from_numpy(self._pulled(s, u, cotangents)[1]).view(u.shape)

    def vjp(
        self, s: Tensor, u: Tensor, cotangents: Tensor, wrt_time: bool
    ) -> tuple[Tensor, list[Tensor | None], Tensor, Tensor]:
        places = self.places
        if places is None or self.extrapolates(s.numpy()) or not self.compiled.may("pull"):
            return super().vjp(s, u, cotangents, wrt_time)
        f, _, wrt_t, wrt_p = self._pulled(s, u, cotangents)
        grads: list[Tensor | None] = []
        for parameter, place in zip(self.parameters, places, strict=True):
            part = None
            if place is not None:
                # Shaped by numpy, which is faster at it.
                part = torch.from_numpy(wrt_p[place].reshape(parameter.shape))
                part = part if parameter.dtype == part.dtype else part.to(parameter)
            grads.append(part)
        wrt_s = torch.from_numpy(self.direction * wrt_t) if wrt_time else torch.zeros_like(s)
        return torch.from_numpy(f).view(u.shape), grads, wrt_s, torch.zeros(2, dtype=torch.float64)

    def state_jvp(self, s: Tensor, u: Tensor, directions: Tensor) -> Tensor:
        if self.extrapolates(s.numpy()) or not self.compiled.may("push"):
            return super().state_jvp(s, u, directions)
        return self._pushed(s, u, torch.zeros_like(s), directions)

    def time_derivative(self, s: Tensor, u: Tensor) -> Tensor:
        if self.extrapolates(s.numpy()) or not self.compiled.may("push"):
            return super().time_derivative(s, u)
        return self._pushed(s, u, torch.full_like(s, float(self.direction)), torch.zeros_like(u))

    def jvps(self, s: Tensor, u: Tensor, directions: Sequence[Sequence[Tensor | None]]) -> Tensor:
        places = self.places
        if places is None or self.extrapolates(s.numpy()) or not self.compiled.may("push"):
            return super().jvps(s, u, directions)
        self.rhs_evals += len(s)
        t, y = self._at(s.numpy(), u.numpy())
        result = torch.empty(len(directions), *u.shape, dtype=torch.float64)
        for row, direction in zip(result, directions, strict=True):
            q = np.zeros_like(self.compiled.p)
            for place, v in zip(places, direction, strict=True):
                if place is not None and v is not None:
                    q[place] = v.detach().double().cpu().numpy().ravel()
            moved = self._forward(self._code.move(t, y, self.compiled.p, q))
            row.copy_(torch.from_numpy(moved).view(u.shape))
        return result

    def parameter_jacobian(self, positions: Sequence[int], s: Tensor, u: Tensor) -> dict[int, Tensor] | None:
        places = self.places
        if places is None or self.extrapolates(s.numpy()) or not len(s):
            return None
        wanted = {position: place for position in positions if (place := places[position]) is not None}
        if not wanted:
            return {}
        sizes = [place.stop - place.start for place in wanted.values()]
        count = sum(sizes)
        by = self._derivatives_by(count)
        if not self.compiled.may(by):
            return None
        self.rhs_evals += len(s)
        t, y = self._at(s.numpy(), u.numpy())
        rows = self._moved_by_each if by == "push" else self._pulled_by_rows
        found = rows(t, y, list(wanted.values())).reshape(*u.shape, count)
        parts = np.split(found, np.cumsum(sizes)[:-1], -1)
        pairs = zip(wanted, parts, strict=True)
        return {position: torch.from_numpy(np.ascontiguousarray(part)) for position, part in pairs}

    def _moved_by_each(self, t: np.ndarray, y: np.ndarray, places: Sequence[slice]) -> np.ndarray:
        """∂f/∂p, (states, size, numbers), of the numbers at some places of p."""
        columns, unit = [], np.zeros_like(self.compiled.p)
        for i in (i for place in places for i in range(place.start, place.stop)):
            unit[i] = 1
            columns.append(self._code.move(t, y, self.compiled.p, unit))
            unit[i] = 0
        return self._forward(np.stack(columns, -1))

    def _pulled_by_rows(self, t: np.ndarray, y: np.ndarray, places: Sequence[slice]) -> np.ndarray:
        """The same by way of all of p, for as many times in turn as fit into memory."""
        p, samples = self.compiled.p, len(y) // len(t)
        most = max(1, NUMBERS // (samples * self._code.size * len(p)))
        found = []
        for first in range(0, len(t), most):
            last = min(first + most, len(t))
            rows = self._code.pull_rows(t[first:last], y[first * samples : last * samples], p)
            found.append(np.concatenate([rows[..., place] for place in places], -1))
        return self._forward(np.concatenate(found))

    @cached_property
    def places(self) -> list[slice | None] | None:
        """Where p has each of the parameters; None if p has a tensor that requires a gradient and is none."""
        place, slices = 0, {}
        for tensor in self.compiled.tensors:
            slices[origin(tensor)] = slice(place, place + tensor.numel())
            place += tensor.numel()
        known = {origin(parameter) for parameter in self.parameters}
        if any(tensor.requires_grad and origin(tensor) not in known for tensor in self.compiled.tensors):
            return None
        return [slices.get(origin(parameter)) for parameter in self.parameters]

    def _pulled(self, s: Tensor, u: Tensor, cotangents: Tensor) -> tuple[np.ndarray, ...]:
        self.rhs_evals += len(s)
        t, y = self._at(s.numpy(), u.numpy())
        w = self._rows(self._forward(cotangents.numpy()))
        f, *products = self._code.pull(t, y, self.compiled.p, w)
        return self._forward(f), *products

    def _pushed(self, s: Tensor, u: Tensor, along: Tensor, directions: Tensor) -> Tensor:
        self.rhs_evals += len(s)
        t, y = self._at(s.numpy(), u.numpy())
        v = self._rows(directions.numpy())
        found = self._code.push(t, y, self.compiled.p, np.ascontiguousarray(along.numpy()), v)
        return torch.from_numpy(self._forward(found)).view(u.shape)

    def _at(self, s: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The function's own times (K,), and the states as rows of compiled code."""
        t = np.ascontiguousarray(self._forward(s))
        if len(s):
            self._last = float(t[-1]), u[-1].copy()
        return t, self._rows(u)

    def _rows(self, u: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(u, dtype=np.float64).reshape(-1, self._code.size)

    def _forward(self, values: np.ndarray) -> np.ndarray:
        """Times, values or derivatives of func in the direction of the solver's time, or the reverse."""
        return values if self.direction > 0 else -values


def in_compiled_form(
    dynamics: Dynamics,
    u: np.ndarray,
    required: bool,
    reads: Reached | None = None,
    is_repeated: bool = False,
) -> Dynamics:
    """The same function in compiled form, for a solve that starts at ``u`` (size,).

    ``reads``: what it reads, if that is known. ``is_repeated``: see ``System.compile``.
    The function itself, after one warning, if it cannot be compiled; with ``required`` a ValueError.
    """
    if is_repeated:
        known = kept_form(dynamics.func, dynamics.layout, reads)
        return dynamics if known is None else CompiledDynamics(dynamics, known)
    span, direction = dynamics.span, dynamics.direction
    start = Start((direction * span.begin, direction * span.end), u)
    found = compiled(dynamics.func, dynamics.layout, dynamics.space, start, required, reads)
    return dynamics if found is None else CompiledDynamics(dynamics, found, start)
