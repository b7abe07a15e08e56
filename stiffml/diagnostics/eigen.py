"""Eigenvalues λ and modes of J v = λ M v, finite and infinite ones, and what kinds of modes there are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

KINDS = ("infinite", "zero", "slow", "oscillation", "fast decay", "growth")
"""The kinds of modes; a Dataset has their positions here.

Over the span T of time that is of interest: *zero*, within rounding, or of a conserved sum; *oscillation*,
|Im λ| > |Re λ|, at least one turn, |Im λ| T > 2π; *growth*, Re λ T > 1; *fast decay*, −Re λ T > 100; *slow*,
all else. *Infinite* are those of the algebraic equations of a DAE.
"""

FAST = 100.0
"""Decay times in the span from which on a mode is fast."""


def meanings() -> str:
    """The kinds in the form of the attribute ``flag_meanings``."""
    return " ".join(kind.replace(" ", "_") for kind in KINDS)


@dataclass(frozen=True)
class Modes:
    """All modes of one block, the fastest decay first, the infinite ones last.

    Attributes
    ----------
    values : ndarray
        (width,) complex; ``inf`` for those of algebraic equations.
    right : ndarray
        (width, finite) complex, the v in columns, with J v = λ M v.
    left : ndarray
        (width, finite) complex, the w in columns, with wᵀ J = λ wᵀ M and wᵢᵀ M vⱼ = δᵢⱼ.
    mass_left : ndarray
        (width, finite) complex, Mᵀ w.
    rounding : ndarray
        (width,) the size up to which an eigenvalue is zero within rounding, a small multiple of ε |w|ᵀ|J||v|.
    """

    values: np.ndarray
    right: np.ndarray
    left: np.ndarray
    mass_left: np.ndarray
    rounding: np.ndarray

    @property
    def finite(self) -> int:
        return self.right.shape[1]

    def participation(self) -> np.ndarray:
        """(width, width) of each mode (row) the shares of the components, which sum to 1; NaN for infinite.

        |(Mᵀw)ₖ vₖ| up to a factor: the participation factors of Pérez-Arriaga, Verghese & Schweppe, IEEE
        Trans. PAS 101 (1982), which do not depend on the units of components.
        """
        shares = np.full((len(self.values), len(self.values)), np.nan)
        products = np.abs(self.mass_left * self.right).T
        total = products.sum(axis=1, keepdims=True)
        shares[: self.finite] = np.divide(
            products, total, out=np.full_like(products, np.nan), where=total > 0
        )
        return shares


def modes_of(jacobian: np.ndarray, mass: np.ndarray | None = None) -> Modes:
    """The modes of one block.

    A singular M has as many infinite eigenvalues as its rank lacks: with M = U S Vᵀ, the algebraic equations
    are solved for the algebraic variables (an index-1 DAE), which leaves an ordinary problem.

    Parameters
    ----------
    jacobian, mass : ndarray
        (width, width); no mass for the identity.

    Raises
    ------
    ValueError
        For entries that are not finite, or algebraic equations that do not determine the algebraic variables
        (index above 1).
    """
    if not np.isfinite(jacobian).all():
        raise ValueError("the Jacobian has entries that are not finite")
    width = len(jacobian)
    mass = np.eye(width) if mass is None else mass
    u, sizes, vt = np.linalg.svd(mass)
    rank = int((sizes > 1e-12 * sizes.max()).sum())
    inner = u.T @ jacobian @ vt.T if rank < width else jacobian
    lift, lower = np.eye(rank), np.eye(rank)
    if rank == width:
        ordinary = jacobian if np.array_equal(mass, np.eye(width)) else np.linalg.solve(mass, jacobian)
        right_basis, left_basis = np.eye(width), np.linalg.inv(mass).T
    else:
        corner = inner[rank:, rank:]
        # Scaled by its own size: the equations of a DAE have units of their own.
        if np.linalg.cond(corner / np.maximum(np.abs(corner).max(axis=1, keepdims=True), 1e-300)) > 1e14:
            raise ValueError(
                "the algebraic equations do not determine the algebraic variables, so that the DAE has an "
                "index above 1 here, and its eigenvalues are not those of a step; differentiate constraints"
            )
        lift = np.concatenate([np.eye(rank), -np.linalg.solve(corner, inner[rank:, :rank])])
        lower = np.concatenate([np.eye(rank), -np.linalg.solve(corner.T, inner[:rank, rank:].T)])
        ordinary = (inner[:rank] @ lift) / sizes[:rank, None]
        right_basis, left_basis = vt.T @ lift, u @ (lower / sizes[:rank])
    values, left, right = scipy.linalg.eig(ordinary, left=True, right=True)
    order = np.lexsort((values.imag, values.real))
    values, left, right = values[order], left[:, order].conj(), right[:, order]
    products = (left * right).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = left / np.where(products == 0, np.finfo(float).tiny, products)
    left, right = left_basis @ left, right_basis @ right
    size = (np.abs(left) * (np.abs(jacobian) @ np.abs(right))).sum(axis=0)
    infinite = np.full(width - rank, np.inf)
    return Modes(
        values=np.concatenate([values, infinite + 0j]),
        right=right,
        left=left,
        mass_left=mass.T @ left,
        rounding=np.concatenate([8 * width * np.finfo(float).eps * size, 0 * np.ones(width - rank)]),
    )


def kind_of(values: np.ndarray, span: float, rounding: np.ndarray | float = 0.0) -> np.ndarray:
    """Positions in ``KINDS`` of eigenvalues of any shape; one up to ``rounding`` in size is zero."""
    real, imag, size = values.real, np.abs(values.imag), np.abs(values)
    cases = (
        ~np.isfinite(size),
        size <= rounding,
        (imag > np.abs(real)) & (imag * span > 2 * np.pi),
        real * span > 1,
        -real * span > FAST,
    )
    names = ("infinite", "zero", "oscillation", "growth", "fast decay")
    return np.select(cases, [KINDS.index(name) for name in names], KINDS.index("slow")).astype(np.int8)


def invariants_of(jacobians: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """The sums w·My that f conserves at all the states given, (count, width), in reduced row echelon form.

    Those with wᵀ J = 0 and w·f = 0: a basis of the left null space of all of these, each column scaled by its
    size, to 1e-9.

    Parameters
    ----------
    jacobians : ndarray
        (K, width, width)
    slopes : ndarray
        (K, width)
    """
    columns = np.concatenate([*jacobians, slopes.T], axis=1)
    sizes = np.abs(columns).max(axis=0)
    columns = columns[:, sizes > 0] / sizes[sizes > 0]
    u, found, _ = np.linalg.svd(columns, full_matrices=True)
    rank = int((found > 1e-9 * max(found.max(initial=0.0), 1e-300)).sum())
    return _echelon(u[:, rank:].T.copy())


def _echelon(rows: np.ndarray) -> np.ndarray:
    """Reduced row echelon form, by Gauss-Jordan with the largest entry of each row as pivot."""
    for k in range(len(rows)):
        pivot = int(np.abs(rows[k]).argmax())
        rows[k] /= rows[k, pivot]
        for other in range(len(rows)):
            if other != k:
                rows[other] -= rows[other, pivot] * rows[k]
    rows[np.abs(rows) < 1e-7] = 0.0
    return rows
