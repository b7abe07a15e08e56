"""How much of a run is spent in a module and in derivatives."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Stopwatch:
    """Seconds in everything that it watches; what one such call calls itself is counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            self._depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += time.perf_counter() - began

        return timed


@contextmanager
def inside(module: nn.Module) -> Iterator[Stopwatch]:
    """Watch calls of a module and of torch.autograd.grad, which is how stiffml takes derivatives."""
    watch, grad = Stopwatch(), torch.autograd.grad
    module.forward = watch.watched(module.forward)
    torch.autograd.grad = watch.watched(grad)
    try:
        yield watch
    finally:
        torch.autograd.grad = grad
        del module.forward
