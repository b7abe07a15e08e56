"""Parameters that gradients are wanted for: what may be passed, and why not what is made from another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from stiffml.checks import described


def collected(params: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """All of ``params``, which may be an iterator.

    Raises
    ------
    TypeError
        For a single tensor, whose rows would be new tensors without a use in func.
    """
    if isinstance(params, Tensor):
        raise TypeError("params must be a sequence of tensors, not one tensor")
    if isinstance(params, nn.Module):
        raise TypeError("params must be a sequence of tensors, not a module: pass module.parameters()")
    if not isinstance(params, Iterable) or isinstance(params, str | bytes | Mapping):
        raise TypeError(f"params must be a sequence of tensors, not {described(params)}")
    return tuple(params)


def require_independent(parameters: Sequence[Tensor]) -> None:
    """Raise ValueError if one is computed from another: what passes through both would count twice."""
    if len(parameters) < 2 or not torch.is_grad_enabled():
        return
    known = {_origin(p): p for p in parameters}
    seen: set[Node] = set()
    for parameter in parameters:
        waiting = [] if parameter.grad_fn is None else [parameter.grad_fn]
        while waiting:
            for node, number in waiting.pop().next_functions:
                if node is None:
                    continue
                # A leaf is known by itself, other tensors as results of what computed them.
                variable = getattr(node, "variable", None)
                origin = (node, number) if variable is None else id(variable)
                if origin in known:
                    raise ValueError(_MADE.format(tuple(parameter.shape), tuple(known[origin].shape)))
                if node not in seen:
                    seen.add(node)
                    waiting.append(node)


def _origin(p: Tensor) -> object:
    return id(p) if p.grad_fn is None else (p.grad_fn, p.output_nr)


_MADE = (
    "params: a tensor of shape {} is computed from another of the parameters, of shape {}, whose gradient "
    "would count it twice; leave it out if func computes it from that, or pass it detached"
)
