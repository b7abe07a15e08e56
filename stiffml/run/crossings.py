"""What is an event: a function of time and state that changes its sign; and what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stiffml.checks import described, flag
from stiffml.display import readable
from stiffml.system.derivatives.products import gradient
from stiffml.system.state import Layout, State

EventFunc = Callable[[Tensor, State], Tensor]


DIRECTIONS = ("both", "rising", "falling")


@readable
@dataclass(frozen=True)
class Crossing:
    """An event: where a function of time and state changes its sign.

    Parameters
    ----------
    function : callable
        function(t, y) -> tensor of one element, a real number and not a condition.
    direction : str
        Which changes count, in the direction in which the solve goes: ``"rising"`` from negative to positive,
        ``"falling"``, or ``"both"`` (default).
    terminal : bool
        Whether the solve ends there. Default True. False: it goes on, and ``Solution.events`` has all.

    Raises
    ------
    TypeError, ValueError
        For anything else.

    Examples
    --------
    >>> def fall(t, y):
    ...     return torch.stack([y[1], torch.full_like(y[1], -9.81)])  # height, speed
    >>> floor = stiffml.Crossing(lambda t, y: y[0], "falling")
    >>> top = stiffml.Crossing(lambda t, y: y[1], "falling", terminal=False)
    >>> start = torch.tensor([0.0, 9.81], dtype=torch.float64)
    >>> sol = stiffml.solve(fall, start, 5 * t, event=[floor, top])
    >>> sol.event.t, sol.events[1].t  # back after 2 s, at the top after 1 s
    (tensor(2.0000, dtype=torch.float64), tensor([1.0000], dtype=torch.float64))
    """

    function: EventFunc
    direction: str = "both"
    terminal: bool = True

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(
                f"Crossing: function must be callable as function(t, y), not {described(self.function)}"
            )
        if not isinstance(self.direction, str) or self.direction not in DIRECTIONS:
            raise ValueError(
                f"Crossing: direction must be one of {', '.join(DIRECTIONS)}, not {described(self.direction)}"
            )
        object.__setattr__(self, "terminal", flag("Crossing: terminal", self.terminal))

    def takes(self, before: float) -> bool:
        """Whether a change of sign from the value ``before`` counts; none does from zero or NaN."""
        return {"both": before != 0, "rising": before < 0, "falling": before > 0}[self.direction]


Watched = EventFunc | Crossing | Sequence[EventFunc | Crossing]
"""What is watched, as the argument ``event``."""


@readable
@dataclass(frozen=True)
class Events:
    """Where one of the event functions was zero.

    Attributes
    ----------
    t : Tensor
        (k,) the times in their order, differentiable.
    y : Tensor or tuple of Tensor
        (k, \\*y0.shape) the states there, differentiable.

    Examples
    --------
    >>> half = stiffml.Crossing(lambda t, y: y[0] - 0.5, terminal=False)
    >>> sol = stiffml.solve(func, y0, t, event=half)
    >>> sol.events[0].t, sol.events[0].y.shape
    (tensor([0.6931], dtype=torch.float64), torch.Size([1, 2]))
    """

    t: Tensor
    y: State


@readable
@dataclass(frozen=True)
class Event:
    """The event at which a solve ended: its event function reached zero.

    Attributes
    ----------
    t : Tensor
        (), the time of the event, differentiable.
    y : Tensor or structure of tensors
        The state there, in the form of y0, differentiable.
    number : int
        Which of the event functions it was.

    Examples
    --------
    >>> sol = stiffml.solve(func, y0, t, event=lambda t, y: y[0] - 0.5)
    >>> sol.event.t, sol.event.y[0]  # ln 2, 0.5
    (tensor(0.6931, dtype=torch.float64), tensor(0.5000, dtype=torch.float64))
    """

    t: Tensor
    y: State
    number: int = 0


def checked(value: Tensor) -> Tensor:
    """The value of an event function as a tensor of shape ().

    Raises
    ------
    TypeError
        If it is no tensor with one element, or not of floating point.
    """
    if not isinstance(value, Tensor) or value.numel() != 1:
        kind = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"event must return a tensor with one element, not {kind}")
    if not value.is_floating_point():
        raise TypeError(
            f"event must return a real number that changes its sign, not {value.dtype}: in place of a "
            "condition such as y[0] > 0.5 return the difference, y[0] - 0.5, whose root can be found"
        )
    return value.reshape(())


def gradients_of(event: EventFunc, layout: Layout, t: float, u: Tensor) -> tuple[float, Tensor]:
    """∂event/∂t and ∂event/∂u (size,) at time ``t`` and state ``u`` (size,), in the dtype of u."""
    with torch.enable_grad():
        time = torch.tensor(t, dtype=u.dtype, device=u.device, requires_grad=True)
        leaf = u.detach().clone().requires_grad_()
        value = checked(event(time, layout.unflatten(leaf)))
        one = torch.ones_like(value)
        return float(gradient(value, time, one, retain=True)), gradient(value, leaf, one)
