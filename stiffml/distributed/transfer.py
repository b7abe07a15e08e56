"""The whole of a field on one process, from the parts and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiffml.distributed.decomposition import Ranges


def gather_parts(
    part: Tensor, shape: tuple[int, ...], ranges: tuple[Ranges, ...], comm: Any
) -> Tensor | None:
    """Parts (..., n0, n1) of all processes -> the whole (..., N0, N1) on process 0, None on the others.

    The whole is on the device of the part there.
    """
    parts = comm.gather(part.detach().cpu().contiguous().numpy(), root=0)
    if parts is None:
        return None
    lead = part.shape[: part.dim() - len(shape)]
    whole = torch.empty((*lead, *shape), dtype=part.dtype)
    for box, values in zip(ranges, parts, strict=True):
        whole[_box(box)] = torch.from_numpy(values)
    return whole.to(part.device)


def scatter_parts(whole: Tensor | None, ranges: tuple[Ranges, ...], comm: Any) -> Tensor:
    """The whole (..., N0, N1) on process 0 -> the part (..., n0, n1) of each process."""
    parts = None
    if whole is not None:
        parts = [np.ascontiguousarray(whole[_box(box)].cpu().numpy()) for box in ranges]
    return torch.from_numpy(comm.scatter(parts, root=0))


def _box(ranges: Ranges) -> tuple[Any, ...]:
    return (..., *(slice(start, stop) for start, stop in ranges))
