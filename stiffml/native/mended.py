"""Jacobians for new steps in which finite differences replace entries that are not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stiffml.linear.non_finite import mended_blocks
from stiffml.petsc.formulation import Formulation
from stiffml.system.finite import is_finite
from stiffml.system.system import System


class MendedJacobians:
    """f with dense Jacobians in which finite differences replace entries that are not finite.

    An example is √u at u = 0. All other attributes are those of f. Only forward steps use these Jacobians,
    never a backward pass.

    Attributes
    ----------
    count : int
        Jacobians so far that needed finite differences.
    """

    def __init__(self, system: System) -> None:
        self._f, self._problem, self.count = system.f, Formulation(system), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._f, name)

    def jacobian_blocks(self, s: Tensor, u: Tensor) -> Tensor:
        """∂f/∂u at K states: (K,), (K, size) -> (K, samples, width, width)."""
        found = self._f.jacobian_blocks(s, u)
        for k, blocks in enumerate(found.numpy()):
            if not is_finite(blocks.ravel()):
                self.count += 1
                mended = mended_blocks(self._problem, float(s[k]), u[k].numpy(), blocks)
                found[k] = torch.from_numpy(mended)
        return found
