"""Vectors of PETSc's as tensors on the same device, through DLPack: shared, not copied.

A PETSc that was built with CUDA keeps vectors on the device where ``func`` runs. One without does not, and
states then go through copies on the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from stiffml.petsc.library import PETSc


def can_share(device: torch.device) -> bool:
    """Whether PETSc has vectors on a device other than the host."""
    return device.type == "cuda" and PETSc.Sys.hasExternalPackage("cuda")


def vector_type(device: torch.device) -> str:
    """PETSc's name of vectors on a device."""
    return PETSc.Vec.Type.CUDA if device.type == "cuda" else PETSc.Vec.Type.STANDARD


def shared(vector: Any) -> Tensor:
    """What a vector holds, for reading."""
    tensor = from_dlpack(vector.toDLPack("r"))
    _wait_for(tensor)
    return tensor


@contextmanager
def written(vector: Any) -> Iterator[Tensor]:
    """What a vector will hold, for writing to all of it."""
    tensor = from_dlpack(vector.toDLPack("w"))
    yield tensor
    _wait_for(tensor)


def _wait_for(tensor: Tensor) -> None:
    # PETSc and torch know nothing of each other's streams.
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
