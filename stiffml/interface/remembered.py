"""Checked arguments that are remembered between the solves of a training.

The iterations of a training pass the same arguments again and again: only numbers in parameters, the initial
state and the guess change. What :func:`stiffml.interface.checking.check` made of them is then used again,
which would cost as much as a short solve.

Used again means: no object that a solve changes, but its parts. Each solve has a system of its own, so that
solves within func, in several threads, and two before one backward pass do not know of each other. Nothing of
what :func:`check` finds by calling func is taken for granted either:

- The arguments are the same objects, or equal numbers and strings of the same type. Of t and of tolerances by
  component the numbers count: fits make these tensors anew.
- What func reads is the same: numbers, modules and their modes, code, and which tensors, each requiring a
  gradient or not (see :class:`stiffml.parameters.names.Reached`).
- The graph of func at the start has the same operations and ends at the same parameters. Of a function in
  compiled form, which is where derivatives come from, the value beside the end of the solve is that of torch;
  else it is solved again after a full check.
- y0 has the same layout and is finite.
- The trials of func are remembered, or made, as for any solve (see :mod:`stiffml.system.trial_memory`).

Solves without gradients are kinds of their own, from the second of a function on: what they note costs as
much as it saves once. Those of explicit methods, which are checked as quickly as they could be recalled, are
not remembered.

Any difference is followed by a full check, and so are ``SOLVES`` solves without one. Forgotten is what
belongs to a function that no longer exists, and all but the last ``KEPT`` kinds of solves of a function.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.interface.arguments import DEFAULTS, Arguments
from stiffml.interface.changing import changed
from stiffml.interface.checking import may_rely_on_trials, relying_on, try_out_system
from stiffml.interface.initial_state import checked_layout
from stiffml.interface.planning import near_of, start_of
from stiffml.linear.dense.lu import DenseLU
from stiffml.linear.settings import LU
from stiffml.methods import Method
from stiffml.parameters.names import Reached
from stiffml.parameters.passed import in_forward_mode
from stiffml.parameters.watch import Watch
from stiffml.run.request import Request
from stiffml.settings import Discrete, Newton
from stiffml.steps import Adaptive, Fixed, Grid, Held, Recorded
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.finite import is_finite
from stiffml.system.function.cache import remembered
from stiffml.system.split import Split
from stiffml.system.state import Layout, State
from stiffml.system.statistics import may_keep_statistics
from stiffml.system.system import System
from stiffml.system.trial_memory import rely_on
from stiffml.system.unnamed_parameters import finds_the_same, first_graph

SOLVES = 128
"""Solves after which arguments are checked in full again."""

KEPT = 8
"""Kinds of solves of a function that are remembered."""

LARGEST = 1_000_000
"""Numbers in the states of all steps of a remembered solve: large ones have their memory checked."""

MOST_TOLERANCES = 1000
"""Numbers in a tolerance by component of a remembered solve."""

COMPARED = ("rtol", "atol", "stepping", "outputs", "jacobian", "batch_dims", "compile", "max_seconds")
"""Arguments that are numbers or strings; the first two may be tensors of numbers."""

LOOKED_AT = ("method", "steps", "guess", "linear", "params", "adjoint", "newton", "throw")
"""Further arguments that a remembered solve may have. All others must be left at their default."""

LEFT_OUT = tuple(DEFAULTS.keys() - {*COMPARED, *LOOKED_AT})


@dataclass
class _Checked:
    """What is known of a kind of solve of a function, which it must not refer to.

    ``held`` keeps the objects alive by whose identity the kind is known. ``request`` has a system whose parts
    have no function; ``compiled`` says which of them were compiled. ``first`` are the operations in the first
    graph that a run keeps, once it has kept one.
    """

    held: tuple[object, ...]
    watches: list[Watch]
    ends: bytes
    request: Request
    compiled: list[bool]
    left: int = SOLVES
    first: Sequence[type | None] | None = None


def recall(arguments: Arguments) -> Request | None:
    """The checked form of arguments like those of a solve before; None if they are to be checked in full."""
    kind = _kind(arguments)
    if kind is None:
        return None
    known = _known(arguments.func)
    before = known.get(kind)
    if before is None:
        return None
    request = _again(before, arguments) if before.left else None
    if request is None:
        known.pop(kind, None)
    before.left -= 1
    return request


def remember(arguments: Arguments, request: Request) -> None:
    """Keep the result of a full check for solves to come, if there may be such."""
    kind, system = _kind(arguments), request.system
    if kind is None or system.operations is None or system.space.is_distributed:
        return
    tensors = (*system.f.parameters, *arguments.params)
    numbers = system.layout.size * (1 if request.plan is None else len(request.plan.ends))
    if (
        any(not tensor.is_leaf for tensor in tensors)
        or any(part.makes_leaves for part in system.parts)
        or not isinstance(request.solver, DenseLU | None)
        or numbers > LARGEST
        or may_keep_statistics(arguments.func)
    ):
        return
    if not all(map(_can_be_kept, system.reads)):
        return
    bare = _copied(system, [None] * len(system.parts))
    # Without the modules, which would be kept alive.
    bare.keeps_members([dataclasses.replace(reads, modules=[]) for reads in system.reads], system.members)
    steps, plan, known = arguments.steps, request.plan, _known(arguments.func)
    if plan is not None:
        plan = dataclasses.replace(plan, guess=None, near=None, trials=None)
    held = (arguments.params, steps.ends if isinstance(steps, Recorded) else None)
    while len(known) >= KEPT:
        known.pop(next(iter(known)), None)
    system.watches = [Watch(part.func) for part in system.parts]
    known[kind] = _Checked(
        held,
        system.watches,
        _bytes_of_ends(steps),
        # The ends may be a part of the caller's times, who may change these.
        dataclasses.replace(request, system=bare, solver=None, plan=plan, ends=request.ends.clone()),
        [part.is_compiled for part in system.parts],
    )


def _kind(arguments: Arguments) -> object | None:
    """What kind of solve this is, as the key of a dictionary; None for one that is not remembered.

    Arguments of wrong types are not remembered either.
    """
    given = vars(arguments)
    t, y0, method, steps, linear, newton, adjoint, params = map(given.__getitem__, _LOOKED_INTO)
    if torch.is_inference_mode_enabled() or in_forward_mode():
        return None
    if any(map(operator.is_not, map(given.__getitem__, LEFT_OUT), _LEFT)):
        return None
    if t.requires_grad or not isinstance(steps, Adaptive | Grid | Fixed | Recorded | None):
        return None
    if not isinstance(method, str | Method) or not isinstance(linear, str | LU):
        return None
    if not isinstance(newton, Newton | None) or not isinstance(adjoint, Discrete | None):
        return None
    atol_of_newton = None if newton is None else _as_numbers(newton.atol)
    if type(atol_of_newton) not in _PLAIN:
        return None
    which: object = steps
    if isinstance(steps, Recorded):
        which = (tuple(map(id, steps.ends)), isinstance(steps, Held) and steps.adaptive)
    values = [*map(given.__getitem__, COMPARED)]
    values[:2] = map(_as_numbers, values[:2])
    kinds = (*map(type, values),)
    if not _PLAIN.issuperset(kinds):
        return None
    kind = (
        torch.is_grad_enabled(),
        (t.dtype, t.device, t.shape, _bytes_of(t)),
        tuple((id(tensor), tensor.requires_grad) for tensor in params),
        _requires_grad(y0),
        type(steps),
        which,
        given["guess"] is None,
        kinds,
        *values,
        None if newton is None else (newton.rtol, type(atol_of_newton), newton.max_iterations),
        atol_of_newton,
        *((type(value), value) for value in (method, linear, adjoint)),
    )
    try:
        hash(kind)  # a method of the caller's own may have none
    except TypeError:
        return None
    return kind


def _as_numbers(tolerance: object) -> object:
    """A tolerance by component as bytes with its type and shape; any other, also a wrong one, as it is."""
    if type(tolerance) is not Tensor or tolerance.layout is not torch.strided or tolerance.requires_grad:
        return tolerance
    if tolerance.device.type != "cpu" or tolerance.dtype not in (torch.float64, torch.float32):
        return tolerance
    if tolerance.numel() > MOST_TOLERANCES:
        return tolerance
    numbers = tolerance.numpy()
    return f"{tolerance.dtype} {numbers.shape}".encode() + numbers.tobytes()


_LOOKED_INTO = ("t", "y0", "method", "steps", "linear", "newton", "adjoint", "params")
_LEFT = [DEFAULTS[name] for name in LEFT_OUT]
_PLAIN = frozenset((float, int, bool, str, bytes, type(None)))


def _requires_grad(y0: object) -> bool:
    if isinstance(y0, Tensor):
        return y0.requires_grad
    return isinstance(y0, tuple) and any(isinstance(part, Tensor) and part.requires_grad for part in y0)


def _again(before: _Checked, arguments: Arguments) -> Request | None:
    """The request of a solve with the same arguments; None if something else is not the same."""
    request, bare, func, y0 = before.request, before.request.system, arguments.func, arguments.y0
    layout, plan = bare.layout, request.plan
    steps = arguments.steps if isinstance(arguments.steps, Recorded) else request.steps
    if _bytes_of_ends(steps) != before.ends:
        return None
    u0 = _start(y0, layout, arguments.batch_dims)
    if u0 is None:
        return None
    parts = [func.implicit, func.explicit] if isinstance(func, Split) and bare.g is not None else [func]
    if isinstance(func, Split) and func.linear != bare.constant_jacobian:
        return None
    if not all(watch.sees(part) for watch, part in zip(before.watches, parts, strict=True)):
        return None
    system, s0 = _copied(bare, parts), float(request.outputs[0])
    system.keeps_members(bare.reads, bare.members)
    system.watches = before.watches
    if not all(before.compiled):
        explicit = request.method.stepper == "explicit"
        if not (_is_the_same(before, system, s0, u0) if explicit else finds_the_same(system, s0, u0)):
            return None
    if arguments.compile:
        system.compile(u0, is_repeated=True)
        if [part.is_compiled for part in system.parts] != before.compiled:
            return None
    method, solver = request.method, None
    if method.implicit:
        solver = DenseLU(layout, bare.constant_jacobian)
    if plan is not None:
        start = start_of(arguments, steps, plan.ends, system)
        plan = changed(plan, guess=start, near=near_of(arguments, steps))
    if len(request.outputs) > 1:
        given = (arguments.t, y0)
        repeat = functools.partial(try_out_system, system, method, solver, s0, u0, given, plan, relies=True)
        trials = None
        if may_rely_on_trials(system, plan):
            trials = rely_on(system.parts, system.facts, repeat)
        plan = repeat() if trials is None else relying_on(trials, system, plan)
    return changed(request, system=system, solver=solver, steps=steps, plan=plan, t=arguments.t)


def _is_the_same(before: _Checked, system: System, s: float, u: np.ndarray) -> bool:
    """As ``finds_the_same``, for explicit steps from a start (size,).

    Where a run will keep graphs of f, it is the first of these that is looked at, and not one more.
    """
    keeps = bool(changed(before.request, system=system).kept[1])
    if before.first is None or not keeps:
        if not finds_the_same(system, s, u):
            return False
        if keeps:
            found = first_graph(system, s, u)
            if found is not None:
                system.first_graph, before.first = found
        return True
    found = first_graph(system, s, u)
    if found is None or found[1] != before.first:
        return False
    system.first_graph = found[0]
    return True


def _start(y0: State, layout: Layout, batch_dims: int) -> np.ndarray | None:
    """The flat initial state (size,); None if it has another layout, and an error if it is wrong."""
    is_known = (
        isinstance(y0, Tensor)
        and not layout.is_tuple
        and y0.shape == layout.shapes[0]
        and (y0.dtype, y0.device, y0.layout) == (layout.dtype, layout.device, torch.strided)
    )
    if not is_known and checked_layout(y0, batch_dims) != layout:
        return None
    u0 = layout.flatten(y0).detach().double().cpu().numpy()
    if is_known and not is_finite(u0):
        checked_layout(y0, batch_dims)  # says where
    return u0


def _bytes_of(t: Tensor) -> bytes:
    """Times, for a comparison."""
    return t.detach().cpu().numpy().tobytes()


def _bytes_of_ends(steps: object) -> bytes:
    """The numbers of recorded steps, likewise."""
    return np.concatenate([np.empty(0), *steps.ends]).tobytes() if isinstance(steps, Recorded) else b""


def _can_be_kept(found: Reached) -> bool:
    """Whether what a function reads can be compared later, and held without holding a graph."""
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in found.modules)
    return not scripted and all(tensor.is_leaf for tensor in found.tensors.values())


def _copied(system: System, funcs: list) -> System:
    """A system of these functions that has counted and evaluated nothing, of which the same is known."""
    f, *g = (
        Dynamics(func, part.layout, part.direction, part.parameters, part.space, part.span)
        for func, part in zip(funcs, system.parts, strict=True)
    )
    copied = System(f, g[0] if g else None, constant_jacobian=system.constant_jacobian)
    copied.used, copied.operations, copied.facts = system.used, system.operations, system.facts
    return copied


def _known(func: Callable) -> dict[object, _Checked]:
    return remembered(func).setdefault("requests", {})
