"""The constant mass matrix M of M y' = f(t, y)."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from scipy.sparse import block_diag, csr_array, diags_array
from torch import Tensor

from stiffml.system.state import Layout

RANK = 1e-12
"""Singular values below this, relative to the largest, count as zero."""


class Mass:
    """M, dense or diagonal, the same for all samples or one a sample; it may be singular.

    Parameters
    ----------
    tensor : Tensor
        With w numbers a sample: diagonal as (w,) or in the shape of a sample, dense as (w, w); either
        with the batch dimensions in front where samples differ, and with ones in their place where one
        matrix is for all.
    layout : Layout

    Attributes
    ----------
    tensor : Tensor
        As given; its gradient is taken if it requires one.
    diagonal : bool

    Raises
    ------
    ValueError
        For another shape, one that has two meanings, or values that are not finite.
    """

    def __init__(self, tensor: Tensor, layout: Layout) -> None:
        width, batch = layout.width, layout.batch
        forms: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
            ((1,), ()),
            ((1,), (1,) * len(batch)),
            ((layout.samples,), batch),
        ]
        if batch == (width,) and width > 1 and tensor.shape == (width, width):
            raise ValueError(
                f"mass of shape ({width}, {width}) has two meanings, because y0 has as many samples as "
                "components of a sample: pass mass[None] if it is one matrix for all samples, or "
                "torch.diag_embed(mass) if each row is the diagonal of a sample"
            )
        diagonal = {(width,)} | ({layout.shapes[0][len(batch) :]} if len(layout.shapes) == 1 else set())
        for count, lead in forms:
            if tensor.shape in {(*lead, *shape) for shape in diagonal}:
                self.diagonal = True
                self._shape: tuple[int, ...] = (*count, width)
                break
            if tensor.shape == (*lead, width, width):
                self.diagonal, self._shape = False, (*count, width, width)
                break
        else:
            raise ValueError(
                f"mass must have shape ({width},) or ({width}, {width}) for the {width} components of a "
                f"sample, with y0's {len(batch)} batch dimensions in front or without, "
                f"not {tuple(tensor.shape)}"
            )
        self.tensor = tensor
        self._layout = layout
        # A copy: the caller may change the matrix in place later.
        values = np.array(tensor.detach().double().cpu().numpy()).reshape(self._shape)
        if not np.isfinite(values).all():
            raise ValueError("mass is not finite")
        self._diagonal = values if self.diagonal else None
        self._values = values

    @cached_property
    def blocks(self) -> np.ndarray:
        """(samples or 1, w, w)"""
        return self._values[:, :, None] * np.eye(self._layout.width) if self.diagonal else self._values

    def sparse(self) -> csr_array:
        """M over the flat state, (size, size)."""
        samples = self._layout.samples
        if self.diagonal:
            return csr_array(
                diags_array(np.broadcast_to(self._values, (samples, self._layout.width)).ravel())
            )
        return csr_array(block_diag(np.broadcast_to(self.blocks, (samples, *self.blocks.shape[1:]))))

    def main_diagonal(self) -> np.ndarray:
        """(size,) the diagonal of M."""
        rows = self._values if self.diagonal else np.diagonal(self._values, axis1=1, axis2=2)
        return np.broadcast_to(rows, (self._layout.samples, self._layout.width)).ravel()

    def apply(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """M v or Mᵀ v for vectors (…, size)."""
        rows = v.reshape(*v.shape[:-1], self._layout.samples, self._layout.width)
        if self._diagonal is not None:
            return (self._diagonal * rows).reshape(v.shape)
        blocks = self.blocks if transpose else self.blocks.swapaxes(-1, -2)
        return (rows[..., None, :] @ blocks)[..., 0, :].reshape(v.shape)

    def solve(self, v: np.ndarray) -> np.ndarray:
        """M⁺v, the least-squares solution of M x = v of least size, for a vector (size,)."""
        if self._diagonal is not None:
            there = ~self.algebraic
            slopes = np.where(there, v.reshape(self._layout.samples, -1), 0)
            return (slopes / np.where(there, self._diagonal, 1)).reshape(-1)
        rows = v.reshape(self._layout.samples, self._layout.width, 1)
        return (np.linalg.pinv(self.blocks, rcond=RANK) @ rows).reshape(-1)

    def constraints(self) -> tuple[np.ndarray, np.ndarray]:
        """The left and right null spaces of each block, as projectors (samples or 1, w, w).

        ``left`` projects f on the algebraic equations, which must be zero; ``right`` projects y on the
        algebraic variables, which they determine.
        """
        if self.diagonal:
            null = self.algebraic[:, :, None] * np.eye(self._layout.width)
            return null, null
        u, sizes, vt = np.linalg.svd(self.blocks)
        null = (sizes <= RANK * sizes.max(axis=-1, keepdims=True))[..., None, :].astype(float)
        return (u * null) @ u.swapaxes(-1, -2), (vt.swapaxes(-1, -2) * null) @ vt

    @property
    def algebraic(self) -> np.ndarray:
        """(samples or 1, w) which equations of a diagonal M are algebraic."""
        sizes = np.abs(self._values)
        return sizes <= RANK * sizes.max(axis=-1, keepdims=True)

    @property
    def singular(self) -> bool:
        if self.diagonal:
            return bool(self.algebraic.any())
        return bool(np.any(self.constraints()[0]))

    @property
    def has_zero_rows(self) -> bool:
        """Whether every algebraic equation is a zero row of M whose column is zero too."""
        if self.diagonal:
            return True
        rows, columns = ~self.blocks.any(axis=-1), ~self.blocks.any(axis=-2)
        equations = np.trace(self.constraints()[0], axis1=-2, axis2=-1)
        return bool((rows.sum(axis=-1) == np.round(equations)).all() and (columns | ~rows).all())

    def gradient(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Σ leftᵢ rightᵢᵀ over N pairs (N, size), restricted to the entries M has."""
        layout = self._layout
        left, right = (v.reshape(-1, layout.samples, layout.width) for v in (left, right))
        total = np.einsum("nsi,nsi->si" if self.diagonal else "nsi,nsj->sij", left, right)
        return total if self._shape[0] == layout.samples else total.sum(axis=0, keepdims=True)

    def as_given(self, gradient: np.ndarray) -> Tensor:
        """A gradient in the shape and dtype of ``tensor``."""
        return torch.from_numpy(gradient).reshape(self.tensor.shape).to(self.tensor)
