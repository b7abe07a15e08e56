"""The processes a field is spread over: a PETSc communicator, and mpi4py's where there are several."""

from __future__ import annotations

from typing import Any

from stiffml.extras import to_install
from stiffml.petsc.library import PETSc


def petsc_communicator(comm: object | None) -> Any:
    """The PETSc communicator of an mpi4py or petsc4py one; of all processes for None."""
    if comm is None:
        return PETSc.COMM_WORLD
    try:
        return PETSc.Comm(comm)
    except TypeError:
        raise TypeError(
            f"comm must be a communicator of mpi4py or petsc4py, or None for all processes, "
            f"not {type(comm).__name__}"
        ) from None


def mpi4py_communicator(comm: Any) -> Any:
    """The mpi4py communicator of a PETSc one."""
    mpi()
    return comm.tompi4py()


def mpi() -> Any:
    """mpi4py's MPI; imported when it is needed, because a single process does not need it."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(f"several processes need mpi4py: {to_install('mpi')}") from error
    return MPI
