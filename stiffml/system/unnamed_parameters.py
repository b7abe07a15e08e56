"""Parameters that func uses without their being named, found in its graph at the initial state.

A lambda around a module, modules in a plain list, a tensor that a closure holds: as everywhere in torch,
gradients reach whatever was used.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stiffml.parameters.leaves import Origin, Roots, ancestors, dependent_pair, next_node, origin, roots
from stiffml.parameters.passed import require_independent, require_reverse_mode
from stiffml.system.derivatives.joint import Graphed
from stiffml.system.space import Space
from stiffml.system.system import System


def find_parameters(system: System, s: float, u: np.ndarray) -> None:
    """Add to a system's parameters what its parts use at the start, (size,), and need gradients for.

    These are leaves, and tensors that were computed from others before the solve. Where func uses the others
    as well, these are taken in place of what was computed from them: both would count a gradient twice.

    Raises
    ------
    ValueError
        If one cannot be told, and ``params`` must name it; if one is computed from another; for tangents of
        forward mode.
    """
    known = system.f.parameters
    names = {origin(tensor) for tensor in known}
    since = next_node()
    values = _values(system, s, u, remember=True)
    by_part = [roots([value], names, since) for value in values]
    first = Roots()
    for part in by_part:
        first.known |= part.known
        first.leaves |= part.leaves
        first.older |= part.older
    found: tuple[Tensor, ...] = ()
    if not system.space.every(not first.leaves and not first.older):
        operands = _Operands(first.older)
        # Under such a mode torch gives up a compiled function for good; so only where it is needed.
        with nullcontext() if system.space.every(not first.older) else operands:
            second = roots(_values(system, s, u), names, since)
        # A leaf that func makes itself is a new object in each call, and no parameter.
        leaves = {key: leaf for key, leaf in first.leaves.items() if key in second.leaves}
        makes_leaves = len(leaves) < len(first.leaves)
        found = _chosen(first, leaves, operands.found, names, system.space)
        _require_same_everywhere(found, system.space)
        for dynamics in system.parts:
            dynamics.parameters, dynamics.makes_leaves = (*known, *found), makes_leaves
        names |= {origin(tensor) for tensor in found}
        by_part = [roots([value], names) for value in values]
    require_independent(system.f.parameters, len(found))
    position = {origin(tensor): i for i, tensor in enumerate(system.f.parameters)}
    system.used = tuple(frozenset(position[at] for at in part.known) for part in by_part) or None
    system.operations = [part.operations for part in by_part]


def note_operations(system: System, s: float, u: np.ndarray) -> None:
    """Note the operations of a system's parts at the start, (size,), for solves without gradients to come."""
    since = next_node()
    values = _values(system, s, u, remember=True)
    system.operations = [roots([value], (), since).operations for value in values] or None


def finds_the_same(system: System, s: float, u: np.ndarray) -> bool:
    """Whether a system still has the parameters, and the operations at the start, that it is said to have.

    Of a solve without gradients the operations count. ``u`` (size,) is the start. The values of its parts
    there are kept for the solve.
    """
    assert system.operations is not None
    since, values = next_node(), _values(system, s, u, remember=True)
    if system.used is None:
        return [roots([value], (), since).operations for value in values] == system.operations
    parameters = system.f.parameters
    position = {origin(tensor): i for i, tensor in enumerate(parameters)}
    if len(values) != len(system.used):
        return False
    for value, used, operations in zip(values, system.used, system.operations, strict=True):
        found = roots([value], position, since)
        if found.operations != operations or found.leaves or found.older:
            return False
        if {position[at] for at in found.known} != used:
            return False
    return True


