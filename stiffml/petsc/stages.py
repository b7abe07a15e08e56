"""PETSc functions that petsc4py lacks, called by ctypes: stages, line searches, cuts of failed steps."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np

from stiffml.petsc.library import PETSc

_INT = ctypes.c_int64 if np.dtype(PETSc.IntType).itemsize == 8 else ctypes.c_int32


@cache
def _library() -> ctypes.CDLL:
    # Loading petsc4py's own module gives access to the symbols of the libpetsc it is linked to.
    library = ctypes.CDLL(PETSc.__file__)
    library.TSGetStages.argtypes = [ctypes.c_void_p, ctypes.POINTER(_INT), ctypes.POINTER(ctypes.c_void_p)]
    library.SNESGetLineSearch.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)]
    library.SNESLineSearchGetLambda.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_double)]
    library.TSGetAdapt.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)]
    library.TSAdaptSetScaleSolveFailed.argtypes = [ctypes.c_void_p, ctypes.c_double]
    for name in ("VecGetArrayRead", "VecRestoreArrayRead"):
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)]
    return library


def read_stages(ts, which: range, size: int) -> np.ndarray:
    """A copy (len(which), size) of stages of the last step of ``ts``; stages are numbered from 0."""
    library = _library()
    count, vectors = _INT(), ctypes.c_void_p()
    _check(library.TSGetStages(ts.handle, ctypes.byref(count), ctypes.byref(vectors)))
    handles = ctypes.cast(vectors, ctypes.POINTER(ctypes.c_void_p))
    stages = np.empty((len(which), size))
    for row, stage in enumerate(which):
        values = ctypes.c_void_p()
        _check(library.VecGetArrayRead(handles[stage], ctypes.byref(values)))
        stages[row] = np.ctypeslib.as_array(ctypes.cast(values, ctypes.POINTER(ctypes.c_double)), (size,))
        _check(library.VecRestoreArrayRead(handles[stage], ctypes.byref(values)))
    return stages


def line_search_length(snes) -> float:
    """The fraction of the last Newton update that the line search of ``snes`` took."""
    library = _library()
    search, length = ctypes.c_void_p(), ctypes.c_double()
    _check(library.SNESGetLineSearch(snes.handle, ctypes.byref(search)))
    _check(library.SNESLineSearchGetLambda(search, ctypes.byref(length)))
    return length.value


def _check(code: int) -> None:
    if code:
        raise PETSc.Error(code)
