"""A graph of aten operations, worked out on arrays of CasADi scalars."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from stiffml.compiled.arrays import Array, boxed
from stiffml.compiled.refusal import NotCompilableError
from stiffml.compiled.sizes import scalar_operations
from stiffml.compiled.table import OPERATIONS
from stiffml.compiled.trace import Trace

MOST = 100_000
"""Scalar operations of a function beyond which it is not compiled: torch's own kernels are as fast there, and
compilers slow."""


def worked_out(trace: Trace, t: Array, u: Array, lifted: Mapping[str, Array]) -> Array:
    """The values of a traced function for arrays of symbols.

    Raises
    ------
    NotCompilableError
        For an operation that is not known, single precision, or too many scalar operations.
    """
    values: dict[Node, Any] = {}
    inputs = iter((t, u))
    count = 0
    for node in trace.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(inputs)
        elif node.op == "get_attr":
            name = str(node.target)
            values[node] = lifted[name] if name in lifted else trace.constants[name].detach()
        elif node.op == "output":
            (found,) = node.args
            return boxed(_looked_up(found[0] if isinstance(found, list | tuple) else found, values))
        elif node.target is operator.getitem:
            values[node] = values[node.args[0]][node.args[1]]
        else:
            args, kwargs = _looked_up(node.args, values), _looked_up(node.kwargs, values)
            count += scalar_operations(node, args)
            try:
                if count > MOST:
                    raise NotCompilableError(f"it takes more than {MOST} scalar operations")
                values[node] = _applied(node, args, kwargs)
            except NotCompilableError as error:
                raise NotCompilableError(f"{error}{trace.line_of(node)}") from error
    raise AssertionError("a graph without an output")


def _looked_up(value: Any, values: Mapping[Node, Any]) -> Any:
    if isinstance(value, Node):
        return values[value]
    if isinstance(value, dict):
        return {key: _looked_up(part, values) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_looked_up(part, values) for part in value)
    return value


def _applied(node: Node, args: tuple, kwargs: dict[str, Any]) -> Any:
    target: Any = node.target
    if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
        raise NotCompilableError(f"it draws random numbers, by {target}")
    if not _has_symbols((args, kwargs)):
        return target(*args, **kwargs)
    if target not in OPERATIONS:
        raise NotCompilableError(f"the operation {target} is not among those that are compiled")
    _require_double(node)
    try:
        return OPERATIONS[target](*args, **kwargs)
    except NotCompilableError:
        raise
    except Exception as error:
        raise NotCompilableError(
            f"the operation {target} is not compiled with these arguments ({error})"
        ) from error


def _require_double(node: Node) -> None:
    value = node.meta.get("val")
    for part in value if isinstance(value, list | tuple) else (value,):
        if not isinstance(part, Tensor):
            continue
        if part.is_complex() or (
            part.is_floating_point() and part.dtype != torch.float64 and node.target not in _EXACT
        ):
            raise NotCompilableError(f"it computes in {part.dtype}, not in float64")
        if part.dtype is torch.bool and node.target in _NUMERIC:
            raise NotCompilableError("it adds or multiplies conditions")
        if part.dtype is not torch.bool and node.target in _LOGICAL:
            raise NotCompilableError("it combines the bits of whole numbers")


_NUMERIC = frozenset((torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor, torch.ops.aten.pow.Tensor_Scalar))
_EXACT = frozenset((torch.ops.aten.where.self,))
_LOGICAL = frozenset(
    (
        torch.ops.aten.bitwise_and.Tensor,
        torch.ops.aten.bitwise_or.Tensor,
        torch.ops.aten.bitwise_not.default,
    )
)


def _has_symbols(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return any(_has_symbols(part) for part in value)
    return isinstance(value, Array)
