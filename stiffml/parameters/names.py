"""The modules and tensors that a function reads, by the names it has for them."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DEEPEST = 5
"""How deep the search goes into attributes of attributes. Submodules do not count."""

MOST = 1_000
"""How many objects the search visits. Submodules do not count."""

SMALL = 10_000
"""Numbers in an array of numpy up to which its values count."""

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


@dataclass
class Reached:
    """What a function reads.

    Attributes
    ----------
    modules : list of Module
    tensors : dict of str to Tensor
        By name: a variable of a closure, an attribute, an entry of a list.
    shared : set of int
        Ids of the tensors that plain functions read; copies of these functions read the same tensors.
    values : dict of str to object
        What decides besides the numbers in tensors what the function does, by name: numbers, strings, small
        arrays of numpy as bytes, the code of functions, and which modules there are in which mode.
    """

    modules: list[nn.Module]
    tensors: dict[str, Tensor]
    shared: set[int]
    values: dict[str, object]


def reached(func: Callable) -> Reached:
    """What a function reads, found without calling it: in modules, closures, globals and defaults."""
    found = Reached([], {}, set(), {})
    _visit(func, "", DEEPEST, found, set(), False)
    return found


def _visit(thing: object, name: str, depth: int, found: Reached, seen: set[int], in_function: bool) -> None:
    if isinstance(thing, Tensor):
        found.tensors.setdefault(name or "tensor", thing)
        if in_function:
            found.shared.add(id(thing))
        return
    if isinstance(thing, PLAIN):
        _note(found, name, thing)
        return
    if isinstance(thing, np.ndarray):
        _note(found, name, thing.tobytes() if thing.size <= SMALL else id(thing))
        return
    if depth == 0 or id(thing) in seen or len(seen) > MOST:
        return
    seen.add(id(thing))
    inside = in_function
    parts: Mapping[str, object] | None
    if isinstance(thing, nn.Module):
        parts = {}
        for path, module in thing.named_modules():
            if module is not thing:
                seen.add(id(module))
            found.modules.append(module)
            # What stands for a function in one solve is made anew for the next.
            which = 0 if hasattr(type(module), "kept_with") else id(module)
            _note(found, f"{name}.{path}", (which, type(module), module.training))
            own = {} if is_torchs(module) else own_attributes(module)
            for key, part in {**module._parameters, **module._buffers, **own}.items():
                parts[f"{path}.{key}" if path else key] = part
    else:
        parts = parts_of(thing)
        if parts is None:
            return
        if isinstance(thing, types.FunctionType):
            _note(found, f"{name}()", thing.__code__)
            inside = True
    for key, part in parts.items():
        path = f"{name}.{key}" if name and key else name or key
        _visit(part, path, depth - 1, found, seen, inside)


def parts_of(thing: object) -> Mapping[str, object] | None:
    """What anything but a module holds or reads, by name; None for what is not looked into."""
    if isinstance(thing, types.FunctionType):
        return None if is_torchs(thing) else _read_by(thing)
    if isinstance(thing, types.MethodType):
        return {"": thing.__self__}
    if isinstance(thing, functools.partial):
        return {"": thing.func, **_numbered(thing.args), **thing.keywords}
    if isinstance(thing, list | tuple | set):
        return _numbered(thing)
    if isinstance(thing, dict):
        return {str(key): value for key, value in thing.items()}
    if hasattr(thing, "__dict__") and not isinstance(thing, type | types.ModuleType):
        return vars(thing)
    return None


def own_attributes(module: nn.Module) -> dict[str, object]:
    """What a module holds besides its parameters, buffers and submodules."""
    return {key: value for key, value in vars(module).items() if not key.startswith("_")}


def _note(found: Reached, name: str, value: object) -> None:
    """Add a value, also if another has its name, as the first arguments of a function and a partial."""
    while name in found.values:
        name += "'"
    found.values[name] = value


def is_torchs(thing: object) -> bool:
    """Whether it is a part of torch, which reads nothing of the caller's but its arguments."""
    kind = thing if isinstance(thing, types.FunctionType) else type(thing)
    return (kind.__module__ or "").partition(".")[0] == "torch"


def _numbered(things) -> dict[str, object]:
    return {str(i): thing for i, thing in enumerate(things)}


def _read_by(func: types.FunctionType) -> dict[str, object]:
    """The objects that a function reads, by the names it has for them."""
    parts: dict[str, object] = {}
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
        try:
            parts[name] = cell.cell_contents
        except ValueError:  # the variable has no value yet
            continue
    for name in func.__code__.co_names:
        # Of globals only numbers and kinds that may hold parameters of the user's, no objects of libraries.
        value = func.__globals__.get(name)
        if isinstance(
            value, Tensor | nn.Module | list | tuple | dict | types.FunctionType | bool | int | float
        ):
            parts.setdefault(name, value)
    parts |= _numbered(func.__defaults__ or ()) | (func.__kwdefaults__ or {})
    return parts


class Members:
    """The parameters and buffers of modules at one moment.

    A backward pass needs those of the forward pass, but ``torch.func.functional_call`` removes them from the
    modules when it returns.
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
        """Put them back into the modules for the time of a ``with`` block."""
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
