"""Checks that func has not changed since a run, by its values at the start and the end of the run."""

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
"""Values of f with at most this many components are kept whole; of larger ones a weighted sum is kept."""

F_RTOL = 1e-6
"""Allowed change of f, relative to its largest component."""

STATE_RTOL = 1e-8
"""Allowed change of f, relative to the largest component of the state: near equilibria f is mere rounding."""

RECORDING_RTOL = 1e-3
"""Allowed change of f while autograd records, relative to its largest component.

Torch may then use other operations. A change up to this is checked again without recording.
"""


@dataclass(frozen=True)
class Values:
    """The values of f, and of g if there is one, at one state of a run.

    Compared with later values, they reveal random functions and functions whose inputs have changed.

    Attributes
    ----------
    s : float
        The time of the state, in solver time.
    where : str
        Which state it is, "began" or "ended", for the error message.
    kept : tuple of ndarray
        For each part its value (size,). For a large state its sum (1,) with random weights, which changes
        whenever a single component does.
    """

    s: float
    where: str
    kept: tuple[np.ndarray, ...]

    @classmethod
    def at(cls, s: float, where: str, slopes: Sequence[np.ndarray], system: System) -> Values | None:
        """The record of ``slopes``, one (size,) for each part; None if they are not finite."""
        finite = all(np.isfinite(slope).all() for slope in slopes)
        if not system.space.every(finite):
            return None
        return cls(s, where, tuple(_reduced(v, part) for v, part in zip(slopes, system.parts, strict=True)))

    def require_same(self, system: System, u: np.ndarray, find_used: bool = False) -> None:
        """Raise ReplayError unless f and g still have these values at the state ``u`` (size,).

        With ``find_used``, also raise it if they no longer depend on a parameter that they depended on at
        the start of the run.
        """
        for number, (part, before) in enumerate(zip(system.parts, self.kept, strict=True)):
            if find_used and system.used is not None:
                value, slope = part.attached_slope(self.s, u)
                used = used_by(value, part.parameters)
                del value
                off = self._differs(slope, before, part, u)
                if off is not None and part.space.every(off <= RECORDING_RTOL * _largest(slope)):
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

    def still_hold(self, slopes: Sequence[np.ndarray], system: System, u: np.ndarray) -> bool:
        """Whether ``slopes``, one (size,) for each part at the state ``u`` (size,), are these values."""
        parts = zip(system.parts, self.kept, slopes, strict=True)
        return all([self._differs(slope, before, part, u) is None for part, before, slope in parts])

    def _differs(self, slope: np.ndarray, before: np.ndarray, part: Dynamics, u: np.ndarray) -> float | None:
        """The largest change of f if it exceeds what is allowed, else None."""
        off = float(np.abs(_reduced(slope, part) - before).max())
        largest = [part.space.max(value) for value in (off, _largest(slope), _largest(u))]
        allowed = F_RTOL * largest[1] + state_rtol(part) * largest[2]
        if part.largest > KEPT:
            allowed += 10 * torch.finfo(part.layout.dtype).eps * np.sqrt(part.largest) * largest[1]
        return None if largest[0] <= allowed else off

    def _message(self, off: float, slope: np.ndarray, before: np.ndarray, part: Dynamics) -> str:
        what = "its value"
        if part.space.is_distributed and off <= F_RTOL * _largest(slope):
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


def state_rtol(part: Dynamics) -> float:
    """By how much f may differ relative to its state: in single precision by some roundings of that.

    They are multiplied by the derivatives of f, which are large where it is stiff.
    """
    return max(STATE_RTOL, 32 * torch.finfo(part.layout.dtype).eps)


def allowed_change(slopes: np.ndarray, u: np.ndarray, part: Dynamics) -> np.ndarray:
    """(M,) by how much values of f (M, size) at states u (M, size) may differ from those of the run."""
    of_slopes, of_states = (np.abs(values).max(axis=1, initial=0) for values in (slopes, u))
    return F_RTOL * of_slopes + state_rtol(part) * of_states


def _largest(v: np.ndarray) -> float:
    return float(np.abs(v).max())


def _reduced(slope: np.ndarray, part: Dynamics) -> np.ndarray:
    """What is kept of a value: a copy (size,), or for a large state its randomly weighted sum (1,)."""
    if part.largest <= KEPT:
        return slope.copy()
    generator, total = np.random.default_rng(0), 0.0
    for piece in np.array_split(slope, -(-slope.size // KEPT)):
        weights = generator.uniform(0.5, 1.5, piece.size)
        weights[generator.integers(0, 2, piece.size, dtype=bool)] *= -1
        total += float(weights @ piece)
    return np.array([total])
