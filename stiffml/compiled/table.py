"""The operations that are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stiffml.compiled.elementwise import ELEMENTWISE
from stiffml.compiled.reducing import REDUCING
from stiffml.compiled.shaping import SHAPING

OPERATIONS: Mapping[Any, Callable[..., Any]] = {**ELEMENTWISE, **SHAPING, **REDUCING}
"""By operation: a function of arrays, tensors and numbers. Torch takes others apart where it can."""
