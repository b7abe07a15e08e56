"""The rows of a Runge-Kutta step from its tableau: explicit, diagonally implicit or additive."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.dense_output import Dense
from stiffml.discretization.equations import Numbers, Pattern, Scheme
from stiffml.methods.base import stage_times
from stiffml.methods.tableaux import Butcher, Interpolation


def stage_scheme(f: Butcher, g: Butcher | None = None, mass: bool = False) -> Scheme:
    """The scheme M(Yᵢ − u₀) = h Σ aᵢⱼ f(Yⱼ) + h Σ âᵢⱼ g(Yⱼ), u₁ = u₀ + h Σ (bᵢ f(Yᵢ) + b̂ᵢ g(Yᵢ)).

    An explicit first stage is u₀ and has no row. The last stage of a stiffly accurate tableau is u₁. Any
    other u₁ is a combination of slopes. A mass matrix may be singular, so the slopes M⁻¹f(Yᵢ) are not
    available then. They are replaced by combinations of stages: u₁ = u₀ + Σᵢ (bA⁻¹)ᵢ (Yᵢ − u₀).

    Parameters
    ----------
    f, g : Butcher
        The tableaux of both parts; g only for an additive method.
    mass : bool
        Whether there is a mass matrix; not possible with g. Default False.
    """
    count = f.stages
    first_is_old, last_is_new = _shared(f, g)
    columns = list(range(count)) if first_is_old else list(range(1, count + 1))
    total = columns[-1] + 1 if last_is_new else columns[-1] + 2
    rows = total - 1
    solved = [i for i in range(count) if columns[i] > 0]

    alpha = np.zeros((rows, total))
    beta, epsilon = np.zeros((rows, total)), np.zeros((rows, total))
    weighted = np.ones(rows, dtype=bool)
    for i in solved:
        alpha[columns[i] - 1, [0, columns[i]]] = -1, 1
        beta[columns[i] - 1, columns] = f.a[i]
        if g is not None:
            epsilon[columns[i] - 1, columns] = g.a[i]
    if not last_is_new:
        alpha[-1, [0, -1]] = -1, 1
        if mass:
            implied = np.linalg.solve(f.a.T, f.b)
            weighted[-1] = False
            alpha[-1, columns] -= implied
            alpha[-1, 0] += implied.sum()
        else:
            beta[-1, columns] = f.b
            if g is not None:
                epsilon[-1, columns] = g.b
    c_f, c_g = np.zeros(total), np.zeros(total)
    c_f[columns] = f.c
    c_g[columns] = f.c if g is None else g.c
    pattern = Pattern(1, alpha, beta, epsilon, weighted)
    constants = [torch.from_numpy(values) for values in (alpha, beta, epsilon)]
    times_of_f, times_of_g = stage_times(c_f), stage_times(c_g)

    def numbers(times: Tensor) -> Numbers:
        alpha, beta, epsilon = constants
        begin, end = times[:, :1], times[:, 1:]
        size = (end - begin)[:, :, None]
        fixed = alpha.expand(len(times), rows, total)
        s_f, s_g = times_of_f(begin, end), times_of_g(begin, end)
        return Numbers(fixed, size * beta, size * epsilon, s_f, s_g, fixed[:, :, 0] * 0)

    return Scheme(pattern, numbers)


def stage_interpolant(
    f: Butcher, g: Butcher | None, mass: bool, weights: Interpolation | None
) -> Dense | None:
    """The interpolant u₀ + h Σ Bᵢ(θ) f(Yᵢ) + h Σ B̂ᵢ(θ) g(Yᵢ) with PETSc's weights, or None.

    Slopes of implicit stages are computed from the stages, as in :func:`stage_combination`. It is None
    if the weights do not give the new state at θ = 1, or if a mass matrix makes slopes unavailable.
    """
    if weights is None:
        return None
    of_f = weights.explicit if weights.implicit is None else weights.implicit
    of_g = weights.explicit
    assert of_f is not None
    if not np.allclose(of_f.sum(axis=1), f.b, rtol=0, atol=1e-9):
        return None
    return stage_combination(f, g, mass, of_f, of_g)


def stage_combination(
    f: Butcher, g: Butcher | None, mass: bool, of_f: np.ndarray, of_g: np.ndarray | None
) -> Dense | None:
    """The output u₀ + h Σ Bᵢ(θ) f(Yᵢ) + h Σ B̂ᵢ(θ) g(Yᵢ) as a row of the step, or None.

    ``of_f`` and ``of_g`` (stages, p) are the weights of θ, …, θᵖ in B and B̂. Slopes of implicit stages are
    computed from the stages by solving the stage equations for them. Evaluating f instead would multiply the
    error that Newton's iteration leaves by a stiff eigenvalue. It is None if a slope of another stage is
    needed and there is a mass matrix, since M⁻¹f may not exist.
    """
    pattern = stage_scheme(f, g, mass).pattern
    first_is_old, _ = _shared(f, g)
    columns = np.arange(f.stages) + (0 if first_is_old else 1)
    alpha, beta, epsilon = (np.zeros((of_f.shape[1], pattern.columns)) for _ in range(3))
    solved = np.flatnonzero(np.diag(f.a))
    others = np.flatnonzero(np.diag(f.a) == 0)
    # The stage equations solved for the slopes F of the solved stages, restricted to the rows of these:
    # h F_solved = A⁻¹ (Y − u₀ − h A_others F_others − h Â G).
    implied = of_f[solved].T @ np.linalg.inv(f.a[np.ix_(solved, solved)]) if len(solved) else np.empty((0, 0))
    beta[:, columns[others]] = of_f[others].T
    if len(solved):
        alpha[:, columns[solved]] = -implied
        alpha[:, 0] += implied.sum(axis=1)
        beta[:, columns[others]] -= implied @ f.a[np.ix_(solved, others)]
    if g is not None:
        assert of_g is not None
        epsilon[:, columns] = of_g.T
        if len(solved):
            epsilon[:, columns] -= implied @ g.a[solved]
    return None if mass and beta.any() else Dense(alpha, beta, epsilon)


def stage_embedded(f: Butcher, g: Butcher | None, mass: bool, weights: np.ndarray | None) -> Dense | None:
    """The embedded solution u₀ + h Σ b̂ᵢ (f(Yᵢ) + g(Yᵢ)) with weights b̂ (stages,), or None.

    Slopes are computed as in :func:`stage_combination`. Some embedded solutions do not depend on the slope
    of an explicit first stage but for rounding, and then exist with a mass matrix too.
    """
    if weights is None:
        return None
    found = stage_combination(f, g, False, weights[:, None], None if g is None else weights[:, None])
    assert found is not None
    beta = np.where(np.abs(found.beta) < 1e-14, 0.0, found.beta)
    return None if mass and beta.any() else Dense(found.alpha, beta, found.epsilon)


def kept_stages(f: Butcher, g: Butcher | None = None) -> range:
    """The stages that are neither the old nor the new state."""
    first_is_old, last_is_new = _shared(f, g)
    return range(int(first_is_old), f.stages - int(last_is_new))


def _shared(f: Butcher, g: Butcher | None) -> tuple[bool, bool]:
    """Whether the first stage is the old state, and whether the last stage is the new state."""
    first = f.explicit_first_stage and f.c[0] == 0 and (g is None or g.c[0] == 0)
    return first, f.stiffly_accurate and (g is None or g.stiffly_accurate)
