"""What a tensor was computed from, according to torch's graph."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import Node

NO_NODE = sys.maxsize
"""Larger than the number of any node."""

Origin = int | tuple[Node, int]
"""A tensor in a graph: the id of a leaf, or the node that computed the tensor and the output number."""


def origin(tensor: Tensor) -> Origin:
    return id(tensor) if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)


@dataclass
class Roots:
    """Where a graph ends.

    Attributes
    ----------
    known : set of Origin
        The known tensors in the graph.
    leaves : dict of int to Tensor
        The other leaves that require gradients, by id.
    older : dict of Origin to Node
        Tensors that were computed before ``since``.
    operations : list
        The kinds of the operations in the order of the walk; None where an operand needs no gradient.
    """

    known: set[Origin] = field(default_factory=set)
    leaves: dict[int, Tensor] = field(default_factory=dict)
    older: dict[Origin, Node] = field(default_factory=dict)
    operations: list[type | None] = field(default_factory=list)


def roots(begin: Iterable[Tensor | Node], known: Container[Origin] = (), since: int = 0) -> Roots:
    """What tensors, or the results of operations, were computed from.

    Parameters
    ----------
    known : container of Origin
        Tensors at which the walk stops.
    since : int
        The walk also stops at nodes with smaller numbers (see :func:`next_node`).
    """
    found = Roots()
    operations, leaves = found.operations, found.leaves
    seen: set[Node] = set()
    waiting: list[Node] = []
    edges: list[tuple[Node | None, int]] = []
    for tensor in begin:
        if not isinstance(tensor, Tensor):
            waiting.append(tensor)
        elif tensor.grad_fn is not None:
            edges.append((tensor.grad_fn, tensor.output_nr))
        elif tensor.requires_grad:
            at = origin(tensor)
            if at in known:
                found.known.add(at)
            else:
                leaves[id(tensor)] = tensor
    # Without a function for a node: its calls would take longest here.
    while edges or waiting:
        for node, number in edges or waiting.pop().next_functions:
            kind = None if node is None else type(node)
            operations.append(kind)
            if node is None:
                continue
            variable = getattr(node, "variable") if kind is _ACCUMULATES else None  # noqa: B009
            at = (node, number) if variable is None else id(variable)
            if at in known:
                found.known.add(at)
            elif variable is not None:
                leaves[id(variable)] = variable
            elif node._sequence_nr() < since:
                found.older[at] = node
            elif node not in seen:
                seen.add(node)
                waiting.append(node)
        edges = []
    return found


def comes_from(tensor: Tensor, leaves: Iterable[Tensor]) -> bool:
    """Whether a tensor was computed from no other leaves than these; all are looked for at every call."""
    return oldest_from(tensor, leaves) is not None


def oldest_from(tensor: Tensor, leaves: Iterable[Tensor]) -> int | None:
    """The least number of a node that a tensor was computed by, ``NO_NODE`` if there is none; see
    :func:`next_node`. None if it was computed from other leaves than these.

    As :func:`roots` would tell, but for what else that says, in half of its time.
    """
    known = set(map(id, leaves))
    if tensor.grad_fn is None:
        return NO_NODE if not tensor.requires_grad or id(tensor) in known else None
    seen, waiting, oldest = set[Node](), [tensor.grad_fn], NO_NODE
    while waiting:
        one = waiting.pop()
        number = one._sequence_nr()
        if number < oldest:
            oldest = number
        for node, _ in one.next_functions:
            if node is None or node in seen:
                continue
            seen.add(node)
            if type(node) is not _ACCUMULATES:
                waiting.append(node)
            elif id(node.variable) not in known:  # type: ignore[attr-defined]
                return None
    return oldest


def ancestors(node: Node) -> Iterator[Origin]:
    """All tensors that the result of ``node`` was computed from."""
    seen: set[Node] = {node}
    waiting = [node]
    while waiting:
        for before, number in waiting.pop().next_functions:
            if before is None:
                continue
            variable = _variable(before)
            yield (before, number) if variable is None else id(variable)
            if before not in seen:
                seen.add(before)
                waiting.append(before)


def dependent_pair(tensors: Sequence[Tensor]) -> tuple[int, int] | None:
    """The positions of a tensor that is computed from another and of that other; None without such a pair."""
    known = {origin(tensor): position for position, tensor in enumerate(tensors)}
    for position, tensor in enumerate(tensors):
        if tensor.grad_fn is not None:
            for at in ancestors(tensor.grad_fn):
                if at in known:
                    return position, known[at]
    return None


def next_node() -> int:
    """The number of the next node that torch will make in this thread."""
    return torch.autograd._get_sequence_nr()


def _variable(node: Node) -> Tensor | None:
    """The leaf that a node accumulates the gradient of; None for other nodes."""
    return getattr(node, "variable") if type(node) is _ACCUMULATES else None  # noqa: B009 (unknown to mypy)


with torch.enable_grad():
    _ACCUMULATES = type(torch.autograd.graph.get_gradient_edge(torch.zeros((), requires_grad=True)).node)
"""The kind of node at a leaf. Operations of the caller's may have an attribute ``variable`` too."""
