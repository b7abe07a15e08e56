"""A solve whose state has another form: its arguments for real tensors, and its solution in that form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from stiffml.checks import positive
from stiffml.interface.arguments import Arguments
from stiffml.interface.equations import parameters_of
from stiffml.interface.forms.form import Form, Tree
from stiffml.interface.solution import Solution
from stiffml.run.crossings import Crossing
from stiffml.settings import Newton
from stiffml.system.function.batching import Func
from stiffml.system.split import Split
from stiffml.system.state import State


class Reformed(nn.Module):
    """A function of states of some form as one of real tensors."""

    def __init__(self, func: Callable[[Tensor, Tree], Tree], form: Form) -> None:
        super().__init__()
        self.func: Any = func
        self._form = form

    @property
    def kept_with(self) -> tuple[object, object]:
        """What findings about it belong to: the function, and the form."""
        return self.func, (self._form.is_complex, repr(self._form.spec))

    def forward(self, t: Tensor, y: State) -> State:
        if isinstance(y, Tensor) and t.dim() == y.dim() and self._form.is_complex[0]:
            t = t[..., 0]  # of many states at once; a complex one has one dimension less
        return self._form.real("func: its value", self.func(t, self._form.own(y)))


def reformed(arguments: Arguments, form: Form, y0: State) -> Arguments:
    """The same solve with real tensors; ``y0`` are those that it starts from.

    Raises
    ------
    TypeError, ValueError
        For arguments of another structure than y0, or that are for real states only.
    """
    func, bounds = arguments.func, arguments.bounds
    if any(form.is_complex):
        _require_real(arguments)
    if isinstance(bounds, tuple | list) and len(bounds) == 2:
        low, high = bounds
        bounds = form.by_leaf("bounds: low", low, _as_it_is), form.by_leaf("bounds: high", high, _as_it_is)
    guess = arguments.guess
    if isinstance(guess, Solution):
        guess = dataclasses.replace(guess, y=form.real("guess: y", guess.y), form=None)
    newton = arguments.newton
    if isinstance(newton, Newton):
        newton = dataclasses.replace(newton, atol=_tolerance(form, "Newton: atol", newton.atol))
    return dataclasses.replace(
        arguments,
        func=_of_real(func, form) if callable(func) else func,
        y0=y0,
        rtol=_tolerance(form, "rtol", arguments.rtol),
        atol=_tolerance(form, "atol", arguments.atol),
        event=_event(form, arguments.event),
        callback=_looking_on(form, arguments.callback),
        jumps=_jumps(form, arguments.jumps),
        bounds=bounds,
        guess=guess,
        newton=newton,
        jacobian=_jacobian(form, arguments.jacobian),
        params=parameters_of(func, arguments.params) if callable(func) else arguments.params,
    )


def in_form(solution: Solution, form: Form) -> Solution:
    """A solution of real tensors with states in their form."""
    event = solution.event
    return dataclasses.replace(
        solution,
        y=form.own(solution.y),
        event=None if event is None else dataclasses.replace(event, y=form.own(event.y)),
        events=tuple(dataclasses.replace(one, y=form.own(one.y)) for one in solution.events),
        interpolant=lambda t: form.own(solution.interpolate(t)),
        form=form,
    )


def _as_it_is(leaf: Any) -> Any:
    return leaf


def _of_real(func: Func, form: Form) -> Func:
    if isinstance(func, Split):
        return Split(Reformed(func.implicit, form), Reformed(func.explicit, form), linear=func.linear)
    return Reformed(func, form)


def _event(form: Form, event: Any) -> Any:
    """An event, or several, that gets states in their form; anything else is refused later."""
    if isinstance(event, list | tuple):
        return [_event(form, one) for one in event]
    if isinstance(event, Crossing):
        return dataclasses.replace(event, function=_event(form, event.function))
    return (lambda t, y: event(t, form.own(y))) if callable(event) else event


def _looking_on(form: Form, callback: Any) -> Any:
    return (lambda t, y, h: callback(t, form.own(y), h)) if callable(callback) else callback


def _jumps(form: Form, jumps: Any) -> Any:
    """Jumps of states in their form; anything else is refused later."""

    def jump(function: Any) -> Any:
        if not callable(function):
            return function
        return lambda t, y: form.real("jumps: the new state", function(t, form.own(y)))

    if not isinstance(jumps, list | tuple):
        return jumps
    pairs = (tuple, list)
    return [(one[0], jump(one[1])) if isinstance(one, pairs) and len(one) == 2 else one for one in jumps]


def _tolerance(form: Form, name: str, value: Any) -> Any:
    return form.by_leaf(name, value, lambda leaf: positive(name, leaf))


def _jacobian(form: Form, jacobian: Any) -> Any:
    if not callable(jacobian):
        return jacobian
    return lambda t, y: jacobian(t, form.own(y))


def _require_real(arguments: Arguments) -> None:
    """Refuse what has no meaning, or several, for complex numbers."""
    pairs = "y0=torch.view_as_real(z0), with torch.view_as_complex(y) in func"
    if arguments.bounds is not None:
        raise ValueError(f"bounds: complex numbers have no order; bound their parts as reals: {pairs}")
    if arguments.mass is not None:
        raise ValueError(f"mass: is for real components; pass the complex ones as pairs of reals: {pairs}")
    if not isinstance(arguments.jacobian, str | None):
        raise ValueError(
            "jacobian: a Jacobian or a pattern of one is for real components; leave it out, or pass complex "
            f"ones as pairs of reals: {pairs}"
        )
