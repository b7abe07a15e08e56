"""The user's function with a Jacobian that the user gives as a function too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse import block_diag, csr_array, issparse
from torch import Tensor

from stiffml.checks import described
from stiffml.linear.sparse.compression import LocalJacobian
from stiffml.linear.sparsity import coordinates
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.product_check import beyond_rounding
from stiffml.system.function.generic_states import first_finite, nearby, random_signed, typical_sizes

JacobianFunc = Callable[[Tensor, Any], Any]
"""(t, y) -> ∂f/∂y, a dense tensor or a sparse matrix."""


class GivenJacobian(Dynamics):
    """f whose whole Jacobians are those of a function of the user's; products with it come from torch.

    At times beyond the span, where f is extrapolated, the Jacobian is too.

    Parameters
    ----------
    dynamics : Dynamics
        f.
    jacobian : callable
        jacobian(t, y) -> ∂func/∂y at one state.
    """

    def __init__(self, dynamics: Dynamics, jacobian: JacobianFunc) -> None:
        super().__init__(
            dynamics.func,
            dynamics.layout,
            dynamics.direction,
            dynamics.parameters,
            dynamics.space,
            dynamics.span,
        )
        self._jacobian = jacobian
        self._latest: tuple[float, np.ndarray] | None = None

    def sparse_at(self, s: float, u: np.ndarray) -> csr_array:
        """∂f/∂u at one state as a sparse matrix (size, size)."""
        found = self._given(s, u)
        return found if issparse(found) else csr_array(block_diag(list(found)))

    def blocks_at(self, s: float, u: np.ndarray) -> np.ndarray:
        """∂f/∂u at one state as an array (samples, width, width), which the caller may overwrite."""
        found = self._given(s, u)
        if not issparse(found):
            return found
        w, begins = self.layout.width, range(0, self.layout.size, self.layout.width)
        return np.stack([csr_array(found[k : k + w, k : k + w]).toarray() for k in begins])

    def jacobian_blocks(self, s: Tensor, u: Tensor) -> Tensor:
        pairs = zip(s.tolist(), u.detach().numpy(), strict=True)
        return torch.from_numpy(np.stack([self.blocks_at(*pair) for pair in pairs]))

    def values_and_blocks(self, s: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate_many(s, u), self.jacobian_blocks(s, u)

    def constant_blocks(self, s: float, u: np.ndarray) -> np.ndarray:
        blocks = self.blocks_at(s, u)
        return blocks[:1] if (blocks == blocks[0]).all() else blocks

    def evaluate(
        self, s: float, u: np.ndarray, with_jacobian: bool = False, as_graph: bool = False
    ) -> np.ndarray:
        return super().evaluate(s, u)  # the Jacobian costs no less together with the value

    def jacobian_at(self, s: float, u: np.ndarray) -> np.ndarray:
        return self.blocks_at(s, u)

    def confirm(self) -> None:
        """Compare the Jacobian with func once more, where it was last asked for."""
        if self._latest is not None:
            self.check(*self._latest)

    def check(self, s: float, u: np.ndarray) -> csr_array | np.ndarray:
        """Compare a product with the Jacobian near a state with the same product by torch.

        Near it rather than at it, where entries may be zero by chance. Returns the Jacobian there.

        Raises
        ------
        ValueError
            If they differ by more than rounding.
        """
        random = np.random.default_rng(0)
        with self.uncounted():
            near = first_finite(lambda state: self.evaluate_anew(s, state), nearby(u, random))
            if near is None:  # as the run will report
                return self._given(s, u)
            state = near[0]
            found = self._given(s, state)
            self._latest = None  # until it is asked for again
            w = random_signed(random, u.size)
            off = self._columns_off(found, s, state, w)
            if not (off > 0).any():
                return found
            row = self._worst_row(found, s, state, random)
            raise ValueError(self._difference(found, s, state, row, int(np.argmax(off))))

    def _columns_off(
        self, found: csr_array | np.ndarray, s: float, u: np.ndarray, w: np.ndarray
    ) -> np.ndarray:
        """(size,) how much of the difference of Jᵀw is more than rounding."""
        exact = self.state_vjp(*_one(s, u), torch.from_numpy(w)[None])[0].numpy()
        return _excess(_product(found, w, True), exact, _product(abs(found), np.abs(w), True), self.eps)

    def _worst_row(
        self, found: csr_array | np.ndarray, s: float, u: np.ndarray, random: np.random.Generator
    ) -> int | None:
        """The row that is most off, by a product J v; None where func cannot be differentiated twice."""
        v = random_signed(random, u.size) * typical_sizes(u)
        try:
            exact = self.state_jvp(*_one(s, u), torch.from_numpy(v)[None])[0].numpy()
        except RuntimeError:
            return None
        off = _excess(_product(found, v), exact, _product(abs(found), np.abs(v)), self.eps)
        return int(np.argmax(off)) if (off > 0).any() else None

    def _difference(
        self, found: csr_array | np.ndarray, s: float, u: np.ndarray, row: int | None, column: int
    ) -> str:
        """The message, with the entry of a row that is most off, if there is such a row."""
        layout, begin = self.layout, f"jacobian: at t = {self.direction * s:.10g}, near y = y(t), "
        hint = (
            ". It must be ∂func/∂y (with Split that of the implicit part, if the method splits), rows by "
            "components of func and columns by those of y. Try: jacobian='auto', which takes it from torch"
        )
        unit = np.zeros(layout.size)
        unit[0 if row is None else row] = 1.0
        exact = self.state_vjp(*_one(s, u), torch.from_numpy(unit)[None])[0].numpy()
        own = _product(found, unit, True)
        worst = int(np.argmax(np.nan_to_num(np.abs(own - exact), nan=np.inf)))
        if row is None or own[worst] == exact[worst]:  # J v was not right without second derivatives
            where = list(layout.component(column))
            return f"{begin}its column for component {where} differs from that of func by torch{hint}"
        at, by = (list(layout.component(k)) for k in (row, worst))
        values = (self.direction * value for value in (own[worst], exact[worst]))
        given, known = (f"{value:.6g}" for value in values)
        return (
            f"{begin}row {at} differs most from that of func: the derivative of component {at} by component "
            f"{by} is {given}, and by torch {known}{hint}"
        )

    def _given(self, s: float, u: np.ndarray) -> csr_array | np.ndarray:
        """∂f/∂u at one state: blocks (samples, width, width), or a sparse matrix (size, size)."""
        self.jacobians += 1
        s = self.span.trim(s)
        self._latest = s, u.copy()
        expanded = self.span.expanded(torch.tensor([s], dtype=torch.float64)) if self.span.degree else None
        if expanded is None:
            return self._called_for_jacobian(s, u)
        pairs = zip(expanded.weights.tolist(), expanded.times.tolist(), strict=True)
        first, *others = (weight * self._called_for_jacobian(time, u) for weight, time in pairs)
        return sum(others, first)

    def _called_for_jacobian(self, s: float, u: np.ndarray) -> csr_array | np.ndarray:
        layout = self.layout
        t = torch.tensor(self.span.own_time(self.direction * s), dtype=layout.dtype, device=layout.device)
        y = layout.unflatten(torch.from_numpy(u.copy()).to(layout.device, layout.dtype))
        with torch.no_grad():
            value = self._jacobian(t, y)
        if issparse(value) or (isinstance(value, Tensor) and value.layout is not torch.strided):
            return self.direction * self._sparse(value)
        return self.direction * self._dense(value)

    def _sparse(self, value: Any) -> csr_array:
        size = self.layout.size
        found = csr_array(coordinates(value, "jacobian: its value"))
        if found.shape != (size, size):
            raise ValueError(
                f"jacobian: returned a sparse matrix of shape {found.shape}, but for the {size} numbers of "
                f"y0 it must be ({size}, {size})" + self._over_samples()
            )
        return found.astype(np.float64)

    def _dense(self, value: Any) -> np.ndarray:
        layout = self.layout
        if isinstance(value, Tensor):
            value = value.detach().resolve_neg().cpu().numpy() if value.device.type != "meta" else None
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise TypeError(
                "jacobian: must return a tensor of real numbers, or a sparse matrix of torch or scipy, not "
                f"{described(value)}"
            )
        batch, w = tuple(layout.batch), layout.width
        shapes = [(*batch, w, w)]
        if len(layout.shapes) == 1:
            inner = tuple(layout.shapes[0][len(batch) :])
            shapes.append((*batch, *inner, *inner))  # as torch.func.jacfwd has it
        if value.shape not in shapes:
            raise ValueError(
                f"jacobian: returned shape {value.shape}, but for y0 it must be {shapes[0]}"
                + self._over_samples()
            )
        return np.array(value, dtype=np.float64).reshape(math.prod(batch), w, w)

    def _over_samples(self) -> str:
        if self.layout.samples == 1:
            return ""
        return ": a block for each sample, or one sparse matrix with these blocks along its diagonal"


class GivenSparse(LocalJacobian):
    """A sparse Jacobian as the user's function gives it.

    Parameters
    ----------
    matrix : csr_array
        (size, size) that at the start. A preconditioner has room for its entries alone.
    """

    def __init__(self, matrix: csr_array) -> None:
        entries = matrix.tocoo()
        rows, columns = (numbers.astype(np.int32) for numbers in (entries.row, entries.col))
        super().__init__(rows, columns, 0, np.zeros(len(rows), dtype=int), rows)
        self.size = matrix.shape[0]
        self._pattern = csr_array((np.ones(len(rows)), (rows, columns)), shape=matrix.shape)
        self.is_symmetric = (self._pattern.T.tocsr() != self._pattern).nnz == 0

    @property
    def description(self) -> str:
        return f"{len(self.rows)} entries as given"

    def matrix(self, dynamics: Dynamics, s: float, u: np.ndarray) -> csr_array:
        assert isinstance(dynamics, GivenJacobian)
        return dynamics.sparse_at(s, u)

    def values(self, dynamics: Dynamics, s: float, u: np.ndarray) -> np.ndarray:
        matrix = self.matrix(dynamics, s, u)
        outside = matrix - matrix * self._pattern  # entries that are not finite stay where they are
        if np.any(outside.data != 0) and np.isfinite(matrix.data).all():
            row = int(outside.tocoo().row[np.argmax(np.abs(outside.data))])
            where = list(dynamics.layout.component(row))
            raise ValueError(
                f"jacobian: at t = {dynamics.direction * s:.10g} row {where} has an entry where the matrix "
                "at the start had none. Return all entries that may become nonzero, also those that are zero"
            )
        return np.asarray(matrix[self.rows, self.columns]).ravel()


def _one(s: float, u: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.tensor([s], dtype=torch.float64), torch.from_numpy(u.copy())[None]


def _product(matrix: csr_array | np.ndarray, v: np.ndarray, transpose: bool = False) -> np.ndarray:
    """J v, or Jᵀ v, for v (size,) and J as :class:`GivenJacobian` has it."""
    if issparse(matrix):
        return (matrix.T if transpose else matrix) @ v
    rows = v.reshape(len(matrix), 1, -1)
    return (rows @ (matrix if transpose else matrix.swapaxes(1, 2))).ravel()


def _excess(found: np.ndarray, exact: np.ndarray, size: np.ndarray, eps: float) -> np.ndarray:
    """(size,) how much of a difference is more than rounding; −1 where torch's product is not finite."""
    with np.errstate(invalid="ignore"):
        known = np.isfinite(exact)
        wrong = known & ~np.isfinite(found)
        sound = known & ~wrong & np.isfinite(size)
        off = np.where(sound, np.abs(found - exact), 0.0)
        excess = beyond_rounding(off, np.where(sound, size + np.abs(exact), 0.0), eps)
    return np.where(wrong, np.inf, np.where(sound, excess, -1.0))
