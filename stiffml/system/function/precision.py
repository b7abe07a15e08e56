"""Autocast, which would evaluate the user's function in half precision, is off in solves and derivatives."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

DEVICES = ("cpu", "cuda")

HALF = (torch.float16, torch.bfloat16)


def without_autocast() -> AbstractContextManager[object]:
    """Turns autocast off for the time of a ``with`` block.

    Error estimates and Newton's iteration need the precision of the state, and a backward pass the values of
    the forward pass, whether or not it runs under autocast.
    """
    active = [device for device in DEVICES if torch.is_autocast_enabled(device)]
    if not active:
        return nullcontext()
    stack = ExitStack()
    for device in active:
        stack.enter_context(torch.autocast(device, enabled=False))
    return stack


def in_single_precision(y0: Any) -> Any:
    """An initial state that autocast has left in half precision, in single precision; others as they are."""
    if not any(torch.is_autocast_enabled(device) for device in DEVICES):
        return y0
    return tree_map(
        lambda leaf: leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in HALF else leaf, y0
    )
