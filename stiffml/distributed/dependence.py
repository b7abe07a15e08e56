"""What the output of a module depends on, in torch's graph."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge


def check_dependence(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
    """Raise unless gradients reach every tensor that needs one, and reach it once."""
    known = {_edge(tensor): tensor for tensor in inputs if tensor.requires_grad}
    for node, _ in _reached([_edge(output) for output in outputs if output.requires_grad], known):
        if node.name().endswith("AccumulateGrad"):
            raise ValueError(
                f"the module's output depends on a tensor of shape {tuple(node.variable.shape)} that needs a "
                "gradient but is not one of its parameters: make it one (an nn.Parameter, or its module a "
                "submodule), or pass it in Ensemble(module, params=[…])"
            )
    for tensor in known.values():
        # Such a gradient would be counted here, and by torch on its way from the one to the other.
        before = () if tensor.grad_fn is None else _reached(tensor.grad_fn.next_functions, ())
        other = next((known[edge] for edge in before if edge in known), None)
        if other is not None:
            raise ValueError(
                f"a tensor of shape {tuple(tensor.shape)}, a buffer of the module or one of params, was "
                f"computed from another of shape {tuple(other.shape)}: leave it out, or make it in forward()"
            )


def _reached(edges: Iterable[tuple[Any, int]], end: Container[tuple[Any, int]]) -> Iterator[tuple[Any, int]]:
    """Edges of torch's graph and all that they depend on, but not ``end`` and what only that depends on."""
    pending, seen = list(edges), set()
    while pending:
        edge = pending.pop()
        node, _ = edge
        if node is None or edge in seen or edge in end:
            continue
        seen.add(edge)
        yield edge
        pending += node.next_functions


def _edge(tensor: Tensor) -> tuple[Any, int]:
    """Where a tensor is in torch's graph."""
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr
