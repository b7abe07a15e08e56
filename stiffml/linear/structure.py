"""Sparse Jacobians by their patterns: the caller's, a field's, or one found by trying func."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.sparse import block_diag, csr_array

from stiffml.linear.sparse.compression import Coloured, Compressed, offered_jacobian
from stiffml.linear.sparse.patterns import known_pattern
from stiffml.linear.sparsity import Sparsity
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.pattern_detection import detect_sparsity

FROM_FIELD = "Assembled: for a field over several processes, source must come from field.rhs(local) too"


class NoPatternError(ValueError):
    """No sparse pattern could be found."""


class Structure:
    """Sparse Jacobians of functions of one state.

    Parameters
    ----------
    f : Dynamics
        The right-hand side, or its implicit part.
    s0, u0 : float, ndarray
        Where functions are tried: the initial time and state (size,).
    jacobian : str or Sparsity
        As the caller asked for it.
    """

    def __init__(self, f: Dynamics, s0: float, u0: np.ndarray, jacobian: str | Sparsity) -> None:
        self._f, self._s0, self._u0, self._jacobian = f, s0, u0, jacobian

    def detected(self, of: Dynamics, densest: float) -> Coloured | None:
        """The Jacobian of a function, if it has a pattern of which one product yields many rows.

        ``densest``: products that it may take, of those of a dense Jacobian.
        """

        def find() -> Coloured | None:
            pattern = detect_sparsity(lambda u: of.evaluate_anew(self._s0, u), self._u0, densest)
            return None if pattern is None else Coloured(pattern)

        def is_fair() -> bool:
            return bool(np.isfinite(of.evaluate_anew(self._s0, self._u0)).all())

        return known_pattern(of, (of.layout, densest, self._s0), find, is_fair)

    def of_right_hand_side(self) -> Coloured:
        """The Jacobian of f by the pattern that was asked for.

        Raises
        ------
        NoPatternError
            If it was to be found, and cannot.
        """
        if isinstance(self._jacobian, Sparsity):
            return self._given(self._jacobian)
        coloured = self.detected(self._f, 1.0)
        if coloured is None:
            raise NoPatternError(
                "jacobian='coloured': no sparse pattern was found by trying func with NaN in single "
                "components (it is nearly dense, or func does not let NaN pass). Try: "
                "jacobian=Sparsity(pattern), or 'matrix-free'"
            )
        return coloured

    def of_source(self, source: Dynamics, sparsity: Sparsity | None) -> Compressed:
        """The Jacobian of what a preconditioner is assembled from.

        Raises
        ------
        NoPatternError
            If its pattern cannot be found.
        ValueError
            For a state spread over processes, unless the source belongs to its field.
        """
        offered = offered_jacobian(source.func, source.layout.size)
        if offered is not None and sparsity is None:
            return offered()
        if self._f.space.is_distributed:
            raise ValueError(FROM_FIELD)
        if sparsity is not None:
            return self._given(sparsity)
        coloured = self.detected(source, 1.0)
        if coloured is None:
            raise NoPatternError(
                "Assembled: no sparse pattern of source was found by trying it with NaN in single "
                "components. Try: Assembled(…, sparsity=Sparsity(pattern))"
            )
        return coloured

    def _given(self, sparsity: Sparsity) -> Coloured:
        """The Jacobian over the whole flat state by a caller's pattern."""
        layout, pattern = self._f.layout, sparsity.pattern
        if pattern.shape[0] == layout.size:
            return _coloured(sparsity, 1)
        if pattern.shape[0] == layout.width:
            return _coloured(sparsity, layout.samples)
        raise ValueError(
            f"Sparsity: the pattern is {pattern.shape[0]} × {pattern.shape[0]}, but y0 has {layout.size} "
            "numbers" + (f" in {layout.samples} samples of {layout.width}" if layout.samples > 1 else "")
        )


@lru_cache(maxsize=16)
def _coloured(sparsity: Sparsity, samples: int) -> Coloured:
    pattern = sparsity.pattern
    return Coloured(pattern if samples == 1 else csr_array(block_diag([pattern] * samples)))
