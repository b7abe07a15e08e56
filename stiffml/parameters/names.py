"""The modules and tensors that a function reads, by the names it has for them."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

DEEPEST = 5
MOST = 1_000
"""How far it is looked: attributes of attributes, and objects in all. Submodules are not counted."""

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


@dataclass
class Reached:
    """``modules``, and ``tensors`` by name: a variable of a closure, an attribute, an entry of a list.

    ``shared`` holds the ids of the tensors that plain functions hold: a copy of such a function has the same.
    """

    modules: list[nn.Module]
    tensors: dict[str, Tensor]
    shared: set[int]


def reached(func: Callable) -> Reached:
    """What can be found from a function without calling it: in modules, closures, globals and defaults."""
    found = Reached([], {}, set())
    _visit(func, "", DEEPEST, found, set(), False)
    return found


def _visit(thing: object, name: str, depth: int, found: Reached, seen: set[int], in_function: bool) -> None:
    if isinstance(thing, Tensor):
        found.tensors.setdefault(name or "tensor", thing)
        if in_function:
            found.shared.add(id(thing))
        return
    if isinstance(thing, PLAIN) or depth == 0 or id(thing) in seen or len(seen) > MOST:
        return
    seen.add(id(thing))
    inside = in_function
    parts: Mapping[str, object]
    if isinstance(thing, types.FunctionType):
        if _is_torchs(thing):
            return
        parts, inside = _read_by(thing), True
    elif isinstance(thing, types.MethodType):
        parts = {"": thing.__self__}
    elif isinstance(thing, functools.partial):
        parts = {"": thing.func, **_numbered(thing.args), **thing.keywords}
    elif isinstance(thing, nn.Module):
        parts = {}
        for path, module in thing.named_modules():
            if module is not thing:
                seen.add(id(module))
            found.modules.append(module)
            own = {}
            if not _is_torchs(module):
                own = {key: value for key, value in vars(module).items() if not key.startswith("_")}
            for key, part in {**module._parameters, **module._buffers, **own}.items():
                parts[f"{path}.{key}" if path else key] = part
    elif isinstance(thing, list | tuple | set):
        parts = _numbered(thing)
    elif isinstance(thing, dict):
        parts = {str(key): value for key, value in thing.items()}
    elif hasattr(thing, "__dict__") and not isinstance(thing, type | types.ModuleType):
        parts = vars(thing)
    else:
        return
    for key, part in parts.items():
        path = f"{name}.{key}" if name and key else name or key
        _visit(part, path, depth - 1, found, seen, inside)


def _is_torchs(thing: object) -> bool:
    """Whether it comes with torch, and so reads nothing of the caller's but what it is given."""
    kind = thing if isinstance(thing, types.FunctionType) else type(thing)
    return (kind.__module__ or "").partition(".")[0] == "torch"


def _numbered(things) -> dict[str, object]:
    return {str(i): thing for i, thing in enumerate(things)}


def _read_by(func: types.FunctionType) -> dict[str, object]:
    """The objects that a function's names stand for."""
    parts: dict[str, object] = {}
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
        try:
            parts[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    for name in func.__code__.co_names:
        # Of globals only what a user may mean by it: not what a library keeps of itself.
        value = func.__globals__.get(name)
        if isinstance(value, Tensor | nn.Module | list | tuple | dict | types.FunctionType):
            parts.setdefault(name, value)
    parts |= _numbered(func.__defaults__ or ()) | (func.__kwdefaults__ or {})
    return parts


class Members:
    """The parameters and buffers that modules have at one moment.

    Others may stand in their places later: ``torch.func.functional_call`` puts back those that were there
    before, and a backward pass needs those of the forward pass.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self._held: list[tuple[dict[str, Any], str, Tensor | None]] = [
            (store, name, tensor)
            for module in modules
            if not isinstance(module, torch.jit.ScriptModule)
            for store in (module._parameters, module._buffers)
            for name, tensor in store.items()
        ]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """They are back for the time of a ``with`` block."""
        others = [
            (store, name, store.get(name), name in store)
            for store, name, tensor in self._held
            if store.get(name) is not tensor
        ]
        if not others:
            yield
            return
        try:
            for store, name, tensor in self._held:
                store[name] = tensor
            yield
        finally:
            for store, name, tensor, was_there in others:
                if was_there:
                    store[name] = tensor
                else:
                    store.pop(name, None)
