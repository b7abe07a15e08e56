"""The C library of rows: compiled once, loaded."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from stiffml.all_at_once.in_c.interface import NewtonStruct, SystemStruct
from stiffml.compiled.cache import LU, library_of
from stiffml.compiled.refusal import NotCompilableError

PARTS = ("rows.h", "rows.c", "columns.c", "newton.c")


@cache
def library() -> ctypes.CDLL | NotCompilableError:
    """The library; or why there is none, so that it is tried once.

    Solves that did not ask for anything compiled come here too. So nothing that goes wrong is an error.
    """
    try:
        return _loaded()
    except NotCompilableError as error:
        return error
    except OSError as error:
        return NotCompilableError(f"the library of rows cannot be made: {error}")


def _loaded() -> ctypes.CDLL:
    parts = [LU, *(Path(__file__).with_name(name) for name in PARTS)]
    # Loops over many right-hand sides become vectors, which -O2 does not make everywhere.
    found = ctypes.CDLL(str(library_of("\n".join(part.read_text() for part in parts), ["-O3"])))
    count, array, system = ctypes.c_int64, ctypes.c_void_p, ctypes.POINTER(SystemStruct)
    found.stiffml_solve.argtypes = [system, ctypes.POINTER(NewtonStruct), array]
    found.stiffml_update.argtypes = [system, array, array]
    found.stiffml_correct.argtypes = [system, array, array]
    found.stiffml_factorise.argtypes = [system]
    found.stiffml_substitute.argtypes = [system, count, array, array]
    found.stiffml_reverse.argtypes = [system, count, *[array] * 4]
    return found
