"""Eigenvalues of a problem's Jacobian: what makes it stiff."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from problems.definition import Definition
from problems.function import ProblemFunction

DENSE = 600
NARROW = 8
COUNT = 6
TOLERANCE = 1e-3


def jacobian(problem: Definition, t: float, y: np.ndarray) -> np.ndarray:
    """∂rhs/∂y (n, n) over the flat state."""
    state = torch.tensor(y, dtype=torch.float64)
    return flat_jacobian(problem.func(), torch.tensor(t, dtype=torch.float64), state)


def flat_jacobian(func: ProblemFunction, t: Tensor, y: Tensor) -> np.ndarray:
    """∂func/∂y (n, n) at a state y of any shape with n unknowns."""
    if y.numel() <= NARROW:  # row by row, which is faster than a batch of so few
        with torch.enable_grad():
            leaf = y.detach().reshape(-1).requires_grad_()
            value = func(t, leaf.reshape(y.shape)).reshape(-1)
            if not value.requires_grad:  # it does not depend on y
                return np.zeros((value.numel(), y.numel()))
            rows = [
                torch.autograd.grad(component, leaf, retain_graph=True, materialize_grads=True)[0]
                for component in value
            ]
        return torch.stack(rows).numpy()
    derivative = torch.func.jacrev(lambda flat: func(t, flat.reshape(y.shape)).reshape(-1))
    return derivative(y.reshape(-1)).detach().numpy()


def eigenvalues(problem: Definition, t: float, y: np.ndarray) -> np.ndarray:
    """Eigenvalues at (t, y), in units of 1/``time_units``, by rising real part.

    Up to 600 unknowns all of them; beyond that the 6 of largest magnitude, to three digits. With a mass
    matrix M they solve det(J − λM) = 0, and infinite ones are left out.
    """
    find = _largest if problem.size > DENSE and problem.mass is None else _all
    values = find(problem, t, y)
    return values[np.argsort(values.real)]


def _all(problem: Definition, t: float, y: np.ndarray) -> np.ndarray:
    import scipy.linalg

    J = jacobian(problem, t, y)
    if problem.mass is None:
        return np.linalg.eigvals(J)
    mass = np.diag(problem.mass) if problem.mass.ndim == 1 else problem.mass
    above, below = scipy.linalg.eigvals(J, mass, homogeneous_eigvals=True)
    finite = np.abs(below) > 1e-12 * np.abs(above)
    return above[finite] / below[finite]


def _largest(problem: Definition, t: float, y: np.ndarray) -> np.ndarray:
    """By Arnoldi's iteration on Jᵀ, which has the eigenvalues of J and cheaper products."""
    from scipy.sparse.linalg import LinearOperator, eigs

    n = problem.size
    time = torch.tensor(t, dtype=torch.float64)
    state = torch.tensor(y, dtype=torch.float64, requires_grad=True)
    value = problem.func()(time, state)

    def apply(v: np.ndarray) -> np.ndarray:
        cotangent = torch.from_numpy(np.ascontiguousarray(v.real).reshape(value.shape))
        (product,) = torch.autograd.grad(value, state, cotangent, retain_graph=True)
        return product.reshape(-1).numpy()

    start = np.random.default_rng(0).standard_normal(n)
    operator = LinearOperator((n, n), matvec=apply, dtype=float)
    return eigs(operator, k=COUNT, which="LM", v0=start, tol=TOLERANCE, return_eigenvectors=False)


def stiffness(problem: Definition) -> float:
    """The fastest decay at the initial state and the references, times the span: a pure number."""
    states = [(problem.t_span[0], problem.y0), *((r.t, r.y) for r in problem.references)]
    fastest = max(-float(eigenvalues(problem, t, y).real.min()) for t, y in states)
    return fastest * abs(problem.t_span[1] - problem.t_span[0])
