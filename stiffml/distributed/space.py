"""Sums and decisions over all parts of a field."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiffml.distributed.communicator import mpi
from stiffml.system.space import Space


class FieldSpace(Space):
    """A state of which each process of a communicator holds a part; all calls are collective.

    Parameters
    ----------
    communicator : mpi4py.MPI.Intracomm
        PETSc objects can be created on it too.
    """

    communicator: Any

    def __init__(self, communicator: Any) -> None:
        self.communicator = communicator
        self.is_distributed = communicator.Get_size() > 1

    def sum(self, value: float) -> float:
        return float(self._reduced(np.array(value, dtype=np.float64), mpi().SUM))

    def max(self, value: float) -> float:
        # MPI leaves open what the largest of numbers is of which one is NaN.
        is_nan = np.isnan(value)
        largest, any_nan = self._reduced(np.array([-np.inf if is_nan else value, is_nan]), mpi().MAX)
        return float("nan") if any_nan else float(largest)

    def every(self, condition: bool) -> bool:
        return bool(self._reduced(np.array(bool(condition), dtype=np.int32), mpi().MIN))

    def sum_array(self, values: np.ndarray) -> np.ndarray:
        return self._reduced(np.array(values, order="C"), mpi().SUM)

    def sum_tensor(self, values: Tensor) -> Tensor:
        return torch.from_numpy(self.sum_array(values.detach().cpu().numpy())).to(values.device)

    def _reduced(self, values: np.ndarray, operation: Any) -> np.ndarray:
        """The values, replaced by those reduced over all processes.

        As PETSc does for its norms, this counts on MPI to give all processes the same bits.
        """
        self.communicator.Allreduce(mpi().IN_PLACE, values, op=operation)
        return values
