"""The user's function in compiled form: made once, kept with it, and made anew when it has changed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from stiffml.compiled.check import agrees, excess, require_same
from stiffml.compiled.function import CompiledFunction
from stiffml.compiled.refusal import NotCompilableError, NotFiniteError
from stiffml.parameters.names import Reached, reached
from stiffml.system.function.batching import Func
from stiffml.system.function.cache import remembered
from stiffml.system.function.evaluation import BATCHED
from stiffml.system.function.generic_states import first_finite, nearby
from stiffml.system.function.span import FRACTIONS
from stiffml.system.space import Space
from stiffml.system.state import Layout

STATES = 3
"""At how many states a compiled function is compared with torch's."""

SPREAD = 0.3
"""How far apart these states are, relative to their components."""


@dataclass
class Start:
    """Where a solve begins and ends, in the time of the function: ``times`` (begin, end), ``u`` (size,)."""

    times: tuple[float, float]
    u: np.ndarray


@dataclass
class _Kept:
    """What is kept with a function, which it must not refer to: its code, and what it read when compiled."""

    code: CompiledFunction
    layout: Layout
    states: list[tuple[float, np.ndarray]]
    lifted: list[tuple[str | None, Tensor]]
    baked: list[tuple[str | None, Tensor, Tensor]]
    values: dict[str, object]
    usable: dict[str, bool] = field(default_factory=dict)


class Compiled:
    """A compiled function with the present values of the tensors that it reads.

    Attributes
    ----------
    code : CompiledFunction
        Of states (code.size,): one sample, or all.
    tensors : tuple of Tensor
        What p is made of.
    p : ndarray
        (parameters,) their values.

    ``named``: the tensors that the function reads now, by name.
    """

    def __init__(
        self,
        func: Func,
        kept: _Kept,
        tensors: tuple[Tensor, ...],
        named: Mapping[str, Tensor],
    ) -> None:
        self._func, self._kept, self._named = func, kept, named
        self.code, self.tensors = kept.code, tensors
        self.renew()

    def renew(self) -> None:
        """Take the values that the tensors have now."""
        self.p = self.code.packed(self.tensors)

    def may(self, what: str) -> bool:
        """Whether ``"pull"`` or ``"push"`` is right; compiled and compared with torch at the first call."""
        if what not in self._kept.usable:
            try:
                flat = _flat(self._func, self._kept.layout)
                require_same(flat, self.code, self._kept.states, what, self.tensors)
                self._kept.usable[what] = True
            except NotCompilableError as error:
                self._kept.usable[what] = False
                _warn(self._func, error)
        return self._kept.usable[what]

    def excess(self, t: float, u: np.ndarray, value: np.ndarray) -> float:
        """By how much the compiled value at a flat state (size,) differs from torch's, beyond rounding."""
        rows, size, at = u.reshape(-1, self.code.size), self.code.size, np.array([t])
        wanted = value.reshape(rows.shape)
        if agrees(self.code.values(at, rows, self.p), wanted):
            return 0.0
        found, blocks = self.code.blocks(at, rows, self.p, size)
        return max(excess(f, w, b, y) for f, w, b, y in zip(found, wanted, blocks, rows, strict=True))

    @property
    def is_as_it_was(self) -> bool:
        """Whether the tensors still have the values of :attr:`p`."""
        now = self.code.packed(self.tensors)
        return self.p.tobytes() == now.tobytes() or np.array_equal(self.p, now, equal_nan=True)

    @property
    def has_its_constants(self) -> bool:
        """Whether the tensors whose values are in the code still have these."""
        return all(
            torch.equal(_now(name, tensor, self._named).detach(), copy)
            for name, tensor, copy in self._kept.baked
        )


def compiled(
    func: Func,
    layout: Layout,
    space: Space,
    start: Start,
    required: bool = False,
    reads: Reached | None = None,
) -> Compiled | None:
    """The compiled form of a function, new or kept; None, after one warning, if it cannot be compiled.

    ``required``: raise ValueError instead. A kept one is used only while the function reads the same numbers,
    and has the same value near the start.
    """
    known, key = remembered(func), _key(layout)
    reads = reads or reached(func)
    before = known.get(key)
    inputs: list[Tensor] = []
    if isinstance(before, dict) and before == reads.values and not required:
        return None
    if isinstance(before, _Kept):
        tensors, inputs = _present(before, reads.values, reads.tensors)
        if tensors is not None:
            found, near = Compiled(func, before, tensors, reads.tensors), _value_near(func, layout, start)
            # Parameters of a fit may make func infinite; with others the code serves again.
            if near is None or found.excess(*near) == 0:
                return found
    try:
        _require_fit(layout, space)
        kept = _compile(func, layout, start, inputs)
    except NotCompilableError as error:
        if required:
            raise ValueError(f"compile: func cannot be compiled, because {error}") from error
        _warn(func, error)
        if not isinstance(error, NotFiniteError):
            known[key] = reads.values
        return None
    known[key] = kept
    return Compiled(func, kept, tuple(tensor for _, tensor in kept.lifted), reads.tensors)


def kept_form(func: Func, layout: Layout, reads: Reached | None = None) -> Compiled | None:
    """The compiled form that is kept of a function which reads the same numbers; None if there is none.

    No value of it is compared with torch's.
    """
    reads = reads or reached(func)
    before = remembered(func).get(_key(layout))
    if not isinstance(before, _Kept):
        return None
    tensors, _ = _present(before, reads.values, reads.tensors)
    return None if tensors is None else Compiled(func, before, tensors, reads.tensors)