def first_graph(system: System, s: float, u: np.ndarray) -> tuple[Graphed, Sequence[type | None]] | None:
    """f at the start, (size,), with its graph from the state on, and the kinds of operations in it.

    None if it depends on other parameters than a system is said to have. The value is kept for the solve.
    """
    assert system.used is not None
    since = next_node()
    leaf, value, slope = system.f.attached_with_leaf(s, u)
    require_reverse_mode(**{"func's value": (value,)})
    position = {origin(tensor): i for i, tensor in enumerate(system.f.parameters)}
    found = roots([value], {*position, id(leaf)}, since)
    if found.leaves or found.older or {position[at] for at in found.known - {id(leaf)}} != system.used[0]:
        return None
    return Graphed.of_call(system.f, leaf, value, slope), found.operations


def require_none_at_end(system: System, s: float, u: np.ndarray) -> None:
    """Raise ValueError if func uses, where a run ended, what needs a gradient, and nothing else in it does.

    ``u`` (size,) is the state there. A result without a graph would say nothing of what came up on the way;
    for one with a graph the backward pass looks at every step.
    """
    for part, value in zip(system.parts, _values(system, s, u), strict=False):
        if value.requires_grad:
            time, state = torch.tensor([s], dtype=torch.float64), torch.from_numpy(u.copy())[None]
            part.require_known(value, time, state, [])


def used_by(value: Tensor, parameters: Sequence[Tensor]) -> frozenset[int]:
    """The positions of the parameters that a value of func was computed from."""
    position = {origin(tensor): i for i, tensor in enumerate(parameters)}
    return frozenset(position[at] for at in roots([value], position).known)


def _values(system: System, s: float, u: np.ndarray, remember: bool = False) -> list[Tensor]:
    """The values of f, and of g if there is one, with their graphs."""
    try:
        values = [part.attached(s, u, remember) for part in system.parts]
    except RuntimeError as error:
        # torch refuses some calls, such as numpy() of a parameter, only where gradients are recorded. A solve
        # that nobody differentiates allows them.
        if "requires grad" not in str(error):
            raise
        return []
    require_reverse_mode(**{"func's value": tuple(values)})
    return values


def _chosen(
    first: Roots,
    leaves: dict[int, Tensor],
    operands: dict[Origin, Tensor],
    known: set[Origin],
    space: Space,
) -> tuple[Tensor, ...]:
    used = known | set(leaves) | set(first.older)
    below = {at: used.intersection(ancestors(node)) for at, node in first.older.items()}
    alone = [at for at, under in below.items() if not under]
    missing = [first.older[at] for at in alone if at not in operands]
    if not space.every(not missing):
        by = f" (by {missing[0].name()})" if missing else ""
        raise ValueError(
            f"func uses a tensor that needs a gradient and was computed outside of it{by}, in a way that "
            "hides which tensor that is: name it, params=[tensor]"
        )
    # Tensors that do not depend on others that are used; for those that do, the leaves they depend on.
    found = {**leaves, **{id(operands[at]): operands[at] for at in alone}}
    stop = known | {origin(tensor) for tensor in found.values()}
    for at, node in first.older.items():
        if below[at]:
            found |= roots([node], stop).leaves
    if dependent_pair(list(found.values())) is None:
        return tuple(found.values())
    for node in first.older.values():
        leaves |= roots([node], known).leaves
    return tuple(leaves.values())


def _require_same_everywhere(tensors: Sequence[Tensor], space: Space) -> None:
    sizes = [float(len(tensors)), *(float(tensor.numel()) for tensor in tensors)]
    count = space.max(sizes[0])
    same = space.every(sizes[0] == count)
    for k in range(int(count) if same else 0):
        same = space.every(sizes[k + 1] == space.max(sizes[k + 1])) and same
    if not same:
        raise ValueError(
            "func uses other tensors that need gradients in one process than in another; name all of them in "
            "every process: params=[…]"
        )


class _Operands(TorchDispatchMode):
    """Watches all operations; ``found`` are those of the wanted tensors that are operands."""

    def __init__(self, wanted: dict[Origin, Any]) -> None:
        super().__init__()
        self._wanted, self.found = wanted, dict[Origin, Tensor]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                at = origin(value)
                if at in self._wanted:
                    self.found[at] = value
        return func(*args, **kwargs)
