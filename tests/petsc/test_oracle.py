"""stiffml's gradients against those of PETSc's own discrete adjoint, TSAdjoint, on the same steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_problems import times
from torch import Tensor
from tsadjoint import (
    AGREEMENT,
    END,
    NEWTON_RESIDUAL,
    SAME_STATE,
    STEPS,
    Y0,
    C,
    Gradients,
    H,
    fill,
    matrix,
    vector,
)

import stiffml  # before petsc4py: it initialises PETSc

# isort: split
from petsc4py import PETSc

P = np.array([10.0, 3.0, 4.0])  # stiffness μ, amplitude a and frequency w of the forcing

EXPLICIT = {"euler": "1fe", "midpoint": "2b", "bosh3": "3bs", "rk4": "4", "dopri5": "5dp"} | {
    "bosh5": "5bs",
    "verner6": "6vr",
    "verner7": "7vr",
    "verner8": "8vr",
}
IMPLICIT = ("theta", "beuler", "cn")  # PETSc has the same names
THETA = 0.55


# Van der Pol's oscillator with a periodic force: x' = v, v' = μ((1 − x²)v − x) + a sin(wt).


def rhs(t: float, y: np.ndarray) -> np.ndarray:
    (x, v), (mu, a, w) = y, P
    return np.array([v, mu * ((1 - x**2) * v - x) + a * np.sin(w * t)])


def jacobian(y: np.ndarray) -> np.ndarray:
    (x, v), mu = y, P[0]
    return np.array([[0, 1], [mu * (-2 * x * v - 1), mu * (1 - x**2)]])


def jacobian_p(t: float, y: np.ndarray) -> np.ndarray:
    (x, v), (_, a, w) = y, P
    return np.array([[0, 0, 0], [(1 - x**2) * v - x, np.sin(w * t), a * t * np.cos(w * t)]])


def by_stiffml(method: str) -> Gradients:
    y0, p = torch.tensor(Y0, requires_grad=True), torch.tensor(P, requires_grad=True)

    def func(t: Tensor, y: Tensor) -> Tensor:
        (x, v), (mu, a, w) = y.unbind(-1), p
        return torch.stack([v, mu * ((1 - x**2) * v - x) + a * torch.sin(w * t)], dim=-1)

    solution = stiffml.solve(
        func,
        y0,
        times(0, END),
        method=stiffml.Theta(THETA) if method == "theta" else method,
        steps=stiffml.Fixed(H),
        newton=stiffml.Newton(rtol=1e-13, atol=1e-16) if method in IMPLICIT else None,
        params=[p],
    )
    assert solution.stats.accepted == STEPS
    final = solution.y[-1]
    wrt_y0, wrt_p = torch.autograd.grad(final @ torch.from_numpy(C), [y0, p])
    return Gradients(final.detach().numpy(), wrt_y0.numpy(), wrt_p.numpy())


def set_explicit(ts: PETSc.TS, method: str) -> None:
    """y' = f as a right-hand side."""
    ts.setType(PETSc.TS.Type.RK)
    ts.setRKType(EXPLICIT[method])
    ts.setRHSFunction(lambda ts, t, u, f: f.setArray(rhs(t, u.array_r)), vector(Y0))
    ts.setRHSJacobian(lambda ts, t, u, mat, pmat: fill(mat, jacobian(u.array_r)), matrix(Y0.size))
    ts.setRHSJacobianP(lambda ts, t, u, mat: fill(mat, jacobian_p(t, u.array_r)), matrix(P.size))


def set_implicit(ts: PETSc.TS, method: str) -> None:
    """y' = f as F = y' − f = 0, solved to rounding by Newton's method with a direct solver."""
    ts.setType(method)
    if method == "theta":
        ts.setTheta(THETA)
        ts.setThetaEndpoint(True)
    ts.setIFunction(lambda ts, t, u, udot, f: f.setArray(udot.array_r - rhs(t, u.array_r)), vector(Y0))
    ts.setIJacobian(
        lambda ts, t, u, udot, shift, mat, pmat: fill(mat, shift * np.eye(Y0.size) - jacobian(u.array_r)),
        matrix(Y0.size),
    )
    ts.setIJacobianP(lambda ts, t, u, udot, shift, mat: fill(mat, -jacobian_p(t, u.array_r)), matrix(P.size))
    snes = ts.getSNES()
    snes.setTolerances(rtol=0, atol=NEWTON_RESIDUAL, stol=0, max_it=20)
    snes.getKSP().setType(PETSc.KSP.Type.PREONLY)
    snes.getKSP().getPC().setType(PETSc.PC.Type.LU)


def by_petsc(method: str, prefix: str) -> Gradients:
    ts = PETSc.TS().create(comm=PETSc.COMM_SELF)
    try:
        ts.setOptionsPrefix(prefix)
        configure = set_explicit if method in EXPLICIT else set_implicit
        configure(ts, method)
        ts.setTimeStep(H)
        ts.setMaxTime(END)
        ts.setExactFinalTime(PETSc.TS.ExactFinalTime.MATCHSTEP)
        ts.setSaveTrajectory()  # before setFromOptions, which reads its type
        ts.setFromOptions()
        u, wrt_y0, wrt_p = vector(Y0), vector(C), vector(np.zeros(P.size))
        ts.solve(u)
        assert ts.getConvergedReason() == PETSc.TS.ConvergedReason.CONVERGED_TIME
        assert (ts.getStepNumber(), ts.getTime(), ts.getSNESFailures()) == (STEPS, END, 0)
        final = u.array_r.copy()
        ts.setCostGradients([wrt_y0], [wrt_p])
        ts.adjointSolve()
        return Gradients(final, wrt_y0.array_r.copy(), wrt_p.array_r.copy())
    finally:
        ts.destroy()


@pytest.mark.parametrize("method", [*EXPLICIT, *IMPLICIT])
def test_gradients_are_those_of_tsadjoint(method: str, prefix: str) -> None:
    ours, theirs = by_stiffml(method), by_petsc(method, prefix)
    sweep = "RungeKutta.sweep" if method in EXPLICIT else "Theta.sweep"
    for name, a, b in zip(Gradients._fields, ours, theirs, strict=True):
        off = np.linalg.norm(a - b) / np.linalg.norm(b)
        bound, look_at = (SAME_STATE, "the steps themselves") if name == "final" else (AGREEMENT, sweep)
        assert off <= bound, (
            f"{method}: {name} is {a}, PETSc's is {b}: {off:.1e} apart, more than {bound}; look at {look_at}"
        )
