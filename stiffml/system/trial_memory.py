"""Trials of a function that need not be repeated by every solve of a training.

A trial depends on what the function does, and that may change between two solves: by an attribute, by the
mode of a module, by a variable of a closure, or because a parameter that hid a part of it is no longer zero.
So trials that were passed are remembered only

- as long as what the function reads besides tensors is the same (see
  :class:`stiffml.parameters.names.Reached`), and so are the operations in its graph at the start;
- for ``SOLVES`` solves;
- for solves whose own iteration shows whether the Jacobian is right: its changes in f are compared with those
  by the Jacobian. If they differ, the trials are repeated in that very solve. ``UNSEEN`` solves in a row that
  converge at once, and so show nothing, are followed by one with trials.

A compiled function has trials of its own: its Jacobian and its products are others. Each solve compares its
values with torch's besides.

Forgotten is what belongs to a function that no longer exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.function.batching import Batching
from stiffml.system.function.cache import remembered
from stiffml.system.system import System

SOLVES = 32
"""Solves that rely on the trials of one."""

UNSEEN = 4
"""Solves in a row that may rely on them without a look at the Jacobian."""


def _key(part: Dynamics) -> object:
    return "trials passed", type(part), part.layout


@dataclass
class _Passed:
    """Trials of a function: what they depended on, what they found, how many solves may rely on them yet."""

    facts: object
    batching: Batching | None
    left: int = SOLVES
    unseen: int = UNSEEN


class PassedTrials:
    """Trials that a solve relies on and has not made.

    Parameters
    ----------
    system : System
    repeat : callable
        Makes them; raises ValueError if they fail.
    """

    def __init__(self, system: System, repeat: Callable[[], None]) -> None:
        self._system, self._repeat, self._are_made = system, repeat, False

    def repeat(self) -> bool:
        """Make the trials, once; return whether f is now evaluated in another way than before."""
        if self._are_made:
            return False
        self._are_made = True
        before = [part.batching for part in self._system.parts]
        for part in self._system.parts:
            remembered(part.func).pop(_key(part), None)
            part.batching = None  # so that it is tried out too
        self._repeat()
        return before != [part.batching for part in self._system.parts]

    def count(self, seen: bool) -> None:
        """Note whether the iteration of the solve has shown that the Jacobian is right."""
        for part in self._system.parts:
            passed = remembered(part.func).get(_key(part))
            if isinstance(passed, _Passed):
                passed.unseen = UNSEEN if seen else passed.unseen - 1


def rely_on(system: System, facts: object) -> bool:
    """Whether all parts of a system have passed their trials; if so, what was found is taken over."""
    found = [remembered(part.func).get(_key(part)) for part in system.parts]
    for passed in found:
        if not isinstance(passed, _Passed) or passed.facts != facts or not passed.left or not passed.unseen:
            return False
    for part, passed in zip(system.parts, found, strict=True):
        assert isinstance(passed, _Passed)
        passed.left -= 1
        part.batching = passed.batching
    return True


def keep(dynamics: Dynamics, facts: object) -> None:
    """Remember that a function has passed its trials."""
    remembered(dynamics.func)[_key(dynamics)] = _Passed(facts, dynamics.batching)
