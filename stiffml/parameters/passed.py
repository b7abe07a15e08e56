"""Parameters that gradients are wanted for: what may be passed, why not what is made from another, names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.autograd.forward_ad
from torch import Tensor, nn

from stiffml.checks import described
from stiffml.parameters.leaves import dependent_pair
from stiffml.parameters.names import reached


def collected(params: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """All of ``params``, which may be an iterator.

    Raises
    ------
    TypeError
        For a single tensor, whose rows would be new tensors without a use in func.
    """
    if isinstance(params, Tensor):
        raise TypeError("params must be a sequence of tensors, not one tensor")
    if isinstance(params, nn.Module):
        raise TypeError("params must be a sequence of tensors, not a module: pass module.parameters()")
    if not isinstance(params, Iterable) or isinstance(params, str | bytes | Mapping):
        raise TypeError(f"params must be a sequence of tensors, not {described(params)}")
    return tuple(params)


def module_of(func: Callable) -> nn.Module | None:
    """The module that func is, or is a method of."""
    owner = getattr(func, "__self__", func)
    return owner if isinstance(owner, nn.Module) else None


def require_independent(parameters: Sequence[Tensor], found: int = 0) -> None:
    """Raise ValueError if one is computed from another: what passes through both would count twice.

    The last ``found`` of them were not passed, but found in func.
    """
    pair = dependent_pair(parameters) if len(parameters) > 1 and torch.is_grad_enabled() else None
    if pair is not None:
        derived, other = (tuple(parameters[position].shape) for position in pair)
        is_found = pair[1] >= len(parameters) - found
        raise ValueError((_FOUND if is_found else _MADE).format(derived, other))


_MADE = (
    "params: a tensor of shape {} is computed from another of the parameters, of shape {}, whose gradient "
    "would count it twice; leave it out if func computes it from that, or pass it detached"
)

_FOUND = (
    "params: a tensor of shape {} is computed from one of shape {} that func itself uses, and would count "
    "twice in its gradient; pass that one, params=[tensor], or nothing, not what is made from it"
)


def in_forward_mode() -> bool:
    """Whether tensors may have tangents now."""
    return torch.autograd.forward_ad._current_level >= 0


def require_reverse_mode(**arguments: object) -> None:
    """Raise ValueError for tensors with tangents of forward-mode differentiation, which a solve would lose.

    ``arguments`` by name: tensors, or nested tuples of them; others are passed over.
    """
    if not in_forward_mode():
        return
    for name, value in arguments.items():
        parts = value if isinstance(value, tuple | list) else (value,)
        for part in parts:
            if isinstance(part, Tensor) and torch.autograd.forward_ad.unpack_dual(part).tangent is not None:
                raise ValueError(
                    f"{name} has a tangent of forward-mode differentiation, which does not pass through a "
                    "solve. Try: stiffml.sensitivities(func, y0, t, …), or a gradient in reverse mode"
                )


def require_one_cotangent(cotangent: Tensor) -> None:
    """Raise RuntimeError in a backward pass for many cotangents at once."""
    functorch = torch._C._functorch
    if functorch.is_legacy_batchedtensor(cotangent) or functorch.is_functorch_wrapped_tensor(cotangent):
        raise RuntimeError(
            "stiffml: a solve takes one cotangent in a backward pass, not many at once (is_grads_batched, "
            "vectorize=True, torch.vmap). Try: a loop over them, vectorize=False, or stiffml.sensitivities"
        )


def named_parameters(func: Callable, params: Sequence[Tensor], used: Sequence[Tensor]) -> dict[str, Tensor]:
    """The parameters ``used`` by name.

    A module's have its names, those passed ``"params[i]"``; others that func uses have the name that func has
    for them, such as the variable of a closure, ``"layers.0.weight"`` in a list, or else ``"found[i]"``.
    """
    position, module = {id(p) for p in used}, module_of(func)
    named: dict[str, Tensor] = {} if module is None else dict(module.named_parameters())
    named |= {f"params[{i}]": p for i, p in enumerate(params)}
    named = {name: p for name, p in named.items() if id(p) in position}
    rest = {id(p): p for p in used}
    for p in named.values():
        rest.pop(id(p), None)
    if rest:
        for name, tensor in reached(func).tensors.items():
            if id(tensor) in rest and name not in named and name != "y0":
                named[name] = rest.pop(id(tensor))
        named |= {f"found[{i}]": p for i, p in enumerate(rest.values())}
    return named
