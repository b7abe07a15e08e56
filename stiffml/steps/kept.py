"""Steps that a training keeps from one iteration to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stiffml.checks import described, number, whole
from stiffml.steps.kinds import Adaptive, Fixed, Fractions, Grid, Recorded

Key = dict[str, Tensor | str]
"""What steps belong to, by name: times, the shape of y0, the method and so on."""


@dataclass(frozen=True)
class Held(Recorded):
    """Recorded steps of an earlier solve, with the states that it had at their ends.

    Attributes
    ----------
    states : tuple of ndarray
        For each output interval (steps, size), a first guess for the solution.
    adaptive : bool
        Whether an error estimate has chosen the steps, so that a solve on them has the tolerances of that.
    """

    states: Fractions
    adaptive: bool

    def between(self, first: int, last: int) -> Held:
        return Held(self.ends[first:last], self.states[first:last], self.adaptive)


class KeptSteps:
    """Steps that are chosen once and then kept, for solves that differ a little, as those of a training.

    The first solve with this object as ``steps`` chooses the steps. Later ones take the same, with the last
    solution as first guess, and so are solved for all at once where ``stepping`` allows. After each, the
    errors of all steps are estimated from its states. If one exceeds what was aimed at ``bound`` times, or
    after ``renew`` solves, steps are chosen anew, and that solution is returned. So no solution has a step
    whose estimated error is larger. The solution and its gradient do not depend on the guess beyond Newton's
    tolerance.

    Several solves in an iteration take an object each. Under ``torch.no_grad()`` the steps are used, but
    nothing of the object changes: an evaluation does not disturb a training.

    All of it is in :meth:`state_dict`, for a training that is resumed to the same result. An ``ODEBlock``
    with ``steps=kept`` has it in its own.

    Steps belong to the times (``t``, ``through``, ``breakpoints``), the shape and dtype of y0, the method and
    the tolerances they were chosen for. A solve with others is an error that names what differs;
    :meth:`reset` begins anew.

    Parameters
    ----------
    steps : Adaptive, Fixed or Grid
        How steps are chosen. Default ``Adaptive()``. ``Fixed`` and ``Grid`` always choose the same: then only
        the solution is kept, as first guess, and ``renew`` and ``bound`` have no effect.
    renew : int
        Solves after which steps are chosen anew, the first included. Default 25.
    bound : float
        Largest estimated error of a step, in the norm in which adaptive steps have at most 1, over what they
        aim at, which is 1, and for BDF two thirds; or over its value for the steps as they were chosen,
        where that is larger. Default 3.

    Attributes
    ----------
    solves : int
        How many solves took these steps, without those under ``no_grad``.
    renewals : Counter
        How often steps were chosen, by the reason: ``"first"``, ``"age"`` (``renew`` solves), ``"error"``
        (beyond ``bound``), ``"failure"`` (the solve failed on the kept steps), ``"cut"`` (the solve before
        had to cut some). ``Solution.stats.renewed`` has the reason in a single solve.
    error : float
        The largest estimated error of the last solve, in that norm.

    Examples
    --------
    >>> kept = stiffml.KeptSteps(stiffml.Adaptive(), renew=25, bound=3)
    >>> rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    >>> for _ in range(30):  # a training
    ...     sol = stiffml.solve(lambda t, y: -rate * y, y0, t, steps=kept)
    ...     sol.y[-1, 0].backward()
    >>> dict(kept.renewals)
    {'first': 1, 'age': 1}
    """

    def __init__(
        self, steps: Adaptive | Fixed | Grid | None = None, renew: int = 25, bound: float = 3.0
    ) -> None:
        steps = Adaptive() if steps is None else steps
        if not isinstance(steps, Adaptive | Fixed | Grid):
            raise TypeError(f"KeptSteps: steps must be Adaptive, Fixed or Grid, not {described(steps)}")
        self.steps = steps
        self.renew = whole("KeptSteps: renew", renew)
        self.bound = number("KeptSteps: bound", bound, least=1)
        self.solves = 0
        self.renewals: Counter[str] = Counter()
        self.reset()

    def reset(self) -> None:
        """Forget the steps: the next solve chooses new ones, and may have other times."""
        self._key: Key | None = None
        self._ends: Fractions = ()
        self._states: Fractions = ()
        self._age = 0
        self._cut = False
        self._least = 1.0  # the error of the steps as they were chosen, or what they aim at
        self.error = 0.0

    def __copy__(self) -> KeptSteps:
        """Other ones that are where these are, and go their own way."""
        made = object.__new__(type(self))
        vars(made).update(vars(self), renewals=self.renewals.copy())  # all else is replaced, never changed
        return made

    @property
    def count(self) -> int:
        """The number of steps that are kept; 0 before the first solve."""
        return sum(map(len, self._ends))

    @property
    def largest_error(self) -> float:
        """The error up to which steps are kept."""
        return self.bound * self._least

    def reason(self, key: Key, counts: bool) -> str:
        """Why steps must be chosen before a solve; empty if it can take those that are kept.

        ``counts``: whether the solve is one of a training.

        Raises
        ------
        ValueError
            If the steps that are kept belong to other times, or another state or method.
        """
        if self._key is None:
            return "first"
        for name, given in key.items():
            held = self._key.get(name)
            if not _equal(given, held):
                raise ValueError(
                    f"steps: KeptSteps hold the steps of solves with {name} = {_shown(held)}, not "
                    f"{_shown(given)}; give each kind of solve, such as a validation, KeptSteps of its own, "
                    "or call their reset()"
                )
        if counts and self._cut:
            return "cut"
        return "age" if counts and isinstance(self.steps, Adaptive) and self._age >= self.renew else ""

    @property
    def held(self) -> Held:
        """The steps that are kept, with the last solution."""
        return Held(self._ends, self._states, isinstance(self.steps, Adaptive))

    def choose(
        self, reason: str, key: Key, ends: Fractions, states: Fractions, error: float, aim: float
    ) -> None:
        """Keep the steps of a solve that has chosen them, its states, its error and its aim."""
        self.renewals[reason] += 1
        self._key, self._ends, self._age, self._least = key, ends, 0, max(aim, error)
        self.take(states, error)
        try:
            Recorded(ends)
        except ValueError:  # steps so short that their ends do not differ as fractions cannot be taken again
            self._key = None

    def take(self, states: Fractions, error: float) -> None:
        """Note a solve on the steps that are kept."""
        self._cut = [len(part) for part in states] != [len(part) for part in self._ends]
        if not self._cut:
            self._states = states
        self._age += 1
        self.solves += 1
        self.error = error

    def state_dict(self) -> dict[str, Any]:
        """The steps, the last solution and the counts, of tensors, texts and numbers; copies."""
        return {
            "key": None if self._key is None else dict(self._key),
            "ends": [torch.tensor(part) for part in self._ends],
            "states": [torch.tensor(part) for part in self._states],
            "numbers": {
                "age": self._age,
                "cut": self._cut,
                "least": self._least,
                "error": self.error,
                "solves": self.solves,
            },
            "renewals": dict(self.renewals),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` has returned.

        Raises
        ------
        ValueError
            For anything else. Nothing is changed then.
        """
        try:
            key = None if state["key"] is None else dict(state["key"])
            ends, states = (tuple(part.numpy().copy() for part in state[name]) for name in ("ends", "states"))
            numbers, renewals = dict(state["numbers"]), Counter(state["renewals"])
            age, cut, least, error, solves = (
                numbers[name] for name in ("age", "cut", "least", "error", "solves")
            )
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as problem:
            raise ValueError(f"KeptSteps: this is no state of theirs ({problem!r})") from problem
        self._key, self._ends, self._states = key, ends, states
        self._age, self._cut, self._least, self.error, self.solves = age, cut, least, error, solves
        self.renewals = renewals

    def __repr__(self) -> str:
        why = ", ".join(f"{reason} {count}" for reason, count in self.renewals.items())
        chosen = f", chosen {self.renewals.total()} times ({why})" if why else ""
        return f"KeptSteps({self.count} steps, {self.solves} solves{chosen})"


def _equal(one: Tensor | str | None, other: Tensor | str | None) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return isinstance(one, str) and one == other


def _shown(value: Tensor | str | None) -> str:
    if not isinstance(value, Tensor):
        return str(value)
    if value.numel() < 3:
        return str(value.tolist())
    return f"{value.numel()} values from {value.flatten()[0]:.6g} to {value.flatten()[-1]:.6g}"
