"""Calls of compiled code on numpy's arrays."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from stiffml.compiled.address import address
from stiffml.compiled.refusal import NotCompilableError

_COUNT, _ARRAY = ctypes.c_int64, ctypes.c_void_p

_LOOPS = {
    "values": [_COUNT] * 2 + [_ARRAY] * 4,
    "blocks": [_COUNT] * 3 + [_ARRAY] * 5,
    "pull": [_COUNT] * 2 + [_ARRAY] * 8,
    "pull_rows": [_COUNT] * 2 + [_ARRAY] * 4,
    "push": [_COUNT] * 2 + [_ARRAY] * 6,
    "move": [_COUNT] * 2 + [_ARRAY] * 5,
    "bend": [_COUNT] + [_ARRAY] * 8,
}
"""The loops of ``code/kinds.py``, with their arguments."""


class Library:
    """The functions of a shared library; ``loops`` are the names of those it has."""

    def __init__(self, path: Path, loops: tuple[str, ...]) -> None:
        try:
            self._loaded = ctypes.CDLL(str(path))
            self._loops = {name: getattr(self._loaded, name) for name in loops}
        except (OSError, AttributeError) as error:
            raise NotCompilableError(f"the compiled library cannot be loaded: {error}") from error
        for name, function in self._loops.items():
            function.argtypes, function.restype = _LOOPS[name], ctypes.c_int

    def call(self, name: str, *arguments: int | np.ndarray) -> None:
        """Call a loop; arrays must be of doubles, and contiguous."""
        passed = [a if isinstance(a, int) else address(a) for a in arguments]
        if self._loops[name](*passed):
            raise MemoryError(f"compiled function: no memory for {name}")

    def loop(self, name: str) -> int:
        """The address of a loop, for code in C."""
        return ctypes.cast(self._loops[name], ctypes.c_void_p).value or 0

    def address(self) -> int:
        """Of the ``struct stiffml_function``, for code in C that takes steps (see ``code/kinds.py``)."""
        function = self._loaded.stiffml_function
        function.argtypes, function.restype = [], ctypes.c_void_p
        return function()
