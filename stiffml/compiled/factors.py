"""LU factors of small blocks by C: the same numbers as in runs that are taken in C."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np

from stiffml.compiled.address import address
from stiffml.compiled.cache import LU, library_of
from stiffml.compiled.refusal import NotCompilableError

WIDEST = 64
"""Rows of a block up to which these are as fast as LAPACK's factors, or it matters little."""


class Factors:
    """LU factors of blocks (count, n, n).

    Parameters
    ----------
    blocks : ndarray
        Contiguous; overwritten. Solutions with a singular block are NaN.
    """

    def __init__(self, blocks: np.ndarray) -> None:
        count, n, _ = blocks.shape
        self._shape = count, n
        self._lu, self._pivots = blocks, np.empty((count, n), dtype=np.int32)
        _library().stiffml_factorise(count, n, address(blocks), address(self._pivots))

    def solve(self, x: np.ndarray) -> None:
        """Overwrite right-hand sides (count · n,), contiguous, by solutions."""
        _library().stiffml_solve(*self._shape, address(self._lu), address(self._pivots), address(x))


@cache
def has_factors() -> bool:
    """Whether there is a C compiler, or was one."""
    try:
        _library()
    except (NotCompilableError, OSError):
        return False
    return True


@cache
def _library() -> ctypes.CDLL:
    found = ctypes.CDLL(str(library_of(LU.read_text() + Path(__file__).with_name("factors.c").read_text())))
    count, array = ctypes.c_int64, ctypes.c_void_p
    found.stiffml_factorise.argtypes = [count, count, array, array]
    found.stiffml_solve.argtypes = [count, count, array, array, array]
    found.stiffml_factorise.restype = found.stiffml_solve.restype = None
    return found
