"""What looks on while a run takes its steps: a callback, a time limit, a display of progress."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import described
from stiffml.system.state import State
from stiffml.system.system import System

Callback = Callable[[Tensor, State, float], bool | None]
"""(t, y, h) -> whether to stop: after a step of size h to the time t (), in the form of func and y0."""

Show = Callable[[float, float, int], None]
"""(t, h, steps): shows how far a solve has come."""


class Stopped(Exception):
    """Ends the step loop: the callback asks for it."""


class StepLimit:
    """A callback that ends a solve after ``most`` steps; code that takes all steps by itself knows it too.

    Such code says ``Status.MAX_STEPS`` then, which is an error of the solve.
    """

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    def __call__(self, t: object, y: object, h: object) -> bool:
        self.taken += 1
        return self.taken >= self.most


class Watch:
    """Looks at the steps of a solve, over all its runs.

    Parameters
    ----------
    callback : Callback or None
    max_seconds : float or None
        The limit on wall time, counted from the first step.
    show : Show or None
    """

    def __init__(
        self, callback: Callback | None = None, max_seconds: float | None = None, show: Show | None = None
    ) -> None:
        self._callback, self._max_seconds, self._show = callback, max_seconds, show
        self._began: float | None = None
        self.steps = 0

    @property
    def most_steps(self) -> int | None:
        """After how many steps the callback ends the solve, if that is all it does."""
        return self._callback.most if isinstance(self._callback, StepLimit) else None

    def begin(self) -> None:
        """Start the clock, unless an earlier run of the solve has."""
        if self._began is None:
            self._began = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until the limit; infinite if there is none."""
        if self._max_seconds is None or self._began is None:
            return float("inf")
        return self._max_seconds - (time.monotonic() - self._began)

    @property
    def spent(self) -> str:
        """How much was done within the limit, for the message."""
        return f"{self._max_seconds:.4g} s, in which {self.steps} steps were taken"

    def is_over(self, system: System) -> bool:
        """Whether the time limit has passed, in any process that holds a part of the state."""
        return self._max_seconds is not None and not system.space.every(self.left > 0)

    def passed(self, system: System, s: float, size: float, count: int) -> None:
        """Show that ``count`` further steps were taken; the last of ``size`` ended at ``s``."""
        self.steps += count
        if self._show is not None:
            self._show(system.direction * s, system.direction * size, self.steps)

    def require_wanted(self, system: System, s: float, u: np.ndarray, size: float) -> None:
        """Call the callback after a step of ``size`` to the state ``u`` (size,) at ``s``.

        Raises
        ------
        Stopped
            If it wants no more steps.
        TypeError
            If it returns anything but True, False or None; a tensor of one bool is as good.
        """
        if self._callback is None:
            return
        layout, direction = system.layout, system.direction
        t = torch.tensor(system.f.span.own_time(direction * s), dtype=layout.dtype, device=layout.device)
        y = layout.unflatten(torch.tensor(u, dtype=layout.dtype, device=layout.device))  # a copy
        answer = self._callback(t, y, direction * size)
        if isinstance(answer, torch.Tensor) and answer.dtype == torch.bool and answer.numel() == 1:
            answer = bool(answer)  # as of t > 3, or y[0] < 0
        if not isinstance(answer, bool | np.bool_ | None):
            raise TypeError(
                f"callback must return True to end the solve, False or None to go on, not {described(answer)}"
            )
        if not system.space.every(not answer):
            raise Stopped
