"""Trials of a function that need not be repeated by every solve of a training.

A trial depends on what the function does, and that may change between two solves: by an attribute, by the
mode of a module, by a variable of a closure, or because a parameter that hid a part of it is no longer zero.
So trials that were passed are remembered only

- as long as what the function reads besides tensors is the same (see
  :class:`stiffml.parameters.names.Reached`), and so are the operations in its graph at the start; numbers
  that it has raised itself while it was tried out, as those who count calls do, may go on growing;
- for ``SOLVES`` solves;
- for solves whose own iteration shows whether the Jacobian is right: its changes in f are compared with those
  by the Jacobian. If they differ, the trials are repeated in that very solve. ``UNSEEN`` solves in a row that
  converge at once, and so show nothing, are followed by one with trials. Where steps are taken one by one,
  f and its Jacobian are compared near the last state; but a whole Jacobian of a wide system costs more than
  the trials, so that these solves show nothing either.

A compiled function has trials of its own: its Jacobian and its products are others. It is one graph, whose
Jacobian explains its changes; each solve compares its values with torch's.

Forgotten is what belongs to a function that no longer exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from stiffml.system.derivatives.changes import At, is_explained
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.jacobian import NARROW
from stiffml.system.finite import is_finite
from stiffml.system.function.batching import Batching
from stiffml.system.function.cache import remembered
from stiffml.system.function.generic_states import random_signed, typical_sizes

SOLVES = 128
"""Solves that rely on the trials of one."""

NEAR = 1e-4
"""How far from a state f is compared, relative to the components."""

UNSEEN = 4
"""Solves in a row that may rely on them without a look at the Jacobian."""


Counted = tuple[frozenset[str], ...]
"""For each part of a system the names of whole numbers that it has raised itself."""


class Facts(NamedTuple):
    """What trials depend on.

    Attributes
    ----------
    kinds : object
        What is tried out.
    values : tuple of mapping
        For each part, by name, what it reads besides tensors.
    operations, used : object
        As of a system.
    """

    kinds: Sequence[tuple[bool, bool]]
    values: tuple[Mapping[str, object], ...]
    operations: object
    used: object

    def hold(self, now: Facts, counted: Counted) -> bool:
        """Whether they are the same ``now``, but for numbers that were ``counted``."""
        if (self.kinds, self.operations, self.used) != (now.kinds, now.operations, now.used):
            return False
        if len(self.values) != len(now.values):
            return False
        parts = zip(self.values, now.values, counted, strict=True)
        return all(_without(before, names) == _without(after, names) for before, after, names in parts)


def _without(values: Mapping[str, object], names: frozenset[str]) -> Mapping[str, object]:
    if not names:
        return values
    return {name: value for name, value in values.items() if name not in names or type(value) is not int}


def _key(part: Dynamics, facts: Facts) -> object:
    """Solves with and without gradients have trials of their own, each of which may follow the other."""
    return "trials passed", type(part), part.layout, facts.used is None, *facts.kinds


@dataclass
class _Passed:
    """Trials of a function: what they depended on, what they found, how many solves may rely on them yet."""

    facts: Facts
    counted: Counted
    batching: Batching | None
    left: int = SOLVES
    unseen: int = UNSEEN


class PassedTrials:
    """Trials that a solve relies on and has not made.

    Parameters
    ----------
    parts : sequence of Dynamics
    passed : list
        What is remembered of them, for each part.
    repeat : callable
        Makes them; raises ValueError if they fail.
    """

    def __init__(
        self, parts: Sequence[Dynamics], passed: list[_Passed], repeat: Callable[[], object]
    ) -> None:
        self._parts, self._passed, self._repeat, self._are_made = parts, passed, repeat, False

    def repeat(self) -> bool:
        """Make the trials, once; return whether f is now evaluated in another way than before."""
        if self._are_made:
            return False
        self._are_made = True
        before = [part.batching for part in self._parts]
        for part in self._parts:
            remembered(part.func).pop(_key(part, self._passed[0].facts), None)
            part.batching = None  # so that it is tried out too
        with torch.enable_grad():  # as it was when they were passed
            self._repeat()
        # The trials of matrix-free methods and coloured Jacobians do not ask how f is batched.
        now = [part.batching for part in self._parts]
        return any(None not in (was, is_) and was is not is_ for was, is_ in zip(before, now, strict=True))

    def look(self, s: float, u: np.ndarray) -> None:
        """Compare the changes of f near a state (size,) with those by its Jacobian, after steps one by one.

        Raises
        ------
        ValueError
            If they differ, and the trials fail.
        OutdatedError
            If the trials show that f has to be evaluated in another way.
        """
        if all(part.is_compiled for part in self._parts):
            self.count(seen=True)  # the Jacobian is that of the graph which is compared with torch
            return
        if not all(part.may_replicate and part.layout.width <= NARROW for part in self._parts):
            self.count(seen=False)
            return
        states = np.stack([u, u + NEAR * _signs(u.size) * typical_sizes(u)])
        found = [self._is_right(part, s, states) for part in self._parts]
        self.count(seen=None not in found)
        if False in found and self.repeat():
            raise OutdatedError

    def _is_right(self, part: Dynamics, s: float, states: np.ndarray) -> bool | None:
        """Whether the Jacobian is; None if f is not finite, or has no value beside the trajectory."""
        time = torch.full((len(states),), s, dtype=torch.float64)
        try:
            with part.uncounted(), np.errstate(all="ignore"):
                values, jacobians = part.values_and_blocks(time, torch.from_numpy(states))
                slopes, blocks = values.numpy(), jacobians.numpy()
                first = At(states[0], slopes[0], blocks[0])
                second = At(states[1], slopes[1], blocks[1])
                return is_explained(first, second, part.eps) if is_finite(slopes) else None
        except Exception:  # the user's function may raise anything, and says no more than that
            return None

    def count(self, seen: bool) -> None:
        """Note whether the solve has shown that the Jacobian is right."""
        if not self._are_made:
            for passed in self._passed:
                passed.unseen = UNSEEN if seen else passed.unseen - 1


@lru_cache(maxsize=16)
def _signs(size: int) -> np.ndarray:
    """(size,) how far each component is moved, the same in each look; not to be written to."""
    return random_signed(np.random.default_rng(0), size)


class OutdatedError(Exception):
    """A batch of states has turned out wrong during a solve, which must be made again with trials."""


def rely_on(
    parts: Sequence[Dynamics], facts: Facts | None, repeat: Callable[[], object]
) -> PassedTrials | None:
    """The trials that all parts of a system have passed; what was found by them is taken over.

    None if there is a part that has not. ``repeat`` makes them.
    """
    if facts is None:
        return None
    found: list[_Passed] = []
    for part in parts:
        passed = remembered(part.func).get(_key(part, facts))
        if not isinstance(passed, _Passed) or not passed.left or passed.unseen <= 0:
            return None
        if passed.facts is not facts:
            if not passed.facts.hold(facts, passed.counted):
                return None
            passed.facts = facts  # which solves like this one need not compare again
        found.append(passed)
    for part, passed in zip(parts, found, strict=True):
        passed.left -= 1
        part.batching = passed.batching
    return PassedTrials(parts, found, repeat)


def keep(dynamics: Dynamics, facts: Facts, counted: Counted) -> None:
    """Remember that a function has passed its trials."""
    remembered(dynamics.func)[_key(dynamics, facts)] = _Passed(facts, counted, dynamics.batching)
