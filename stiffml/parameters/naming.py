"""Names for parameters: those of a module, ``"params[i]"``, and the names that func has for the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from stiffml.parameters.names import reached
from stiffml.parameters.passed import module_of


def given_names(module: nn.Module | None, params: Sequence[Tensor]) -> dict[str, Tensor]:
    """The parameters of a module by their names, and those passed as ``"params[i]"``."""
    own: dict[str, Tensor] = {} if module is None else dict(module.named_parameters())
    return own | {f"params[{i}]": p for i, p in enumerate(params)}


def each_once(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor under its first name only."""
    once: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in named.items():
        once.setdefault(id(tensor), (name, tensor))
    return dict(once.values())


def named_parameters(func: Callable, params: Sequence[Tensor], used: Sequence[Tensor]) -> dict[str, Tensor]:
    """The parameters ``used`` by name.

    Those of a module have its names, those passed ``"params[i]"``. Others have the name that func has for
    them, such as the variable of a closure, ``"layers.0.weight"`` in a list, or else ``"found[i]"``.
    """
    wanted = {id(p) for p in used}
    named = {name: p for name, p in given_names(module_of(func), params).items() if id(p) in wanted}
    rest = {id(p): p for p in used}
    for p in named.values():
        rest.pop(id(p), None)
    if rest:
        for name, tensor in reached(func).tensors.items():
            if id(tensor) in rest and name not in named and name != "y0":
                named[name] = rest.pop(id(tensor))
        named |= {f"found[{i}]": p for i, p in enumerate(rest.values())}
    return named
