"""Solves within ``torch.compile``: the graph breaks at a solve, which runs as it does without."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch._compile import _disable_dynamo

P = ParamSpec("P")
R = TypeVar("R")


def outside_of_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that ``torch.compile`` is to leave alone, with all that it calls.

    A solve calls PETSc, and the user's function as often as steps need it; none of that can be in a graph.
    ``torch.compiler.disable`` would do, but imports the compiler, which takes longer than many a solve.
    """
    left_alone = _disable_dynamo(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        return left_alone(*args, **kwargs)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    call._torchdynamo_disable_msg = "a solve is no part of a graph"  # type: ignore[attr-defined]
    return call
