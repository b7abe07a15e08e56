"""The C library of whole runs: found headers, compiled once, loaded."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

from stiffml.compiled.cache import GROWTH, LU, library_of
from stiffml.compiled.refusal import NotCompilableError
from stiffml.petsc.compiled_run.interface import TakenStruct, TaskStruct
from stiffml.petsc.library import PETSc, folders
from stiffml.run import kept_jacobian

_KEPT = {
    "FAST": kept_jacobian.FAST,
    "EXACT": kept_jacobian.EXACT,
    "MOST": kept_jacobian.MOST_KEPT,
    "SLOW": kept_jacobian.SLOW,
    "OLDEST": kept_jacobian.OLDEST,
    "USELESS": kept_jacobian.USELESS,
    "PAUSE": kept_jacobian.PAUSE,
}
"""The numbers of the rules by which Jacobians are kept, for ``keeping.c``."""

PARTS = ("course.h", "stiffness.c", "keeping.c", "equations.c", "matrix.c", "newton.c", "drive.c", "begin.c")


@cache
def library() -> ctypes.PyDLL | NotCompilableError:
    """The library; or why there is none, so that it is tried once.

    Its calls keep Python's lock, since PETSc must not be called from two threads at once. Solves that did not
    ask for anything compiled come here too, so nothing that goes wrong is an error.
    """
    try:
        return _loaded()
    except NotCompilableError as error:
        return error
    except OSError as error:
        return NotCompilableError(f"the library of steps cannot be made: {error}")


def _loaded() -> ctypes.PyDLL:
    here = Path(__file__).parent
    # The version is part of the text, and by that of the name in the cache.
    about = f"/* PETSc {PETSc.Sys.getVersionInfo()}, integers of {PETSc.IntType().itemsize} bytes */\n"
    about += "".join(f"#define KEPT_{name} {value!r}\n" for name, value in _KEPT.items())
    text = about + "\n".join(path.read_text() for path in (LU, GROWTH, *map(here.joinpath, PARTS)))
    try:
        found = ctypes.PyDLL(str(library_of(text, compiler_flags())))
    except OSError as error:
        raise NotCompilableError(f"the library of steps cannot be loaded: {error}") from error
    found.stiffml_begin.argtypes = [ctypes.POINTER(TaskStruct), ctypes.c_void_p]
    found.stiffml_begin.restype = ctypes.c_void_p
    found.stiffml_go.argtypes, found.stiffml_go.restype = [ctypes.c_void_p, ctypes.c_double], ctypes.c_int
    found.stiffml_taken.argtypes = [ctypes.c_void_p]
    found.stiffml_taken.restype = ctypes.POINTER(TakenStruct)
    found.stiffml_end.argtypes, found.stiffml_end.restype = [ctypes.c_void_p], None
    return found


def compiler_flags() -> list[str]:
    """The arguments of a C compiler for a library that calls this PETSc.

    Raises
    ------
    NotCompilableError
        If its headers or its library cannot be found.
    """
    loaded = _loaded_petsc()
    # Naming the loaded library makes the linker note its name, by which the loader finds that very one.
    return [*(f"-I{folder}" for folder in _headers(loaded)), str(loaded)]


def _headers(loaded: Path) -> list[str]:
    """The include folders of PETSc and of its MPI.

    petsc4py names the folder that it was built with, which may be gone; the library that it has loaded lies
    beside the headers of the same installation.
    """
    bases = list(dict.fromkeys([str(loaded.resolve().parent.parent), str(loaded.parent.parent), *folders()]))
    found = [f"{base}/include" for base in bases]
    for base in bases:
        try:
            lines = (Path(base) / "lib/petsc/conf/petscvariables").read_text().splitlines()
        except OSError:
            continue
        # The second is what the compiler of MPI adds by itself.
        named = [line for line in lines if line.startswith(("PETSC_CC_INCLUDES =", "MPICC_SHOW ="))]
        found += [word[2:] for line in named for word in line.split() if word.startswith("-I/")]
    found.append(f"{sys.prefix}/include")
    present = [folder for folder in dict.fromkeys(found) if Path(folder).is_dir()]
    for header, whose in (("petscts.h", "PETSc"), ("mpi.h", "MPI")):
        if not any((Path(folder) / header).is_file() for folder in present):
            raise NotCompilableError(f"the headers of {whose} were not found in {', '.join(found)}")
    return present


class _Symbol(ctypes.Structure):
    """``Dl_info`` of dladdr."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _loaded_petsc() -> Path:
    """The file of the libpetsc that petsc4py has loaded."""
    symbol = _Symbol()
    function = ctypes.cast(ctypes.CDLL(PETSc.__file__).TSStep, ctypes.c_void_p)
    try:
        ctypes.CDLL(None).dladdr(function, ctypes.byref(symbol))
    except AttributeError as error:
        raise NotCompilableError("the loaded PETSc library cannot be found") from error
    if not symbol.file:
        raise NotCompilableError("the loaded PETSc library cannot be found")
    return Path(symbol.file.decode())
