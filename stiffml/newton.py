"""When a Newton iteration that is to leave only rounding has done so."""

from __future__ import annotations

import numpy as np

MAX_ITERATIONS = 50


class Rounding:
    """Watches the updates of one Newton iteration with exact Jacobians, which converges quadratically."""

    def __init__(self) -> None:
        self._before: float | None = None

    def reached(self, update: np.ndarray, x: np.ndarray) -> bool:
        """Whether the iterate ``x`` (…, size) that ``update`` led to is as good as it gets.

        Raises
        ------
        FloatingPointError
            If it is not finite: the iteration has diverged.
        """
        scale = np.abs(x) + 1e-8 * np.abs(x).max(axis=-1, keepdims=True) + 1e-300
        change = float((np.abs(update) / scale).max())
        if not np.isfinite(change):
            raise FloatingPointError
        before, self._before = self._before, change
        if change <= 1e-15:
            return True
        if before is None:
            return False
        # The next update would be about change·(change/before)²; or updates no longer shrink.
        return change**3 <= 1e-17 * before**2 or (change > 0.3 * before and change < 1e-9)
