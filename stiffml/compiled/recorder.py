"""Records the aten operations of a function while torch computes them.

``torch.fx.experimental.proxy_tensor.make_fx`` records the same; but it imports the compiler of torch, which
takes longer than all that is done here with what was recorded.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from stiffml.compiled.table import OPERATIONS

aten = torch.ops.aten

PLAIN = (Tensor, nn.Parameter, nn.Buffer)


class ValueReadError(RuntimeError):
    """A function branches on the value of a tensor that depends on its inputs, or reads it as a number."""


class Mode(TorchDispatchMode):
    """A mode without the wrapper that keeps torch's compiler out, which imports it at the first call."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def as_written() -> AbstractContextManager[object]:
    """Within this, functions made by ``torch.compile`` run without it: modes see their operations."""
    if "torch._dynamo" not in sys.modules:  # there are none
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


class Recorder(Mode):
    """Records while it is active.

    Attributes
    ----------
    graph : torch.fx.Graph
        With the value of each operation in ``meta["val"]`` of its node. In-place operations stand for new
        values of what they write to.
    constants : dict of str to Tensor
        The tensors that were read and not made meanwhile, by the names of their nodes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.graph, self.constants = Graph(), dict[str, Tensor]()
        # Tensors stay alive, so that no other gets the id of one of them.
        self._nodes: dict[int, tuple[Tensor, Node]] = {}
        self._known: set[Node] = set()  # values made of numbers in the code alone

    def input(self, name: str, tensor: Tensor) -> None:
        """What the function depends on."""
        self._keep(tensor, self.graph.placeholder(name))

    def finish(self, result: Tensor) -> None:
        """What the function returns."""
        self.graph.output(self._node(result))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not all(kind in PLAIN for kind in types):
            return NotImplemented
        kwargs = kwargs or {}
        found = self._by_others(func, args, kwargs)
        if found is not NotImplemented:
            return found
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        nodes = [self._nodes[id(one)][1] for one in tensors if id(one) in self._nodes]
        numbers = [node for node in nodes if node in self._known]
        # Tensors from outside are what they are; what is computed of them may be another at the next call.
        depends = any(node not in self._known and node.op != "get_attr" for node in nodes)
        if torch.Tag.data_dependent_output in func.tags:
            if depends:
                raise ValueReadError(str(func))
            return func(*args, **kwargs)
        if func is aten.lift_fresh.default:  # a tensor made of numbers, which may be written to later
            func = aten.lift_fresh_copy.default
        into = tree_map_only(Tensor, self._node, (args, kwargs))
        made = func(*args, **kwargs)
        node = self.graph.call_function(func, *into)
        node.meta["val"] = made
        is_number = func is aten.lift_fresh_copy.default or (bool(numbers) and not depends)
        self._note(made, node, is_number and torch.Tag.nondeterministic_seeded not in func.tags)
        return made

    def _by_others(self, func: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The value of an operation that is taken apart into others; NotImplemented if it is not."""
        apart = _taken_apart().get(func)
        with self:
            if apart is not None:
                found = apart(*args, **kwargs)
                if found is not NotImplemented:
                    return found
            if func in OPERATIONS or func in _ASKING:
                return NotImplemented
            return func.decompose(*args, **kwargs)

    def _note(self, made: Any, node: Node, is_number: bool) -> None:
        if isinstance(made, Tensor):
            self._keep(made, node)
            if is_number:
                self._known.add(node)
        elif isinstance(made, list | tuple):
            for i, one in enumerate(made):
                part = self.graph.call_function(operator.getitem, (node, i))
                part.meta["val"] = one
                self._note(one, part, is_number)

    def _keep(self, tensor: Tensor, node: Node) -> None:
        self._nodes[id(tensor)] = tensor, node

    def _node(self, tensor: Tensor) -> Node:
        if id(tensor) not in self._nodes:
            name = f"constant{len(self.constants)}"
            self.constants[name] = tensor
            self._keep(tensor, self.graph.create_node("get_attr", name, name=name))
        return self._nodes[id(tensor)][1]


_ASKING = frozenset((aten.size.default, aten.stride.default, aten.storage_offset.default))


@functools.cache
def _taken_apart() -> dict[Any, Callable[..., Any]]:
    """How torch expresses operations that are not known by those that are."""
    return {key: value for key, value in core_aten_decompositions().items() if key not in OPERATIONS}
