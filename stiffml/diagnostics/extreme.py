"""A few extreme eigenvalues of a large Jacobian, by Arnoldi's iteration on products with it."""

from __future__ import annotations

import numpy as np
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigs, splu

from stiffml.diagnostics.states import States
from stiffml.system.derivatives.linearization import Products

TOLERANCE = 1e-3


def extreme_modes(states: States, k: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` eigenvalues of largest magnitude at state ``k``, to three digits, and their vectors.

    Returns
    -------
    values : ndarray
        (count,) complex, the fastest decay first.
    right : ndarray
        (size, count) complex.

    Raises
    ------
    RuntimeError
        If the iteration does not converge.
    """
    system, u = states.system, states.u[k : k + 1]
    size, s = u.shape[1], states.s[k : k + 1]
    products = [Products(part, s, u) for part in system.parts]
    # Infinite eigenvalues were refused before: M is regular.
    invert = None if system.mass is None else splu(system.mass.sparse().tocsc()).solve

    def apply(v: np.ndarray) -> np.ndarray:
        v = np.ascontiguousarray(v.real).reshape(-1)
        product = products[0].apply(0, v)
        for part in products[1:]:
            product = product + part.apply(0, v)
        return product if invert is None else invert(product)

    start = np.random.default_rng(0).standard_normal(size)
    operator = LinearOperator((size, size), matvec=apply, dtype=float)
    with states.piece.tape.at_work():
        try:
            values, right = eigs(operator, k=count, which="LM", v0=start, tol=TOLERANCE)
        except (ArpackNoConvergence, ArpackError) as error:
            raise RuntimeError(
                f"stiffness: Arnoldi's iteration for {count} of {size} eigenvalues at t = {states.t[k]:.6g} "
                "did not converge; try another count"
            ) from error
    order = np.lexsort((values.imag, values.real))
    return values[order], right[:, order]
