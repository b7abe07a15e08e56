"""Whether func is still the function that a run solved: by its values where the run began and ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stiffml.errors import ReplayError
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.system import System
from stiffml.system.unnamed_parameters import used_by

KEPT = 100_000
"""Components up to which a value of f is kept as it is; of a larger one a weighted sum."""

SAME = 1e-6
"""By how much f may differ from what it was, relative to its largest component."""

NOISE = 1e-8
"""The same relative to the largest component of the state: near an equilibrium f is rounding."""

GRAPH = 1e-3
"""By how much more it may differ where a graph is recorded, for which torch may take other operations."""


@dataclass(frozen=True)
class Values:
    """What f, and g if there is one, had for values at one state.

    Random functions, and such as depend on something that has changed since, have others later.

    Attributes
    ----------
    s : float
    where : str
        In words, for an error.
    kept : tuple of ndarray
        For each part the value, or of a large state its sum (1,) with random weights: a change of any one
        component changes it too.
    """

    s: float
    where: str
    kept: tuple[np.ndarray, ...]

    @classmethod
    def at(cls, s: float, where: str, slopes: Sequence[np.ndarray], system: System) -> Values | None:
        """None if they are not finite."""
        finite = all(np.isfinite(slope).all() for slope in slopes)
        if not system.space.every(finite):
            return None
        return cls(s, where, tuple(_reduced(v, part) for v, part in zip(slopes, system.parts, strict=True)))

    def require_same(self, system: System, u: np.ndarray, find_used: bool = False) -> None:
        """Raise ReplayError unless the parts still have these values at the state u.

        ``find_used``: and unless they depend on the same parameters as they did at the start.
        """
        for number, (part, before) in enumerate(zip(system.parts, self.kept, strict=True)):
            if find_used and system.used is not None:
                value, slope = part.attached_slope(self.s, u)
                used = used_by(value, part.parameters)
                del value
                off = self._differs(slope, before, part, u)
                if off is not None and part.space.every(off <= GRAPH * _largest(slope)):
                    slope = part.evaluate_anew(self.s, u)
            else:
                used, slope = frozenset(), part.evaluate_anew(self.s, u)
            off = self._differs(slope, before, part, u)
            if off is not None:
                raise ReplayError(self._message(off, slope, before, part))
            missing = sorted(system.used[number] - used) if find_used and system.used is not None else []
            if not system.space.every(not missing):
                shapes = ", ".join(str(tuple(part.parameters[i].shape)) for i in missing)
                raise ReplayError(
                    "func no longer depends on parameters that it depended on in the forward pass"
                    f" (of shape {shapes}), and their gradient would be lost. If others stood in for "
                    "them then, as with torch.func.functional_call, write func as a module, or as a method "
                    "of one"
                )

    def _differs(self, slope: np.ndarray, before: np.ndarray, part: Dynamics, u: np.ndarray) -> float | None:
        """By how much f has changed, if it has."""
        off = float(np.abs(_reduced(slope, part) - before).max())
        largest = [part.space.max(value) for value in (off, _largest(slope), _largest(u))]
        allowed = SAME * largest[1] + NOISE * largest[2]
        if part.largest > KEPT:
            allowed += 10 * torch.finfo(part.layout.dtype).eps * np.sqrt(part.largest) * largest[1]
        return None if largest[0] <= allowed else off

    def _message(self, off: float, slope: np.ndarray, before: np.ndarray, part: Dynamics) -> str:
        what = "its value"
        if part.space.is_distributed and off <= SAME * _largest(slope):
            what = "its value in another process"
        elif before.shape == slope.shape:
            where = part.layout.component(int(np.argmax(np.abs(slope - before))))
            what = f"component {list(where)} of its value"
        return (
            f"func changed between the forward and the backward pass: at t = {part.direction * self.s:.10g}, "
            f"where the solve {self.where}, {what} is now off by {off:.3g}. Its gradient would be wrong. "
            "Try: module.eval() if it has dropout or batch normalisation; draw random numbers once, before "
            "solve; and no changes of what func reads between solve and backward()"
        )


def _largest(v: np.ndarray) -> float:
    return float(np.abs(v).max())


def _reduced(slope: np.ndarray, part: Dynamics) -> np.ndarray:
    """What is kept of a value, as an array of its own."""
    if part.largest <= KEPT:
        return slope.copy()
    generator, total = np.random.default_rng(0), 0.0
    for piece in np.array_split(slope, -(-slope.size // KEPT)):
        weights = generator.uniform(0.5, 1.5, piece.size)
        weights[generator.integers(0, 2, piece.size, dtype=bool)] *= -1
        total += float(weights @ piece)
    return np.array([total])
