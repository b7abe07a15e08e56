"""What a tensor was computed from, read off the graph that torch keeps for its gradient."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import Node

Origin = int | tuple[Node, int]
"""What stands for a tensor in a graph: a leaf is known by its id, another by what computed it."""


def origin(tensor: Tensor) -> Origin:
    return id(tensor) if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)


@dataclass
class Roots:
    """Where a graph ends.

    Attributes
    ----------
    known : set of Origin
        Those of the known tensors that were met.
    leaves : dict of int to Tensor
        The other leaves that require gradients, by id.
    older : dict of Origin to Node
        What was computed before ``since`` from tensors that require gradients.
    """

    known: set[Origin] = field(default_factory=set)
    leaves: dict[int, Tensor] = field(default_factory=dict)
    older: dict[Origin, Node] = field(default_factory=dict)


def roots(begin: Iterable[Tensor | Node], known: Container[Origin] = (), since: int = 0) -> Roots:
    """What tensors, or the results of operations, were computed from.

    Parameters
    ----------
    known : container of Origin
        Tensors that the walk stops at.
    since : int
        Number of the first node (see :func:`next_node`) that it passes; it stops at older ones as well.
    """
    found = Roots()
    seen: set[Node] = set()
    waiting: list[Node] = []

    def visit(node: Node, number: int) -> None:
        variable = _variable(node)
        at: Origin = (node, number) if variable is None else id(variable)
        if at in known:
            found.known.add(at)
        elif variable is not None:
            found.leaves[id(variable)] = variable
        elif node._sequence_nr() < since:
            found.older[at] = node
        elif node not in seen:
            seen.add(node)
            waiting.append(node)

    for tensor in begin:
        if not isinstance(tensor, Tensor):
            waiting.append(tensor)
        elif tensor.grad_fn is not None:
            visit(tensor.grad_fn, tensor.output_nr)
        elif tensor.requires_grad:
            at = origin(tensor)
            if at in known:
                found.known.add(at)
            else:
                found.leaves[id(tensor)] = tensor
    while waiting:
        for node, number in waiting.pop().next_functions:
            if node is not None:
                visit(node, number)
    return found


def ancestors(node: Node) -> Iterator[Origin]:
    """All tensors that one was computed from, of which ``node`` is the last operation."""
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
    """The positions of one that is computed from another, and of that; None if there is none."""
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
    """The leaf that a node stands for."""
    # One of the caller's own operations may keep something else by this name.
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return None
    return getattr(node, "variable", None)
