"""The values around a process's part of a field, fetched from other processes; differentiable."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiffml.distributed.decomposition import Decomposition
from stiffml.petsc.library import PETSc

SMALL = 10_000
"""Numbers in a field on one process up to which the ghosts are taken by indexing.

Indexing is an ordinary operation of torch, which vmap and with it dense Jacobians can batch. For large fields
PETSc is twice as fast.
"""


class Exchange:
    """E: a part of a field -> the part with a margin of ghosts on all sides; and its transpose.

    Both are linear and collective: all processes must call the same ones in the same order. E copies each
    ghost from the point it stands for; Eᵀ adds each ghost to that point.

    PETSc moves the ghosts, while the part itself is copied here. It does so on the host, whatever the device.

    Parameters
    ----------
    decomposition : Decomposition
    species, width : int
    comm : PETSc.Comm
    """

    def __init__(self, decomposition: Decomposition, species: int, width: int, comm: Any) -> None:
        points = decomposition.ghosted
        self.ghosted_shape = (species, *points.shape)
        self.shape = (species, *(extent - 2 * width for extent in points.shape))
        self._index: Tensor | None = None
        if comm.getSize() == 1 and math.prod(self.shape) <= SMALL:
            self._index = torch.from_numpy(points.ravel())
            return
        inside = (slice(width, -width),) * points.ndim
        self._inside = (slice(None), *inside)

        is_ghost = np.ones(points.shape, dtype=bool)
        is_ghost[inside] = False
        places = np.flatnonzero(is_ghost)
        origins = decomposition.unknowns(points.ravel()[places], species)
        targets = places + points.size * np.arange(species)[:, None]

        # These arrays are never touched and cost no memory: those of tensors are put in their place.
        self._part = PETSc.Vec().createWithArray(np.empty(math.prod(self.shape)), comm=comm)
        self._whole = PETSc.Vec().createWithArray(
            np.empty(math.prod(self.ghosted_shape)), comm=PETSc.COMM_SELF
        )
        sets = [
            PETSc.IS().createGeneral(indices.ravel().astype(PETSc.IntType), comm=PETSc.COMM_SELF)
            for indices in (origins, targets)
        ]
        self._scatter = PETSc.Scatter().create(self._part, sets[0], self._whole, sets[1])

    def __call__(self, part: Tensor) -> Tensor:
        """E, differentiable any number of times."""
        if self._index is not None:
            return part.flatten(1).index_select(1, self._index.to(part.device)).view(self.ghosted_shape)
        return _Apply.apply(part, self)

    def fetch(self, part: Tensor) -> Tensor:
        """E without a graph."""
        device, part = part.device, part.detach().cpu().contiguous()
        ghosted = torch.empty(self.ghosted_shape, dtype=torch.float64)
        with self._placed(part, ghosted) as (here, there):
            self._scatter.begin(here, there, PETSc.InsertMode.INSERT, PETSc.ScatterMode.FORWARD)
            ghosted[self._inside] = part
            self._scatter.end(here, there, PETSc.InsertMode.INSERT, PETSc.ScatterMode.FORWARD)
        return ghosted.to(device)

    def collect(self, ghosted: Tensor) -> Tensor:
        """Eᵀ without a graph."""
        device, ghosted = ghosted.device, ghosted.detach().cpu().contiguous()
        part = ghosted[self._inside].clone(memory_format=torch.contiguous_format)
        with self._placed(part, ghosted) as (here, there):
            self._scatter.scatter(there, here, PETSc.InsertMode.ADD, PETSc.ScatterMode.REVERSE)
        return part.to(device)

    @contextmanager
    def _placed(self, part: Tensor, ghosted: Tensor) -> Iterator[tuple[Any, Any]]:
        """PETSc's vectors with the memory of two tensors."""
        self._part.placeArray(part.numpy())
        self._whole.placeArray(ghosted.numpy())
        try:
            yield self._part, self._whole
        finally:
            self._part.resetArray()
            self._whole.resetArray()


class _Apply(torch.autograd.Function):
    # Without setup_context, which would serve torch.func alone and costs as much as a small exchange.
    @staticmethod
    def forward(ctx: Any, part: Tensor, exchange: Exchange) -> Tensor:  # type: ignore[override]
        ctx.exchange = exchange
        return exchange.fetch(part)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _ApplyTransposed.apply(cotangent, ctx.exchange), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:  # type: ignore[override]
        return _Apply.apply(tangent, ctx.exchange)


class _ApplyTransposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ghosted: Tensor, exchange: Exchange) -> Tensor:  # type: ignore[override]
        ctx.exchange = exchange
        return exchange.collect(ghosted)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _Apply.apply(cotangent, ctx.exchange), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:  # type: ignore[override]
        return _ApplyTransposed.apply(tangent, ctx.exchange)
