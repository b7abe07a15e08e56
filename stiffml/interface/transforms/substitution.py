"""Tensors of ``torch.func`` that a function refers to, and plain ones in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.autograd.forward_ad
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from stiffml.parameters.names import reached
from stiffml.parameters.passed import in_forward_mode
from stiffml.system.split import Split


def is_wrapped(value: object) -> bool:
    """Whether a tensor is one of ``torch.func``, or has a tangent."""
    if not isinstance(value, Tensor):
        return False
    if torch._C._functorch.is_functorch_wrapped_tensor(value):
        return True
    return in_forward_mode() and torch.autograd.forward_ad.unpack_dual(value).tangent is not None


def is_seen(value: object) -> bool:
    """Whether a tensor is wrapped, or a gradient with respect to it may be wanted."""
    return isinstance(value, Tensor) and (value.requires_grad or is_wrapped(value))


class Recorder(TorchFunctionMode):
    """Watches all operations: ``found`` are operands that transforms see and that were made before."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, Tensor] = {}
        self._made: dict[int, Tensor] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            if is_seen(value) and id(value) not in self._made:
                self.found.setdefault(id(value), value)
        result = func(*args, **kwargs)
        self._made |= {id(value): value for value in tree_leaves(result) if isinstance(value, Tensor)}
        return result


def exchanged(tree: Any, others: dict[int, Tensor]) -> Any:
    """A tree with other tensors in place of some."""
    return tree_map(lambda leaf: others.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf, tree)


class Substitution(TorchFunctionMode):
    """Operations get other tensors in place of some."""

    def __init__(self, others: dict[int, Tensor]) -> None:
        super().__init__()
        self._others = others

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*exchanged(tuple(args), self._others), **exchanged(kwargs or {}, self._others))


class Substituted(nn.Module):
    """A function whose operations get plain tensors in place of wrapped ones, whenever it is called."""

    def __init__(self, func: Any, others: dict[int, Tensor]) -> None:
        super().__init__()
        self.func = func
        self._others = others

    def forward(self, t: Tensor, y: Any) -> Any:
        with Substitution(self._others):
            return self.func(t, y)


@contextmanager
def plain_parameters(func: Any, others: dict[int, Tensor]) -> Iterator[None]:
    """While this is open, modules of func have plain tensors in place of wrapped ones as their parameters."""
    places: list[tuple[dict[str, Any], str, Tensor]] = [
        (store, name, tensor)
        for module in reached(func).modules
        if not isinstance(module, torch.jit.ScriptModule)
        for store in (module._parameters, module._buffers)
        for name, tensor in store.items()
        if tensor is not None and id(tensor) in others
    ]
    try:
        for store, name, tensor in places:
            store[name] = others[id(tensor)]
        yield
    finally:
        for store, name, tensor in places:
            store[name] = tensor


def with_substitution(func: Any, others: dict[int, Tensor]) -> Any:
    """func, or both parts of it, with plain tensors."""
    if isinstance(func, Split):
        parts = (Substituted(part, others) for part in (func.implicit, func.explicit))
        return Split(*parts, linear=func.linear)
    return Substituted(func, others)