def _key(layout: Layout) -> object:
    return "compiled", layout


def _warn(func: Func, reason: Exception) -> None:
    """Once for each reason: layouts of a function may all be refused for the same."""
    text, said = str(reason), remembered(func).setdefault("compile: said", set())
    if text not in said:
        said.add(text)
        warnings.warn(
            f"compile: func is evaluated by torch, as without compile, because {text}", stacklevel=2
        )


def _require_fit(layout: Layout, space: Space) -> None:
    if layout.dtype != torch.float64:
        raise NotCompilableError(f"the state is {layout.dtype}, not float64")
    if layout.device.type != "cpu":
        raise NotCompilableError(f"the state is on {layout.device}, not on the CPU")
    if space.is_distributed:
        raise NotCompilableError("the state is spread over several processes")
    if layout.size > BATCHED:
        raise NotCompilableError(f"the state has {layout.size} components")


def _present(
    kept: _Kept, values: dict[str, object], named: dict[str, Tensor]
) -> tuple[tuple[Tensor, ...] | None, list[Tensor]]:
    """The tensors that now stand where the inputs were; None if the code no longer fits.

    Then also the tensors whose values are in the code and have changed: they become inputs.
    """
    inputs = []
    for name, tensor, copy in kept.baked:
        now = _now(name, tensor, named)
        if now.requires_grad or now.dtype != copy.dtype or not torch.equal(now.detach(), copy):
            inputs.append(now)
    tensors = [_now(name, tensor, named) for name, tensor in kept.lifted]
    fit = all(
        now.shape == tensor.shape and now.dtype == tensor.dtype
        for now, (_, tensor) in zip(tensors, kept.lifted, strict=True)
    )
    if inputs or not fit or values != kept.values:
        return None, [*inputs, *tensors]
    return tuple(tensors), []


def _now(name: str | None, tensor: Tensor, named: Mapping[str, Tensor]) -> Tensor:
    """What stands now where a tensor was."""
    return tensor if name is None else named.get(name, tensor)


def _compile(func: Func, layout: Layout, start: Start, inputs: list[Tensor]) -> _Kept:
    """One sample is compiled if the others are the same function of theirs, else the whole state."""
    if layout.samples > 1:
        shapes = tuple(
            torch.Size([*(1 for _ in layout.batch), *shape[len(layout.batch) :]]) for shape in layout.shapes
        )
        one = Layout(shapes, layout.is_tuple, layout.dtype, tuple(1 for _ in layout.batch), layout.device)
        try:
            kept = _compile_as(func, one, Start(start.times, start.u[: layout.width]), inputs)
            found = Compiled(func, kept, tuple(tensor for _, tensor in kept.lifted), {})
            near = _value_near(func, layout, start)
            if near is not None and found.excess(*near) == 0:
                return kept
        except NotCompilableError:
            pass  # as the whole state may not be either
    return _compile_as(func, layout, start, inputs)


def _compile_as(func: Func, layout: Layout, start: Start, inputs: list[Tensor]) -> _Kept:
    flat = _flat(func, layout)
    states = _generic(func, layout, start)
    t, u = states[0]
    code = CompiledFunction(flat, torch.tensor(t, dtype=torch.float64), torch.from_numpy(u), inputs)
    require_same(flat, code, states, "blocks")
    reads = reached(func)
    names = {id(tensor): name for name, tensor in reads.tensors.items()}
    return _Kept(
        code,
        layout,
        states,
        [(names.get(id(tensor)), tensor) for tensor in code.lifted],
        [(names.get(id(tensor)), tensor, copy) for tensor, copy in code.baked],
        reads.values,
    )


def _flat(func: Func, layout: Layout):
    return lambda t, u: layout.flatten(func(t, layout.unflatten(u)))


def _generic(func: Func, layout: Layout, start: Start) -> list[tuple[float, np.ndarray]]:
    """Times within the solve and states near its start, nothing special about them, where f is finite."""
    random, flat = np.random.default_rng(0), _flat(func, layout)
    begin, end = start.times
    states = []
    for number in range(STATES):
        t = begin + ([0.0731, *FRACTIONS][number % 3]) * (end - begin)
        far = start.u * random.uniform(1 - SPREAD, 1 + SPREAD, start.u.size) if number else start.u

        def value(u: np.ndarray, t: float = t) -> np.ndarray:
            with torch.no_grad():
                return flat(torch.tensor(t, dtype=torch.float64), torch.from_numpy(u.copy())).double().numpy()

        found = first_finite(value, nearby(far, random))
        if found is not None:
            states.append((t, found[0]))
    if not states:
        raise NotFiniteError("it is not finite near the initial state, where it would be compared with torch")
    return states


def _value_near(func: Func, layout: Layout, start: Start) -> tuple[float, np.ndarray, np.ndarray] | None:
    """A time, a state (size,) near the start of a solve, and torch's value there; None if none is finite."""
    flat, random = _flat(func, layout), np.random.default_rng(1)
    t = start.times[0] + FRACTIONS[0] * (start.times[1] - start.times[0])

    def value(u: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return flat(torch.tensor(t, dtype=torch.float64), torch.from_numpy(u.copy())).double().numpy()

    state = first_finite(value, nearby(start.u, random))
    return None if state is None else (t, *state)
