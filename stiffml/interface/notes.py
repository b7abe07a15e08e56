"""What may be behind an error that func raises, as a note beside it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from stiffml.interface.arguments import Arguments
from stiffml.system.split import Split


@contextmanager
def with_notes(arguments: Arguments) -> Iterator[None]:
    """Add a note to errors that arise while this is open, which stay as they are otherwise.

    Notes are printed below an error, from Python 3.11 on.
    """
    try:
        yield
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        for note in _notes(str(error), arguments):
            if hasattr(error, "add_note"):
                error.add_note(f"stiffml: {note}")
        raise


def _notes(said: str, arguments: Arguments) -> Iterator[str]:
    for func in _functions(arguments.func):
        names = _names(func)
        if names[:2] == ["y", "t"] or (len(names) > 1 and names[1] == "t"):
            yield f"func is called as func(t, y), time first, and its parameters are ({', '.join(names)})"
        elif "positional argument" in said and len(names) < 2:
            yield f"func is called as func(t, y), and takes ({', '.join(names)})"
        wanted = {leaf.dtype for leaf in tree_leaves(arguments.y0) if isinstance(leaf, Tensor)}
        held = {p.dtype for p in _parameters(func)}
        if "dtype" in said and held and not held <= wanted:
            yield (
                f"y0 is {_listed(wanted)}, and func has parameters of {_listed(held)}: make them alike, by "
                "module.double() (which stiff systems want) or another y0"
            )


def _functions(func: Any) -> tuple[Any, ...]:
    parts = (func.implicit, func.explicit) if isinstance(func, Split) else (func,)
    return tuple(part for part in parts if callable(part))


def _names(func: Callable) -> list[str]:
    """The names of what it takes by position, as far as that is known."""
    try:
        parameters = inspect.signature(func.forward if isinstance(func, nn.Module) else func).parameters
    except (TypeError, ValueError):
        return ["…", "…"]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters.values()):
        return ["…", "…"]
    return [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _parameters(func: Any) -> Iterator[Tensor]:
    """Those of a module, or of the modules and tensors that a function refers to."""
    if isinstance(func, nn.Module):
        yield from func.parameters()
        return
    try:
        seen = inspect.getclosurevars(func)
    except TypeError:
        return
    for held in (*seen.nonlocals.values(), *seen.globals.values()):
        if isinstance(held, nn.Module):
            yield from held.parameters()
        elif isinstance(held, Tensor) and held.is_floating_point():
            yield held


def _listed(dtypes: set[torch.dtype]) -> str:
    return ", ".join(sorted(str(one).removeprefix("torch.") for one in dtypes))
