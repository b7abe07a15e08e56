"""Checked arguments that are remembered between the solves of a training.

The iterations of a training pass the same arguments again and again: only numbers in parameters, the initial
state and the guess change. What :func:`stiffml.interface.checking.check` made of them is then used again,
for solves of known steps all at once, which are over so soon that the checks would cost as much.

Used again means: no object that a solve changes, but its parts. Each solve has a system of its own, so that
solves within func, in several threads, and two before one backward pass do not know of each other. Nothing of
what :func:`check` finds by calling func is taken for granted either:

- The arguments are the same objects, or equal numbers and strings of the same type; t has the same times.
- What func reads is the same: numbers, modules and their modes, code, and which tensors, each requiring a
  gradient or not (see :class:`stiffml.parameters.names.Reached`).
- The graph of func at the start has the same operations and ends at the same parameters.
- y0 has the same layout and is finite.
- The trials of func are remembered, or made, as for any solve (see :mod:`stiffml.system.trial_memory`).

Any difference is followed by a full check, and so are ``SOLVES`` solves without one. Forgotten is what
belongs to a function that no longer exists, and all but the last ``KEPT`` kinds of solves of a function.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.interface.arguments import DEFAULTS, Arguments
from stiffml.interface.checking import try_out_system
from stiffml.interface.checking_steps import steps_of
from stiffml.interface.feasibility import require_schedule
from stiffml.interface.initial_state import checked_layout
from stiffml.interface.planning import plan_of
from stiffml.linear.dense.lu import DenseLU
from stiffml.linear.settings import LU
from stiffml.methods import Method
from stiffml.parameters.names import Reached
from stiffml.parameters.passed import in_forward_mode
from stiffml.run.request import Request
from stiffml.settings import Discrete, Newton
from stiffml.steps import Fixed, Grid, Held, Recorded
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.function.cache import remembered
from stiffml.system.split import Split
from stiffml.system.statistics import may_keep_statistics
from stiffml.system.system import System
from stiffml.system.unnamed_parameters import find_parameters

SOLVES = 32
"""Solves after which arguments are checked in full again."""

KEPT = 8
"""Kinds of solves of a function that are remembered."""

LARGEST = 1_000_000
"""Numbers in the states of all steps of a remembered solve: large ones have their memory checked."""

COMPARED = ("rtol", "atol", "stepping", "outputs", "jacobian", "batch_dims", "compile")
"""Arguments that are numbers or strings."""

LOOKED_AT = ("method", "steps", "guess", "linear", "params", "adjoint", "newton", "throw")
"""Further arguments that a remembered solve may have. All others must be left at their default."""

LEFT_OUT = tuple(DEFAULTS.keys() - {*COMPARED, *LOOKED_AT})


@dataclass
class _Read:
    """What a function reads besides the numbers in tensors."""

    values: dict[str, object]
    modules: list[weakref.ref]
    tensors: list[tuple[str, Tensor, bool]]  # by name, and whether each requires a gradient

    @classmethod
    def of(cls, found: Reached) -> _Read:
        tensors = [(name, tensor, tensor.requires_grad) for name, tensor in found.tensors.items()]
        return cls(found.values, [weakref.ref(module) for module in found.modules], tensors)

    def is_what(self, found: Reached) -> bool:
        """Whether this is what a function reads now."""
        same = len(self.modules) == len(found.modules) and len(self.tensors) == len(found.tensors)
        return (
            same
            and all(kept() is module for kept, module in zip(self.modules, found.modules, strict=True))
            and all(
                name == now and tensor is there and requires == there.requires_grad
                for (name, tensor, requires), (now, there) in zip(
                    self.tensors, found.tensors.items(), strict=True
                )
            )
            and self.values == found.values
        )


@dataclass
class _Checked:
    """What is known of a kind of solve of a function, which it must not refer to.

    ``held`` keeps the objects alive by whose identity the kind is known. ``request`` has a system whose parts
    have no function.
    """

    func: weakref.ref
    held: tuple[object, ...]
    times: np.ndarray
    reads: list[_Read]
    request: Request
    left: int = SOLVES


def recall(arguments: Arguments) -> Request | None:
    """The checked form of arguments like those of a solve before; None if they are to be checked in full."""
    kind = _kind(arguments)
    if kind is None:
        return None
    known = _known(arguments.func)
    before = known.get(kind)
    if before is None or before.func() is not _owner(arguments.func):
        return None
    request = _again(before, arguments) if before.left else None
    if request is None:
        known.pop(kind, None)
    before.left -= 1
    return request


def remember(arguments: Arguments, request: Request) -> None:
    """Keep the result of a full check for solves to come, if there may be such."""
    kind, system = _kind(arguments), request.system
    if kind is None or request.plan is None or system.used is None or system.space.is_distributed:
        return
    tensors = (*system.f.parameters, *arguments.params)
    numbers = system.layout.size * len(request.plan.ends)
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
    bare = _copied(system, [None] * len(system.parts), system.f.parameters)
    bare.used, bare.operations = system.used, system.operations
    steps, known = arguments.steps, _known(arguments.func)
    held = (arguments.t, arguments.params, steps.ends if isinstance(steps, Recorded) else None)
    while len(known) >= KEPT:
        known.pop(next(iter(known)), None)
    known[kind] = _Checked(
        weakref.ref(_owner(arguments.func)),
        held,
        arguments.t.detach().cpu().double().numpy().copy(),
        [_Read.of(reads) for reads in system.reads],
        dataclasses.replace(request, system=bare, solver=None, plan=None),
    )


def _kind(arguments: Arguments) -> object | None:
    """What kind of solve this is, as the key of a dictionary; None for one that is not remembered.

    Arguments of wrong types are not remembered either.
    """
    t, method, steps, newton, adjoint = (
        arguments.t,
        arguments.method,
        arguments.steps,
        arguments.newton,
        arguments.adjoint,
    )
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled() or in_forward_mode():
        return None
    if any(getattr(arguments, name) is not DEFAULTS[name] for name in LEFT_OUT):
        return None
    if t.requires_grad or not isinstance(steps, Grid | Fixed | Recorded):
        return None
    if not isinstance(method, str | Method) or not isinstance(arguments.linear, str | LU):
        return None
    if isinstance(newton, Newton) and isinstance(newton.atol, Tensor):
        return None
    if not isinstance(newton, Newton | None) or not isinstance(adjoint, Discrete | None):
        return None
    which: object = steps
    if isinstance(steps, Recorded):
        which = (tuple(map(id, steps.ends)), isinstance(steps, Held) and steps.adaptive)
    values = [getattr(arguments, name) for name in COMPARED]
    if any(not isinstance(value, float | int | str | None) for value in values):
        return None
    values += [method, arguments.linear, newton, adjoint]
    kind = (
        id(t),
        tuple((id(tensor), tensor.requires_grad) for tensor in arguments.params),
        type(steps),
        which,
        arguments.guess is None,
        *((type(value), value) for value in values),
    )
    try:
        hash(kind)  # a method of the caller's own may have none
        weakref.ref(_owner(arguments.func))
    except TypeError:
        return None
    return kind


def _again(before: _Checked, arguments: Arguments) -> Request | None:
    """The request of a solve with the same arguments; None if something else is not the same."""
    request, bare = before.request, before.request.system
    if not np.array_equal(arguments.t.detach().cpu().double().numpy(), before.times):
        return None
    y0 = arguments.y0
    if checked_layout(y0, arguments.batch_dims) != bare.layout:
        return None
    parts = (
        [arguments.func.implicit, arguments.func.explicit]
        if isinstance(arguments.func, Split) and bare.g is not None
        else [arguments.func]
    )
    if isinstance(arguments.func, Split) and arguments.func.linear != bare.constant_jacobian:
        return None
    system = _copied(bare, parts, bare.f.parameters)
    system.keep_members()
    if not all(reads.is_what(now) for reads, now in zip(before.reads, system.reads, strict=True)):
        return None
    s0 = float(request.outputs[0])
    with torch.inference_mode(False), torch.no_grad():
        u0 = bare.layout.flatten(y0).detach().double().cpu().numpy()
    find_parameters(system, s0, u0)
    now, then = system.f.parameters, bare.f.parameters
    if len(now) != len(then) or any(a is not b for a, b in zip(now, then, strict=True)):
        return None
    if (system.used, system.operations) != (bare.used, bare.operations):
        return None
    if arguments.compile:
        with torch.inference_mode(False), torch.no_grad():
            system.compile(u0, is_repeated=True)
    method, solver = request.method, DenseLU(bare.layout) if request.method.implicit else None
    steps = request.steps
    if isinstance(steps, Recorded):  # whose numbers, and first guess, may be others
        steps = steps_of(arguments.steps)
        require_schedule(steps, request.outputs, bare.layout.size, request.adjoint)
    plan = plan_of(arguments, steps, request.outputs, method, system, solver, request.adjoint)
    plan = try_out_system(system, method, solver, s0, u0, (request.t, y0), plan)
    if plan is None:
        return None
    return dataclasses.replace(request, system=system, solver=solver, steps=steps, plan=plan)


def _can_be_kept(found: Reached) -> bool:
    """Whether what a function reads can be compared later, and held without holding a graph."""
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in found.modules)
    return not scripted and all(tensor.is_leaf for tensor in found.tensors.values())


def _copied(system: System, funcs: list, parameters: tuple[Tensor, ...]) -> System:
    """A system of these functions that has counted and evaluated nothing."""
    f, *g = (
        Dynamics(func, part.layout, part.direction, parameters, part.space, part.span)
        for func, part in zip(funcs, system.parts, strict=True)
    )
    return System(f, g[0] if g else None, constant_jacobian=system.constant_jacobian)


def _owner(func: Callable) -> object:
    """The object that a function belongs to: a bound method is a new object at every mention."""
    return getattr(func, "__self__", func) if not isinstance(func, nn.Module) else func


def _known(func: Callable) -> dict[object, _Checked]:
    return remembered(func).setdefault("requests", {})
