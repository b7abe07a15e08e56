"""Variables of a Dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Tell = Callable[[str], None]
"""Told what part of the work is done."""

Variable = tuple[tuple[str, ...] | str, Any, dict[str, str]]


def array(dims: tuple[str, ...] | str, values: np.ndarray, long_name: str, units: str = "1") -> Variable:
    return dims, values, {"long_name": long_name, "units": units}
