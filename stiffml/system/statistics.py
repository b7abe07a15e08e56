"""Layers that keep running statistics of their inputs, which every call in training mode changes.

A solve calls its function a few hundred times, at states that are none of the data. The running means and
variances would then be those of the solver's states, and nothing in the values of the function shows it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

DEEPEST = 4
"""The depth of the search for modules: what a function closes over, what that closes over, and so on."""

MOST = 1000
"""The number of objects searched; a function that refers to more holds data rather than layers."""


def require_fixed_statistics(func: Any) -> None:
    """Raise ValueError if func has a layer that would change its running statistics.

    Batch and instance normalisation in training mode, with running statistics. They are found in func if it
    is a module, and in what a plain function, a bound method, a partial or an object refers to.
    """
    for name, module in _named_modules(func):
        kind = _kind_of(module)
        if kind is not None and module.training and getattr(module, "track_running_stats", False):
            place = f" ({name})" if name else ""
            raise ValueError(
                f"func: {kind}{place} is in training mode, in which every call changes its running mean and "
                "variance; a solve calls func at many states that are none of your data. Try: module.eval(), "
                "which uses the statistics as they are; track_running_stats=False; or nn.LayerNorm or "
                "nn.GroupNorm, which keep none"
            )


def may_keep_statistics(func: Any) -> bool:
    """Whether func has a layer that would do so in another mode, or with other settings."""
    return any(_kind_of(module) is not None for _, module in _named_modules(func))


def _kind_of(module: nn.Module) -> str | None:
    """The kind of a layer of normalisation that may track statistics; None for other modules."""
    kind = getattr(module, "original_name", type(module).__name__)  # of a scripted module its old name
    tracks = isinstance(module, _NormBase) or "BatchNorm" in kind or "InstanceNorm" in kind
    return kind if tracks else None


def _named_modules(func: Any) -> Iterator[tuple[str, nn.Module]]:
    """All modules that func is, holds or refers to."""
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(func, 0)]
    while waiting and len(seen) < MOST:
        value, depth = waiting.pop()
        if id(value) in seen or value is None or isinstance(value, torch.Tensor | str | bytes | int | float):
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            for name, module in value.named_modules():
                if module is value or id(module) not in seen:
                    seen.add(id(module))
                    yield name, module
                    waiting += ((held, depth + 1) for held in _plain_attributes(module))
        elif depth < DEEPEST:
            waiting += ((held, depth + 1) for held in _referred(value))


def _plain_attributes(module: nn.Module) -> Iterable[Any]:
    """What a module holds that is neither a parameter, a buffer nor a registered module."""
    if type(module).__module__.startswith("torch.nn."):
        return ()
    return [v for name, v in vars(module).items() if not name.startswith("_") and name != "training"]


def _referred(value: Any) -> Iterable[Any]:
    """What a function, or a container, refers to."""
    if isinstance(value, MethodType):
        return value.__self__, value.__func__
    if isinstance(value, FunctionType):
        return _of_function(value)
    if isinstance(value, functools.partial):
        return value.func, *value.args, *value.keywords.values()
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if callable(value) and not isinstance(value, type) and hasattr(value, "__dict__"):
        return list(vars(value).values())
    return ()


def _of_function(function: FunctionType) -> list[Any]:
    found = list(function.__defaults__ or ())
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # still empty
            continue
    names = _names(function.__code__)
    # Of the globals only what it could call; other names lead far away.
    known = function.__globals__
    found += [known[name] for name in names if isinstance(known.get(name), nn.Module | FunctionType)]
    found += list(vars(function).values())  # of a decorated one what it wraps
    return found


def _names(code: CodeType) -> set[str]:
    """Global names that a function uses, also in functions within it."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names
