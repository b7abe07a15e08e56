"""Hooks on tensors see the gradient of a whole solve, not what it is computed from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def without_hooks(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Hooks and retain_grad are for the gradient that torch gets in the end, and has for them then.

    Within a backward pass further ones are asked for; ``torch.autograd.grad`` calls the hooks of its inputs.
    """
    hooks = [(h, dict(h)) for h in (tensor._backward_hooks for tensor in tensors) if h]
    retained = [(tensor, tensor.grad) for tensor in tensors if tensor.retains_grad]
    for held, _ in hooks:
        held.clear()
    try:
        yield
    finally:
        for held, before in hooks:
            held.update(before)
        for tensor, gradient in retained:
            tensor.grad = gradient
