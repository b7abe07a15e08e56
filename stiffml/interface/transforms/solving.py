"""A solve within transforms: a lifted function of all tensors that it depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from stiffml.checks import times_of_samples
from stiffml.interface.arguments import Arguments
from stiffml.interface.solution import Solution
from stiffml.interface.transforms.lifted import Lifted, Plain, Tensors
from stiffml.interface.transforms.substitution import (
    Recorder,
    Substituted,
    exchanged,
    is_seen,
    is_wrapped,
    plain_parameters,
    with_substitution,
)
from stiffml.parameters.names import reached
from stiffml.parameters.passed import collected, in_forward_mode
from stiffml.run.crossings import Crossing

WITH_TENSORS = ("y0", "t", "mass", "breakpoints", "jumps", "through", "params", "rtol", "atol", "bounds")
"""Arguments that may hold tensors of a transform."""

LARGEST = 10_000_000
"""Numbers in a Jacobian that is made for products with it."""

Solver = Callable[[Arguments], Solution]


def may_be_transformed() -> bool:
    """Whether tensors may have no numbers, or tangents."""
    return torch._C._functorch.peek_interpreter_stack() is not None or in_forward_mode()


def solved_in_transforms(arguments: Arguments, solve: Solver) -> Solution:
    """The solution within transforms, whose outputs they see as they see those of any operation."""
    arguments = dataclasses.replace(arguments, params=collected(arguments.params))
    wrapped = _wrapped_in(arguments)
    if not any(map(is_wrapped, wrapped)):
        with temporarily_clear_interpreter_stack():
            return solve(arguments)
    if callable(arguments.jacobian):
        raise ValueError(
            "jacobian: a function is not available within torch.vmap, torch.func and forward mode, which it "
            "would not see; leave it out"
        )
    lifted = _Solve(arguments, wrapped, solve)
    outputs = list(Lifted.apply(lifted, *wrapped))
    template, spec = lifted.template
    y = tree_unflatten(outputs[: spec.num_leaves], spec)
    marks = []
    for number, mark in enumerate(_marks(template)):
        at = spec.num_leaves + number * (spec.num_leaves + 1)
        states = tree_unflatten(outputs[at + 1 : at + 1 + spec.num_leaves], spec)
        marks.append(dataclasses.replace(mark, t=outputs[at], y=states))
    event = None if template.event is None else marks.pop(0)
    t = times_of_samples("t", arguments.t)
    return dataclasses.replace(
        template,
        t=t[..., : template.t.shape[-1]],
        y=y,
        event=event,
        events=tuple(marks),
        interpolant=_no_interpolation,
        pieces=(),
    )


def _wrapped_in(arguments: Arguments) -> list[Tensor]:
    """The tensors that derivatives are taken by, or that have no numbers.

    Those among the arguments, parameters of modules, and what func and event use at the start.
    """
    given = [getattr(arguments, name) for name in WITH_TENSORS]
    of_modules = [p for module in reached(arguments.func).modules for p in module._parameters.values()]
    found = {id(leaf): leaf for leaf in tree_leaves([*given, of_modules]) if is_seen(leaf)}
    t = times_of_samples("t", arguments.t)
    kind = next((leaf for leaf in tree_leaves(arguments.y0) if isinstance(leaf, Tensor)), t)
    with Recorder() as recorder:
        begin = t.reshape(-1)[0].to(kind.real.dtype if kind.is_complex() else kind.dtype)
        for func in _functions_of(arguments):
            # What looks at numbers, as a branch does, fails here, and not in the solve on plain tensors.
            with suppress(Exception):
                func(begin, arguments.y0)
    known = {id(begin), *found}
    return [*found.values(), *(tensor for key, tensor in recorder.found.items() if key not in known)]


class _Solve(Plain):
    """(plain tensors in place of those of a transform) -> the outputs, and time and state of an event."""

    def __init__(self, arguments: Arguments, wrapped: Sequence[Tensor], solve: Solver) -> None:
        super().__init__()
        self._arguments, self._wrapped, self._solve = arguments, wrapped, solve
        self._solutions: dict[int, Solution] = {}
        self._jacobians: dict[int, list[Tensor] | None] = {}

    @property
    def template(self) -> tuple[Solution, Any]:
        """The solution of the last solve, and the structure of its states."""
        solution = list(self._solutions.values())[-1]
        return solution, tree_flatten(solution.y)[1]

    def compute(self, *inputs: Tensor) -> Tensors:
        arguments = self._arguments
        others = {id(one): other for one, other in zip(self._wrapped, inputs, strict=True)}
        given = {name: exchanged(getattr(arguments, name), others) for name in WITH_TENSORS}
        named = {id(leaf) for leaf in tree_leaves(given)}
        given["params"] = (*given["params"], *(x for x in inputs if x.requires_grad and id(x) not in named))
        given["event"] = _events(arguments.event, others)
        given["jumps"] = _jumps(given["jumps"], others)
        with plain_parameters(arguments.func, others):
            func = with_substitution(arguments.func, others)
            solution = self._solve(dataclasses.replace(arguments, func=func, **given))
        outputs = (*tree_leaves(solution.y),)
        for mark in _marks(solution):
            outputs = (*outputs, mark.t, *tree_leaves(mark.y))
        self._solutions[id(inputs[0])] = solution
        return outputs

    def takes_batches(self, inputs: Sequence[Tensor]) -> bool:
        leaves, _ = self.traced(inputs)
        return not _marks(self._solutions[id(leaves[0])]) and not self._arguments.make_consistent

    def jacobian_products(self, inputs: Sequence[Tensor], tangents: Sequence[Tensor]) -> Tensors | None:
        leaves, outputs = self.traced(inputs)
        key = id(leaves[0])
        if key not in self._jacobians:
            self._jacobians[key] = self._jacobian(self._solutions[key], leaves, outputs)
        found = self._jacobians[key]
        if found is None:
            return None
        rows = torch.cat(found, dim=1)
        along = torch.cat([tangent.reshape(-1).to(rows) for tangent in tangents])
        parts = (rows @ along).split([output.numel() for output in outputs])
        return tuple(part.view(y.shape).to(y.dtype) for part, y in zip(parts, outputs, strict=True))

    def _jacobian(self, solution: Solution, leaves: list[Tensor], outputs: Tensors) -> list[Tensor] | None:
        """For each leaf the Jacobian of all outputs (numbers, numbers), float64; None for another way."""
        numbers = sum(y.numel() for y in outputs), sum(leaf.numel() for leaf in leaves)
        is_real = not any(x.is_complex() for x in (*leaves, *outputs))
        if not is_real or numbers[0] * numbers[1] > LARGEST or not all(x.requires_grad for x in leaves):
            return None
        if not any(y.requires_grad for y in outputs):
            return None
        if _marks(solution):  # whose gradient cannot be differentiated
            return _row_by_row(outputs, leaves)
        with torch.enable_grad():
            by_leaf = solution.jacobian(leaves)
        return [
            torch.cat([part.reshape(-1, leaf.numel()).double() for part in tree_leaves(of_leaf)])
            for of_leaf, leaf in zip(by_leaf, leaves, strict=True)
        ]


def _marks(solution: Solution) -> list[Any]:
    """The event that ended a solve, if any, and the events of each function."""
    return [*(() if solution.event is None else (solution.event,)), *solution.events]


def _events(event: Any, others: dict[int, Tensor]) -> Any:
    """Event functions with plain tensors; anything else is refused later."""
    if isinstance(event, list | tuple):
        return [_events(one, others) for one in event]
    if isinstance(event, Crossing):
        return dataclasses.replace(event, function=Substituted(event.function, others))
    return Substituted(event, others) if callable(event) else event


def _jumps(jumps: Any, others: dict[int, Tensor]) -> Any:
    """Functions of jumps likewise."""
    if not isinstance(jumps, list | tuple):
        return jumps
    pairs = (tuple, list)
    return [
        (j[0], Substituted(j[1], others)) if isinstance(j, pairs) and callable(j[-1]) else j for j in jumps
    ]


def _functions_of(arguments: Arguments) -> list[Any]:
    """What is called with a time and a state: func, events, jumps."""
    event, jumps = arguments.event, arguments.jumps
    events = event if isinstance(event, list | tuple) else [event]
    found = [one.function if isinstance(one, Crossing) else one for one in events]
    found += [one[-1] for one in jumps or () if isinstance(one, tuple | list)]
    return [one for one in (arguments.func, *found) if callable(one)]


def _row_by_row(outputs: Tensors, leaves: list[Tensor]) -> list[Tensor]:
    """The Jacobian by one gradient for each number in the outputs."""
    with torch.enable_grad():
        numbers = torch.cat([y.double().reshape(-1) for y in outputs])
        rows = [torch.autograd.grad(one, leaves, retain_graph=True, allow_unused=True) for one in numbers]
    return [
        torch.stack([torch.zeros_like(leaf) if g is None else g for g in column])
        .double()
        .reshape(len(rows), -1)
        for column, leaf in zip(zip(*rows, strict=True), leaves, strict=True)
    ]


def _no_interpolation(t: Tensor) -> Any:
    raise ValueError("interpolate: not available within torch.vmap and torch.func; add the times to t")
