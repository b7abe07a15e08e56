"""Ways of solving linear systems that the tests try: solvers, preconditioners, kinds of Jacobians."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from fields import Brusselator, Diffusion, Function, Own, jacobian_of, waves
from scipy.sparse import csr_array

from stiffml import GMRES, LU, Assembled, Krylov, PointBlock, Sparsity


@torch.no_grad()
def pattern() -> Sparsity:
    """Of the Brusselator: what becomes NaN with each component.

    Not by autograd, which could serve no device that is registered after its first use.
    """
    func, time, columns = Brusselator(), torch.zeros((), dtype=torch.float64), []
    for j in range(waves().numel()):
        y = waves().flatten()
        y[j] = math.nan
        columns.append(func(time, y.view_as(waves())).isnan().flatten())
    return Sparsity(torch.stack(columns, dim=1))


SOLVERS: dict[str, dict[str, Any]] = {
    "gmres": {"linear": GMRES()},
    "gmres ilu": {"linear": GMRES(Assembled())},
    "gmres blocks": {"linear": GMRES(PointBlock())},
    "gmres own": {"linear": GMRES(Own(Brusselator()))},
    "coloured lu": {"jacobian": "coloured"},
}

PRECONDITIONERS: dict[str, Callable[[Function, Diffusion], Any]] = {
    "none": lambda func, diffusion: None,
    "ilu": lambda func, diffusion: Assembled(diffusion),
    "gamg": lambda func, diffusion: Assembled(diffusion, "gamg"),
    "lu": lambda func, diffusion: Assembled(diffusion, "lu"),
    "jacobi": lambda func, diffusion: Assembled(diffusion, "jacobi"),
    "the jacobian": lambda func, diffusion: Assembled(),
    "a matrix": lambda func, diffusion: Assembled(csr_array(jacobian_of(diffusion, waves()).numpy())),
    "blocks": lambda func, diffusion: PointBlock(),
    "own": lambda func, diffusion: Own(func),
}
"""By name, made for a right-hand side (its implicit part) and the diffusion in it."""

SOLVERS_OF_BATCHES: dict[str, dict[str, Any]] = SOLVERS | {
    "gmres diffusion": {"linear": GMRES(Assembled(Brusselator().diffusion))},
    "gmres blocks": {"linear": GMRES(PointBlock(axis=-3))},
    "gmres coloured": {"linear": GMRES(Assembled()), "jacobian": "coloured"},
    "gmres own": {"linear": GMRES(Own(Brusselator()))},
    "sparsity": {"jacobian": pattern()},
}

JACOBIANS: dict[str, dict[str, Any]] = {
    "dense": {},
    "coloured": {"jacobian": "coloured"},
    "products": {"linear": GMRES()},
}
"""Ways to the Jacobian of a small system."""

_SPARSE = ["auto", LU(), GMRES(Assembled()), Krylov("bcgs", PointBlock())]
_MATRIX_FREE = ["auto", GMRES(PointBlock(), restart=5), Krylov("bcgs", Assembled())]
JACOBIANS_AND_SOLVERS = [
    *[("coloured", linear) for linear in _SPARSE],
    *[(pattern(), linear) for linear in _SPARSE],
    *[("matrix-free", linear) for linear in _MATRIX_FREE],
    ("auto", Krylov("tfqmr")),
    ("dense", LU()),
]
