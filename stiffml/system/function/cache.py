"""Findings about a function, kept as long as the function exists.

A training may make its function anew in each iteration: ``lambda t, y: net(y)``, a partial, an inner
function. It is the same function if its code is the same, and so are the objects in its closure and its
defaults, down to numbers and texts. Findings then belong to a module among these objects. Without a module
nothing tells how long they will be of use, and they hold the tensors of the function; so they are kept for a
few such functions only.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn


class _OfObjects:
    """A dictionary for each object, found by its identity, as long as it exists."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref, dict[Any, Any]]] = {}

    def __getitem__(self, owner: object) -> dict[Any, Any]:
        """Raises TypeError for an object that takes no weak references."""
        key = id(owner)
        entry = self._entries.get(key)
        if entry is not None and entry[0]() is owner:
            return entry[1]

        def forget(ref: weakref.ref) -> None:
            if key in self._entries and self._entries[key][0] is ref:
                del self._entries[key]

        made = weakref.ref(owner, forget), dict[Any, Any]()
        self._entries[key] = made
        return made[1]


_KNOWN = _OfObjects()
"""By an object, then by which function of it: what was found."""

_WITHOUT_MODULE: dict[Hashable, dict[Any, Any]] = {}
"""What was found about functions that are told by what they are made of, none of which is a module."""

KEPT = 16
"""The number of entries of one function; a training asks for the same few again and again."""

FUNCTIONS = 8
"""The number of functions of one object, and of those without a module. A number in a closure that changes
makes another function."""

LARGEST = 1_000_000
"""Numbers in the tensors of a closure; more are not held for a function that may not come back."""

DEEPEST = 4
"""How deep functions in the closures of functions are looked into."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def remembered(func: Any) -> dict[Any, Any]:
    """The dictionary of findings of a function; an empty one if nothing can be kept for it.

    A bound method is a new object at every mention, so its dictionary belongs to the instance. One that says
    what it is made of, ``kept_with``, a function and a key, is remembered with that.
    """
    func, key = func.kept_with if hasattr(type(func), "kept_with") else (func, None)
    owner, part = _place_of(func)
    if key is not None:
        part = part, key
    try:
        functions = _WITHOUT_MODULE if owner is None else _KNOWN[owner]
    except TypeError:  # it takes no weak references
        return {}
    known = functions.pop(part, {})
    for oldest in list(functions)[: max(0, len(functions) - FUNCTIONS + 1)]:
        functions.pop(oldest, None)
    functions[part] = known  # as the latest
    if len(known) >= KEPT:
        known.clear()
    return known


class _UnknownError(Exception):
    """Something cannot be told from something else."""


class _Same:
    """An object by its identity, without keeping it alive."""

    def __init__(self, thing: object) -> None:
        try:
            self._ref, self._id = weakref.ref(thing), id(thing)
        except TypeError as error:
            raise _UnknownError from error

    def __hash__(self) -> int:
        return self._id

    def __eq__(self, other: object) -> bool:
        thing = self._ref()
        return isinstance(other, _Same) and thing is not None and other._ref() is thing


def _place_of(func: Any) -> tuple[Any, Hashable]:
    """The object that findings about a function belong to, if any, and which of its functions it is."""
    if isinstance(func, MethodType):
        return func.__self__, func.__func__
    if not isinstance(func, FunctionType | partial):
        return func, None
    found: list[object] = []
    try:
        part = _key(func, found, DEEPEST)
    except _UnknownError:
        return func, None
    if sum(thing.numel() for thing in found if isinstance(thing, Tensor)) > LARGEST:
        return func, None
    return next((thing for thing in found if isinstance(thing, nn.Module)), None), part


def _key(thing: Any, found: list[object], depth: int) -> Hashable:
    """What something is equal by; objects in it are added to ``found``."""
    if isinstance(thing, _PLAIN):
        return type(thing), thing
    if depth == 0:
        raise _UnknownError
    if isinstance(thing, FunctionType):
        if vars(thing):  # attributes, which may be anything
            raise _UnknownError
        try:
            cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        except ValueError as error:  # a variable without a value yet
            raise _UnknownError from error
        parts = (*cells, *(thing.__defaults__ or ()))
        named = thing.__kwdefaults__ or {}
        code = (thing.__code__, id(thing.__globals__), len(cells))
        return *code, _keys(parts, found, depth), tuple(named), _keys(named.values(), found, depth)
    if isinstance(thing, partial):
        inner = _keys((thing.func, *thing.args), found, depth)
        return "partial", inner, tuple(thing.keywords), _keys(thing.keywords.values(), found, depth)
    if isinstance(thing, MethodType):
        return "method", _keys((thing.__self__, thing.__func__), found, depth)
    same = _Same(thing)
    found.append(thing)
    return same


def _keys(things: Iterable[Any], found: list[object], depth: int) -> tuple[Hashable, ...]:
    return tuple(_key(thing, found, depth - 1) for thing in things)
