"""The check that func has not changed since a run, by the values that the reverse sweep computes anyway."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import numpy as np

from stiffml.all_at_once.solve import Kept
from stiffml.errors import ReplayError
from stiffml.gradients.tape import Tape
from stiffml.gradients.times import AtNodes
from stiffml.gradients.transposed import nodes_of_positions
from stiffml.run.same_function import allowed_change


class SameFunc:
    """Whether func is that of the run.

    Steps that were solved all at once have left its values at all vectors. The reverse sweep evaluates it
    there once more, at the end, and the values are compared. Of a compiled function
    all that it reads is compared. Wherever there is nothing to compare, or the comparison fails,
    :meth:`stiffml.gradients.tape.Tape.require_same_func` decides, by calls of func; also if the sweep fails,
    which then has a reason.

        with SameFunc(tape) as same:
            ...  # the sweep, which calls same.require(), same.compare(...) or same.conclude(...)

    Parameters
    ----------
    tape : Tape
    by_stages : bool
        Whether the sweep evaluates f again at all steps, and :meth:`conclude` will be called.
    """

    def __init__(self, tape: Tape, by_stages: bool = False) -> None:
        self._tape, self._is_known, self._is_compared_by_stages = tape, False, by_stages

    def __enter__(self) -> SameFunc:
        replay, kept = self._tape.replay, self._tape.run.kept
        system = replay.system
        if any(part.is_compiled for part in system.parts):
            # It has the numbers of the run, and would not show that func has changed. A change that is not
            # seen either does no harm to its gradient.
            self._is_known = system.is_seen_unchanged()
            self.require()
        elif not isinstance(kept, Kept) and not self._is_compared_by_stages:
            self.require()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception):
            assert error is not None or self._is_known, "nothing has been compared"
            return
        self._tape.require_same_func()

    def require(self) -> None:
        """Raise ReplayError if func has changed, by calls of it; once."""
        if not self._is_known:
            self._tape.require_same_func()
            self._is_known = True

    def torch_is_needed(self) -> None:
        """Of compiled functions torch has the second derivatives in Rosenbrock rows, by func as it is."""
        method, system = self._tape.replay.method, self._tape.replay.system
        if method.implicit and not method.newton and any(part.is_compiled for part in system.parts):
            self._is_known = False
            self.require()

    def conclude(self, is_same: bool) -> None:
        """Note that values of f at all steps were compared; where they differ, calls of func decide.

        Raises
        ------
        ReplayError
            If func has changed.
        """
        if not self._tape.replay.system.space.every(is_same):
            self.require()
            if self._tape.run.after is None:
                raise ReplayError(
                    "func changed between the forward and the backward pass: where the solve began it has "
                    "the same value, but a step that was taken again ends elsewhere. Try: no changes of what "
                    "func reads between solve and backward()"
                )
        self._is_known = True

    def compare(self, kept: Kept, found: Sequence[AtNodes], used: Sequence[set[int]]) -> None:
        """Raise ReplayError if func has changed, by its values at all vectors.

        Parameters
        ----------
        kept : Kept
            What the run has left.
        found : sequence of AtNodes
            The values of f and g now.
        used : sequence of set of int
            The positions of the parameters that they depend on now.
        """
        system = self._tape.replay.system
        if self._is_known:
            return
        needed = system.used or (frozenset(),) * len(found)
        same = all(before <= now for before, now in zip(needed, used, strict=True))
        for slopes, at in zip(kept.slopes, found, strict=True):
            node = nodes_of_positions(kept.structure.topology, at.nodes)[slopes.at]
            now, u = at.slopes[node], at.nodes.u.numpy()[node]
            off = np.abs(now - slopes.values).max(axis=1, initial=0)
            # NaN compares as false.
            same = same and bool((node >= 0).all() and (off <= allowed_change(now, u, system.f)).all())
        if not same:
            self.require()
        self._is_known = True
