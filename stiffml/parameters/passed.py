"""Checks of the tensors that gradients are wanted for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.autograd.forward_ad
from torch import Tensor, nn

from stiffml.checks import described
from stiffml.parameters.leaves import dependent_pair


def collected(params: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """All of ``params``, which may be an iterator.

    Raises
    ------
    TypeError
        For anything but tensors, and for a single tensor: its rows would be new tensors, which func does not
        use.
    """
    if isinstance(params, Tensor):
        raise TypeError("params must be a sequence of tensors, not one tensor")
    if isinstance(params, nn.Module):
        raise TypeError("params must be a sequence of tensors, not a module: pass module.parameters()")
    if not isinstance(params, Iterable) or isinstance(params, str | bytes | Mapping):
        raise TypeError(f"params must be a sequence of tensors, not {described(params)}")
    found = tuple(params)
    for position, tensor in enumerate(found):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"params[{position}] must be a tensor, not {described(tensor)}")
    return found


def module_of(func: Callable) -> nn.Module | None:
    """The module that func is, or is a method of."""
    owner = getattr(func, "__self__", func)
    return owner if isinstance(owner, nn.Module) else None


def require_independent(parameters: Sequence[Tensor], found: int = 0) -> None:
    """Raise ValueError if a parameter is computed from another, whose gradient would count it twice.

    The last ``found`` parameters were not passed, but found in func.
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

    ``arguments`` are tensors, or tuples of tensors, by name; others are ignored.
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
