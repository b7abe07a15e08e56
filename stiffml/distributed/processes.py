"""The processes that run this program, and their collective operations.

Two launchers are known: ``torchrun``, whose processes talk through torch.distributed, and ``mpiexec`` with
its relatives, through mpi4py. What lies on another device is sent by way of the host.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import math
import os
import time
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from stiffml.distributed.communicator import mpi
from stiffml.petsc.library import PETSc

LAUNCHERS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
"""Environment variables in which launchers of MPICH, Open MPI and others give the number of processes."""

ENDED = "the end of the program"
"""The item that a process exchanges when it has ended."""


class Processes(Protocol):
    """All methods are collective: every process calls them, in the same order.

    Attributes
    ----------
    rank, size : int
        This process's number, and how many there are.
    """

    rank: int
    size: int

    def exchange(self, item: Any) -> list[Any]:
        """A small object of every process, by rank."""

    def gather(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        """(lengths[rank], …) -> (sum of lengths, …): the rows of all processes, in order of rank."""

    def total(self, values: Tensor) -> Tensor:
        """The sum of a float64 vector over all processes, the same to the last bit on each."""

    def from_first(self, values: Tensor) -> Tensor:
        """Rank 0's values."""


@functools.cache
def processes() -> Processes:
    """The processes of this program: decided once, by how it was started. Collective."""
    if _torch_is_initialized() or _started_by_torchrun():
        return _Torch()
    world = mpi_world()
    return _Alone() if world is None else _MPI(world)


def mpi_world() -> Any:
    """mpi4py's communicator of all processes; None if there is but one, or if torchrun started them.

    Raises
    ------
    ImportError
        If there are several and mpi4py is missing.
    RuntimeError
        If mpi4py sees fewer than the launcher started.
    """
    if _started_by_torchrun():
        return None
    started = max(int(os.environ.get(name, 1)) for name in LAUNCHERS)
    if started == 1 and PETSc.COMM_WORLD.getSize() == 1:
        return None
    world = mpi().COMM_WORLD
    if world.size < started:
        raise RuntimeError(
            f"{started} processes were started, but mpi4py sees {world.size}: it was built for another MPI "
            "than that of the launcher. Use the mpiexec of mpi4py's MPI, or build mpi4py anew"
        )
    return world


def _torch_is_initialized() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _started_by_torchrun() -> bool:
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))


class _Alone:
    """One process."""

    rank, size = 0, 1

    def exchange(self, item: Any) -> list[Any]:
        return [item]

    def gather(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        return rows.clone()

    def total(self, values: Tensor) -> Tensor:
        return values.clone()

    def from_first(self, values: Tensor) -> Tensor:
        return values.clone()


class _MPI:
    """The processes of an mpi4py communicator."""

    def __init__(self, world: Any) -> None:
        self._comm = world.Dup()  # nothing that the user sends can be taken for one of these messages
        self.rank, self.size = world.rank, world.size
        atexit.register(self._close)

    def _close(self) -> None:
        """Wait for the others, and tell those that wait for this process that it has ended.

        Otherwise, if one process makes a call that others do not, one would wait in ``exchange`` and the
        other in MPI_Finalize.
        """
        if not mpi().Is_finalized():
            while any(item != ENDED for item in self.exchange(ENDED)):
                pass

    def exchange(self, item: Any) -> list[Any]:
        # MPI waits actively. Processes with a longer solve may need the processor.
        everyone, pause = self._comm.Ibarrier(), 1e-5
        while not everyone.Test():
            time.sleep(pause)
            pause = min(2 * pause, 1e-2)
        return self._comm.allgather(item)

    def gather(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        device, rows = rows.device, rows.cpu().contiguous()
        row = rows.element_size() * math.prod(rows.shape[1:])
        whole = rows.new_empty((sum(lengths), *rows.shape[1:]))
        received = [_bytes(whole).numpy(), [row * length for length in lengths], mpi().BYTE]
        self._comm.Allgatherv([_bytes(rows).numpy(), mpi().BYTE], received)
        return whole.to(device)

    def total(self, values: Tensor) -> Tensor:
        # Allreduce may round differently on each process, and weights would drift apart.
        result = _host_copy(values)
        array = result.numpy()
        self._comm.Reduce(mpi().IN_PLACE if self.rank == 0 else array, array if self.rank == 0 else None)
        self._comm.Bcast(array)
        return result.to(values.device)

    def from_first(self, values: Tensor) -> Tensor:
        result = _host_copy(values)
        self._comm.Bcast([_bytes(result).numpy(), mpi().BYTE])
        return result.to(values.device)


class _Torch:
    """The processes of torch.distributed."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self._dist: Any = dist
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._group: Any = dist.new_group(backend="gloo")  # the user's may be one for GPUs
        atexit.register(self._close)

    def _close(self) -> None:
        """End the threads of the group. They may hold tensors that cannot be freed while Python ends."""
        group, self._group = self._group, None
        # A program may have destroyed all groups itself, and even made others.
        with contextlib.suppress(ValueError):
            self._dist.destroy_process_group(group)

    def exchange(self, item: Any) -> list[Any]:
        items: list[Any] = [None] * self.size
        self._dist.all_gather_object(items, item, group=self._group)
        return items

    def gather(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        # Gloo gathers parts of one length only, and none of length zero.
        padded = torch.zeros((max(lengths), *rows.shape[1:]), dtype=rows.dtype)
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in lengths]
        if padded.numel():
            self._dist.all_gather([_bytes(part) for part in parts], _bytes(padded), group=self._group)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)]).to(rows.device)

    def total(self, values: Tensor) -> Tensor:
        result = _host_copy(values)
        self._dist.all_reduce(result, group=self._group)  # each number is summed on one process and sent on
        return result.to(values.device)

    def from_first(self, values: Tensor) -> Tensor:
        result = _host_copy(values)
        self._dist.broadcast(_bytes(result), 0, group=self._group)
        return result.to(values.device)


def _host_copy(values: Tensor) -> Tensor:
    return values.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _bytes(values: Tensor) -> Tensor:
    """The memory of a contiguous tensor as bytes, so that any type can be sent."""
    return values.detach().view(-1).view(torch.uint8)


def shares(length: int, size: int) -> list[int]:
    """How many of ``length`` rows each of ``size`` processes takes: evenly, the first ones more."""
    return [length // size + (rank < length % size) for rank in range(size)]
