"""A torch function as a graph of aten operations, and the tensors that it reads.

Tensors that the function reads from outside appear in the graph as the very objects. Those that require
gradients, and those asked for, become inputs of what is compiled; the values of the others are written into
it, which keeps the zeros of a stoichiometric matrix, say.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.utils._pytree import tree_leaves

from stiffml.compiled.recorder import Mode, Recorder, ValueReadError, as_written
from stiffml.compiled.refusal import NotCompilableError

Flat = Callable[[Tensor, Tensor], Tensor]
"""A function of a time () and a flat state (size,), with values (size,)."""

_TORCH = os.path.dirname(torch.__file__)
_OWN = os.path.dirname(os.path.dirname(__file__))


@dataclass
class Trace:
    """The graph of a function.

    Attributes
    ----------
    graph : Graph
        Of (t, u).
    constants : dict of str to Tensor
        All tensors that it reads, by their names in the graph.
    lifted : dict of str to Tensor
        Those of them that are inputs.
    baked : list of (Tensor, Tensor)
        The others that come from outside, and copies of their values.
    """

    graph: Graph
    constants: dict[str, Tensor]
    lifted: dict[str, Tensor]
    baked: list[tuple[Tensor, Tensor]]
    _call: Callable[[], object]

    def line_of(self, node: Node) -> str:
        """Where the function calls the operation of a node; empty if that cannot be told."""
        name = _name(node.target)
        same = [other for other in self.graph.nodes if _name(other.target) == name]
        watch = _Watch(name, same.index(node) + 1)
        with as_written(), watch, torch.no_grad():
            self._call()
        return watch.found


def trace(function: Flat, t: Tensor, u: Tensor, inputs: Collection[Tensor] = ()) -> Trace:
    """The graph of a function at a time and a state; ``inputs``: further tensors that shall be inputs.

    It is traced, and called once more: a tensor that it makes from numbers is another one then.

    Raises
    ------
    NotCompilableError
        If the function reads the value of a tensor, as a branch does.
    """
    recorded, reading = _recorded(function, t, u), _Reading()
    wanted = {id(tensor) for tensor in inputs}
    with as_written(), reading, torch.no_grad():
        function(t, u)
    lifted: dict[str, Tensor] = {}
    baked: dict[int, Tensor] = {}
    for name, tensor in recorded.constants.items():
        if tensor.layout is not torch.strided:
            raise NotCompilableError(f"it reads a tensor whose layout is {tensor.layout}")
        if tensor.is_floating_point() and (tensor.requires_grad or id(tensor) in wanted):
            lifted[name] = tensor
        elif tensor.data_ptr() in reading.places:
            baked[id(tensor)] = tensor
    kept = [(tensor, tensor.detach().clone()) for tensor in baked.values()]
    return Trace(recorded.graph, recorded.constants, lifted, kept, lambda: function(t, u))


def _recorded(function: Flat, t: Tensor, u: Tensor) -> Recorder:
    recorder = Recorder()
    recorder.input("t", t)
    recorder.input("u", u)
    try:
        with torch.no_grad(), as_written(), recorder:
            recorder.finish(torch.func.functionalize(function, remove="mutations")(t, u))
    except Exception as error:  # whatever it is, it comes again, where torch calls the function
        if isinstance(error, ValueReadError):
            what = "it branches on the value of a tensor, or reads it as a number"
        else:
            what = f"it cannot be traced ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        raise NotCompilableError(what + _line(traceback.extract_tb(error.__traceback__))) from error
    return recorder


def _line(frames: traceback.StackSummary) -> str:
    """Where in the user's code something came up."""
    for frame in reversed(frames):
        if not frame.filename.startswith((_TORCH, _OWN)) and os.path.exists(frame.filename):
            return f", at {frame.filename}:{frame.lineno}: {frame.line}"
    return ""


class _Reading(Mode):
    """Notes where the tensors lie that operations read."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        read = (one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor))
        self.places |= {one.data_ptr() for one in read if one.layout is torch.strided}
        return func(*args, **kwargs)


class _Watch(Mode):
    """Notes where an operation is called the n-th time."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__()
        self._name, self._left, self.found = name, number, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if _name(func) == self._name:
            self._left -= 1
            if self._left <= 0 and not self.found:
                self.found = _line(traceback.extract_stack())
        return func(*args, **(kwargs or {}))


def _name(operation: Any) -> str:
    """The name of an operation, the same for those that write to their first argument."""
    return str(operation).split(".")[1].rstrip("_") if isinstance(operation, OpOverload) else ""
