"""The equations of many steps, linearised and factorised: for Newton's updates, and for the reverse sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stiffml.all_at_once.matrix import Jacobians, matrix_of
from stiffml.all_at_once.structure import Structure
from stiffml.all_at_once.triangular import Triangular, factorise
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.system import System


@dataclass(frozen=True)
class Factored:
    """∂R/∂x of the equations R = 0 of a structure.

    Attributes
    ----------
    structure : Structure
    f, g : Jacobians
        Those of f and g; g is None if the problem is not split.
    factors : Triangular
        Of the matrix with respect to the unknowns.
    outside : ndarray
        (entries, samples, width, width) the blocks with respect to the given states, of those entries of the
        topology.
    """

    structure: Structure
    f: Jacobians
    g: Jacobians | None
    factors: Triangular
    outside: np.ndarray

    @classmethod
    def of(
        cls,
        structure: Structure,
        system: System,
        f: Jacobians,
        g: Jacobians | None,
        curvatures: Sequence[Curvature | None],
        columns: int = 1,
    ) -> Factored:
        """``curvatures``: for each block those of its Rosenbrock brackets; None for other methods.

        ``columns`` is the number of right-hand sides that are to be solved for.
        """
        matrix = matrix_of(structure, system, f, g, curvatures)
        return cls(structure, f, g, factorise(matrix, structure.topology, columns), matrix.outside)
