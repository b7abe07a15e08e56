"""The C library of runs of samples: compiled once, loaded."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from stiffml.compiled.cache import GROWTH, LU, library_of
from stiffml.compiled.processor import flags_for_matrices
from stiffml.compiled.refusal import NotCompilableError
from stiffml.native.compiled_run.interface import BackwardsStruct, TaskStruct

PARTS = ("samples.h", "numbers.c", "rows.c", "drive.c", "threads.c", "reverse.c")


@cache
def library() -> ctypes.CDLL | NotCompilableError:
    """The library, whose calls release Python's lock; or why there is none, so that it is tried once."""
    try:
        return _loaded()
    except NotCompilableError as error:
        return error


def _loaded() -> ctypes.CDLL:
    here = Path(__file__).parent
    text = "\n".join(path.read_text() for path in (LU, GROWTH, *map(here.joinpath, PARTS)))
    try:
        found = ctypes.CDLL(str(library_of(text, ["-pthread", *flags_for_matrices()])))
    except OSError as error:
        raise NotCompilableError(f"the library of steps cannot be loaded: {error}") from error
    batch = ctypes.c_void_p
    found.stiffml_samples_begin.argtypes = [ctypes.POINTER(TaskStruct), ctypes.c_int64]
    found.stiffml_samples_begin.restype = batch
    found.stiffml_samples_go.argtypes, found.stiffml_samples_go.restype = (
        [batch, ctypes.c_double],
        ctypes.c_int,
    )
    found.stiffml_samples_collect.argtypes = [batch, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    found.stiffml_samples_collect.restype = None
    task, back = ctypes.POINTER(TaskStruct), ctypes.POINTER(BackwardsStruct)
    found.stiffml_samples_end.argtypes, found.stiffml_samples_end.restype = [batch], None
    found.stiffml_reversal_begin.argtypes = [task, back, ctypes.c_int64]
    found.stiffml_reversal_begin.restype = reversal = ctypes.c_void_p
    found.stiffml_reversal_go.argtypes = [reversal, ctypes.c_double]
    found.stiffml_reversal_go.restype = ctypes.c_int
    found.stiffml_reversal_end.argtypes, found.stiffml_reversal_end.restype = [reversal], None
    return found
