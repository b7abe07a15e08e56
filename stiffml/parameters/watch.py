"""Whether a function reads the same as before: a quick look, at every solve of a training.

:func:`stiffml.parameters.names.reached` finds all that a function reads, and names it. What it has found is
then compared object by object, in the same order and without names, which costs a tenth.
"""

from __future__ import annotations

import operator
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np
from torch import Tensor, nn

from stiffml.parameters.names import DEEPEST, MOST, PLAIN, SMALL, is_torchs, own_attributes, parts_of

Look = Callable[[object, list[object]], bool]
"""(what is there now, the containers seen so far) -> whether it is what was there."""


class Watch:
    """What a function reads at one moment. It keeps neither the function nor its modules alive."""

    def __init__(self, func: Callable) -> None:
        self._look = _look_at(func, DEEPEST, {})

    def sees(self, func: Callable) -> bool:
        """Whether a function reads the same: numbers, texts, code, modules, their modes and hooks, and which
        tensors, each requiring a gradient or not."""
        return self._look(func, [])


def _look_at(thing: object, depth: int, seen: dict[int, int]) -> Look:
    """What tells whether something is still the same. ``seen``: the numbers of containers, by their ids."""
    if isinstance(thing, Tensor):
        return _tensor(thing)
    if isinstance(thing, PLAIN):
        return _number(thing)
    if isinstance(thing, np.ndarray):
        return _array(thing)
    if id(thing) in seen:
        number = seen[id(thing)]
        return lambda now, passed: number < len(passed) and now is passed[number]
    if depth == 0 or len(seen) > MOST:
        return _anything
    if isinstance(thing, nn.Module):
        return _module(thing, depth, seen)
    parts = parts_of(thing)
    if parts is None:
        return _anything
    return _container(thing, parts, depth, seen)


def _anything(now: object, passed: list[object]) -> bool:
    return True


def _tensor(tensor: Tensor) -> Look:
    requires = tensor.requires_grad

    def look(now: object, passed: list[object]) -> bool:
        return now is tensor and tensor.requires_grad == requires

    return look


def _number(value: object) -> Look:
    kind = type(value)

    def look(now: object, passed: list[object]) -> bool:
        return now is value or (type(now) is kind and bool(now == value))

    return look


def _array(array: np.ndarray) -> Look:
    kept = array.tobytes() if array.size <= SMALL else id(array)

    def look(now: object, passed: list[object]) -> bool:
        if not isinstance(now, np.ndarray):
            return False
        return kept == (now.tobytes() if now.size <= SMALL else id(now))

    return look


def _container(thing: object, parts: Mapping[str, object], depth: int, seen: dict[int, int]) -> Look:
    """Of functions, methods, lists, dictionaries, other objects: their parts, and the code of functions."""
    kind, code = (
        type(thing),
        getattr(thing, "__code__", None) if isinstance(thing, types.FunctionType) else None,
    )
    seen[id(thing)] = len(seen)
    names = list(parts)
    looks = [_look_at(part, depth - 1, seen) for part in parts.values()]

    def look(now: object, passed: list[object]) -> bool:
        if type(now) is not kind or (code is not None and now.__code__ is not code):  # type: ignore[attr-defined]
            return False
        passed.append(now)
        there = parts_of(now)
        if there is None or list(there) != names:
            return False
        return all(one(part, passed) for one, part in zip(looks, there.values(), strict=True))

    return look


def _module(root: nn.Module, depth: int, seen: dict[int, int]) -> Look:
    """A module with all its submodules."""
    modules = list(root.modules())
    fresh = [n for n, module in enumerate(modules) if id(module) not in seen]
    for n in fresh:
        seen[id(modules[n])] = len(seen)
    held = [weakref.ref(module) for module in modules]
    kinds, modes, names, tensors, inner, hooks = _of_modules(modules)
    requires = [None if tensor is None else tensor.requires_grad for tensor in tensors]
    reading = [n for n, module in enumerate(modules) if not is_torchs(module)]
    own = [own_attributes(modules[n]) for n in reading]
    looks = [(list(parts), [_look_at(part, depth - 1, seen) for part in parts.values()]) for parts in own]

    def look(now: object, passed: list[object]) -> bool:
        present = [ref() for ref in held]
        if now is not present[0] or None in present:
            return False
        there = _of_modules(present)  # type: ignore[arg-type]
        if (kinds, modes, names, inner, hooks) != (*there[:3], *there[4:]):
            return False
        if len(there[3]) != len(tensors) or not all(map(operator.is_, there[3], tensors)):
            return False
        if [None if tensor is None else tensor.requires_grad for tensor in tensors] != requires:
            return False
        passed += [present[n] for n in fresh]
        for n, (keys, ones) in zip(reading, looks, strict=True):
            parts = own_attributes(present[n])  # type: ignore[arg-type]
            if list(parts) != keys:
                return False
            if not all(one(part, passed) for one, part in zip(ones, parts.values(), strict=True)):
                return False
        return True

    return look


_Members = tuple[list[type], list[bool], list[str], list[Tensor | None], list[int], list[int]]


def _of_modules(modules: Sequence[nn.Module]) -> _Members:
    """Their kinds, their modes, the names of their members, their tensors, the ids of their submodules, and
    the numbers that torch has given their hooks."""
    stores = [vars(module) for module in modules]
    held = [(store["_parameters"], store["_buffers"], store["_modules"]) for store in stores]
    return (
        [type(module) for module in modules],
        [store["training"] for store in stores],
        list(chain.from_iterable(chain.from_iterable(held))),
        [tensor for own, buffers, _ in held for tensor in (*own.values(), *buffers.values())],
        [id(module) for *_, inner in held for module in inner.values()],
        [
            number
            for store in stores
            for hooks in (store["_forward_hooks"], store["_forward_pre_hooks"])
            for number in hooks
        ],
    )
