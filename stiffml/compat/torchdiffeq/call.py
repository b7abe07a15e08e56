"""One call of torchdiffeq's interface, its arguments checked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from stiffml.checks import described, times
from stiffml.compat.torchdiffeq.names import SCIPY, is_fixed
from stiffml.settings import Discrete

OF_GRID = {"step_size", "grid_constructor", "interp", "perturb", "norm"}
OF_ADAPTIVE = {
    *("first_step", "safety", "ifactor", "dfactor", "max_num_steps", "dtype", "norm", "min_step", "max_step"),
    *("step_t", "jump_t", "grid_points", "eps", "step_locations", "jump_locations"),
}
OF_SCIPY = {"solver", "min_step", "max_step", "norm"}

OLD_NAMES = {"step_locations": "step_t", "jump_locations": "jump_t", "grid_points": "jump_t"}
"""Names of options in earlier versions. ``eps`` kept steps off the ``grid_points``; that is not needed."""

DEFAULT_RTOL = 1e-7

FORWARD = ("callback_step", "callback_accept_step", "callback_reject_step")

Callback = Callable[[Tensor, Any, Tensor], object]


@dataclass(frozen=True)
class Call:
    """The arguments of a call.

    Attributes
    ----------
    func, y0, t, rtol, atol
        As passed, ``t`` in double precision.
    method : str
    options : dict
        Those that the method takes, by their present names.
    callbacks : dict of str to callable
        Those of func that the method calls.
    params : tuple of Tensor
        That get a gradient besides what func uses.
    adjoint : Discrete or None
        What is kept for the backward pass.
    """

    func: Callable[[Tensor, Any], Any]
    y0: Any
    t: Tensor
    rtol: Any
    atol: Any
    method: str
    options: dict[str, Any]
    callbacks: dict[str, Callback]
    params: tuple[Tensor, ...]
    adjoint: Discrete | None = None

    @property
    def kept(self) -> dict[str, Any]:
        """What concerns gradients, as :func:`stiffml.solve` takes it."""
        return {"params": self.params, "adjoint": self.adjoint}

    @property
    def direction(self) -> int:
        return -1 if len(self.t) > 1 and bool(self.t[1] < self.t[0]) else 1

    @property
    def is_single(self) -> bool:
        """Whether the state is in single precision."""
        kinds = {leaf.dtype for leaf in tree_leaves(self.y0) if isinstance(leaf, Tensor)}
        return bool(kinds) and kinds <= {torch.float32, torch.complex64}

    def time(self, t: Tensor | float) -> Tensor:
        """A time as func gets it: in the precision of the state."""
        kind = torch.float32 if self.is_single else torch.float64
        device = next(leaf.device for leaf in tree_leaves(self.y0))
        t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        return t.to(device, kind)

    @property
    def tolerances(self) -> dict[str, Any]:
        """rtol and atol as :func:`stiffml.solve` takes them."""
        rtol = self.rtol
        if self.is_single and isinstance(rtol, float) and rtol == DEFAULT_RTOL:
            rtol = 10 * torch.finfo(torch.float32).eps  # what the default amounts to there
        # A tolerance of zero leaves the decision to the other one.
        return {"rtol": _positive(rtol), "atol": _positive(self.atol)}

    def flat_tolerances(self) -> tuple[Any, Any]:
        """atol and rtol as numbers, or one number for each component of the flattened state."""
        given = self.tolerances
        return self._flat(given["atol"]), self._flat(given["rtol"])

    def _flat(self, tolerance: Any) -> Any:
        if isinstance(tolerance, int | float):
            return float(tolerance)
        leaves = tree_leaves(self.y0)
        parts = list(tolerance) if isinstance(tolerance, tuple | list) else [tolerance] * len(leaves)
        pairs = zip(parts, leaves, strict=True)
        return torch.cat(
            [torch.as_tensor(part).double().expand(leaf.shape).reshape(-1) for part, leaf in pairs]
        )


def _positive(tolerance: Any) -> Any:
    if isinstance(tolerance, Tensor):
        tolerance = tolerance.detach()
        return tolerance.item() if tolerance.dim() == 0 else tolerance.clamp(min=1e-290)
    if isinstance(tolerance, tuple | list):
        return tuple(map(_positive, tolerance))
    return 1e-290 if tolerance == 0 else tolerance


def split_like(flat: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Flattened states (…, size) as parts in the shapes and types of ``leaves``; some may be complex."""
    parts = flat.split([leaf.numel() for leaf in leaves], dim=-1)
    pairs = [
        (part.real if part.is_complex() and not leaf.is_complex() else part, leaf)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return [part.reshape((*part.shape[:-1], *leaf.shape)).to(leaf) for part, leaf in pairs]


def call_of(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t: Any,
    rtol: Any,
    atol: Any,
    method: Any,
    options: Mapping[str, Any] | None,
    params: tuple[Tensor, ...] = (),
    adjoint: Discrete | None = None,
) -> Call:
    """The call with these arguments; errors name the one that is wrong, warnings what has no effect."""
    if not callable(func):
        raise TypeError(f"func must be callable as func(t, y), not {described(func)}")
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options must be a dictionary, not {described(options)}")
    method = "dopri5" if method is None else method
    known = _known(method)
    given = dict(options or {})
    unknown = sorted(given.keys() - known)
    if unknown:
        warnings.warn(
            f"options: {', '.join(unknown)} have no effect with {method}, which knows "
            f"{', '.join(sorted(known))}",
            stacklevel=3,
        )
    own = {OLD_NAMES.get(name, name): value for name, value in given.items() if name in known}
    found = {name: getattr(func, name) for name in FORWARD if callable(getattr(func, name, None))}
    possible = () if method == SCIPY else FORWARD[:1] if is_fixed(method) else FORWARD
    useless = sorted(found.keys() - set(possible))
    if useless:
        warnings.warn(f"func: {method} does not call {', '.join(useless)}", stacklevel=3)
    callbacks = {name: found[name] for name in possible if name in found}
    return Call(func, y0, times("t", t).double(), rtol, atol, method, own, callbacks, params, adjoint)


def _known(method: Any) -> set[str]:
    if method == SCIPY:
        return OF_SCIPY
    return OF_GRID if is_fixed(method) else OF_ADAPTIVE


@dataclass(frozen=True)
class Taken:
    """What a solve has found.

    Attributes
    ----------
    y
        The outputs, in the form of y0 with one dimension before it.
    times : Tensor
        (steps + 1,) the ends of all steps.
    states : callable
        () -> the states there, without a graph.
    """

    y: Any
    times: Tensor
    states: Callable[[], Any]

    def steps(self) -> Iterator[tuple[Tensor, Any, Tensor, Any]]:
        """For each step its beginning and the state there, its end and the state there."""
        states = self.states()
        for number in range(len(self.times) - 1):
            first, last = (tree_map(lambda part, at=at: part[at], states) for at in (number, number + 1))
            yield self.times[number], first, self.times[number + 1], last
