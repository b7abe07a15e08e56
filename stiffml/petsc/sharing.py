"""PETSc vectors as torch tensors on the same device, shared through DLPack without a copy.

PETSc built with CUDA keeps its vectors on the device where ``func`` runs. Otherwise states are copied to and
from the host.
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
    """Whether PETSc can keep vectors on ``device``, other than the host."""
    return device.type == "cuda" and PETSc.Sys.hasExternalPackage("cuda")


def vector_type(device: torch.device) -> str:
    """PETSc's vector type for a device."""
    return PETSc.Vec.Type.CUDA if device.type == "cuda" else PETSc.Vec.Type.STANDARD


def shared(vector: Any) -> Tensor:
    """The values of a PETSc vector as a tensor, for reading only."""
    tensor = from_dlpack(vector.toDLPack("r"))
    _wait_for(tensor)
    return tensor


@contextmanager
def written(vector: Any) -> Iterator[Tensor]:
    """A tensor that shares the memory of a PETSc vector; every entry must be written."""
    tensor = from_dlpack(vector.toDLPack("w"))
    yield tensor
    _wait_for(tensor)


def _wait_for(tensor: Tensor) -> None:
    # PETSc and torch use different CUDA streams, so one must wait for the other.
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
