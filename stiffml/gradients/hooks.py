"""Disables tensor hooks inside a backward pass, so that they see only the gradient of the whole solve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def without_hooks(tensors: Sequence[Tensor]) -> Iterator[None]:
    """While active, hooks and ``retain_grad`` of these tensors have no effect.

    The backward pass of a solve calls ``torch.autograd.grad`` many times, which would call the hooks of its
    inputs each time. Torch calls them itself with the final gradient.
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
