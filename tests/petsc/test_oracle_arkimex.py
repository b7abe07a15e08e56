"""Additive and diagonally implicit methods against PETSc's own discrete adjoint, on the same steps.

Both begin at t = 0: the slope that an explicit first stage of a problem without explicit part starts from,
PETSc takes at a time that it never set, which is 0 in a new TS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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

pytestmark = pytest.mark.skipif(
    PETSc.Sys.getVersion() < (3, 25, 0), reason="TSAdjoint of PETSc 3.24 has a segmentation fault for ARKIMEX"
)

SPLIT = (
    *("1bee", "ars122", "a2", "l2", "2c", "2d", "2e", "prssp2"),
    *("3", "ars443", "bpr3", "4", "5"),
)
# Explicit first stages and implicit ones, with the last stage as the new state and without.
WHOLE = ("arkimex-3", "arkimex-4", "arkimex-l2", "dirk-s212", "dirk-es324sal", "dirk-s659a")

P = np.array([10.0, 3.0, 4.0])  # μ only in the implicit part, a only in the explicit one, w in both

# Van der Pol's oscillator, its spring stiffened and its mass pushed periodically:
#   implicit  x' = 0, v' = μ((1 − x²)v − x) + cos(wt) x
#   explicit  x' = v, v' = a sin(wt + x)


@dataclass
class Part:
    """What PETSc asks of one part of the right-hand side, each a function of (t, y)."""

    slope: Callable
    jacobian: Callable
    jacobian_p: Callable

    def __add__(self, other: Part) -> Part:
        return Part(
            lambda t, y: self.slope(t, y) + other.slope(t, y),
            lambda t, y: self.jacobian(t, y) + other.jacobian(t, y),
            lambda t, y: self.jacobian_p(t, y) + other.jacobian_p(t, y),
        )


def _implicit_slope(t: float, y: np.ndarray) -> np.ndarray:
    (x, v), (mu, _, w) = y, P
    return np.array([0, mu * ((1 - x**2) * v - x) + np.cos(w * t) * x])


def _implicit_jacobian(t: float, y: np.ndarray) -> np.ndarray:
    (x, v), (mu, _, w) = y, P
    return np.array([[0, 0], [-mu * (2 * x * v + 1) + np.cos(w * t), mu * (1 - x**2)]])


def _implicit_jacobian_p(t: float, y: np.ndarray) -> np.ndarray:
    (x, v), w = y, P[2]
    return np.array([[0, 0, 0], [(1 - x**2) * v - x, 0, -t * np.sin(w * t) * x]])


def _explicit_slope(t: float, y: np.ndarray) -> np.ndarray:
    (x, v), (_, a, w) = y, P
    return np.array([v, a * np.sin(w * t + x)])


def _explicit_jacobian(t: float, y: np.ndarray) -> np.ndarray:
    x, (_, a, w) = y[0], P
    return np.array([[0, 1], [a * np.cos(w * t + x), 0]])


def _explicit_jacobian_p(t: float, y: np.ndarray) -> np.ndarray:
    x, (_, a, w) = y[0], P
    return np.array([[0, 0, 0], [0, np.sin(w * t + x), a * t * np.cos(w * t + x)]])


IMPLICIT = Part(_implicit_slope, _implicit_jacobian, _implicit_jacobian_p)
EXPLICIT = Part(_explicit_slope, _explicit_jacobian, _explicit_jacobian_p)


def by_stiffml(method: str, split: bool) -> Gradients:
    y0 = torch.tensor(Y0, requires_grad=True)
    mu, a, w = p = [torch.tensor(value, requires_grad=True) for value in P]

    def implicit(t: Tensor, y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack([0 * v, mu * ((1 - x**2) * v - x) + torch.cos(w * t) * x], dim=-1)

    def explicit(t: Tensor, y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack([v, a * torch.sin(w * t + x)], dim=-1)

    def whole(t: Tensor, y: Tensor) -> Tensor:
        return implicit(t, y) + explicit(t, y)

    solution = stiffml.solve(
        stiffml.Split(implicit, explicit) if split else whole,
        y0,
        times(0, END),
        method=method,
        steps=stiffml.Fixed(H),
        newton=stiffml.Newton(rtol=1e-13, atol=1e-16),
        params=p,
    )
    assert solution.stats.accepted == STEPS
    final = solution.y[-1]
    wrt_y0, *wrt_p = torch.autograd.grad(final @ torch.from_numpy(C), [y0, *p])
    return Gradients(final.detach().numpy(), wrt_y0.numpy(), torch.stack(wrt_p).numpy())


def set_implicit(ts: PETSc.TS, part: Part) -> None:
    """F = y' − part, solved to rounding by Newton's method with a direct solver."""
    n = Y0.size
    ts.setIFunction(lambda ts, t, u, udot, f: f.setArray(udot.array_r - part.slope(t, u.array_r)), vector(Y0))
    ts.setIJacobian(
        lambda ts, t, u, udot, shift, mat, pmat: fill(mat, shift * np.eye(n) - part.jacobian(t, u.array_r)),
        matrix(n),
    )
    ts.setIJacobianP(
        lambda ts, t, u, udot, shift, mat: fill(mat, -part.jacobian_p(t, u.array_r)), matrix(P.size)
    )
    snes = ts.getSNES()
    snes.setTolerances(rtol=0, atol=NEWTON_RESIDUAL, stol=0, max_it=20)
    snes.getKSP().setType(PETSc.KSP.Type.PREONLY)
    snes.getKSP().getPC().setType(PETSc.PC.Type.LU)


def set_explicit(ts: PETSc.TS, part: Part) -> None:
    """With matrices of its own: PETSc's adjoint needs both parts' Jacobians at the same time."""
    ts.setRHSFunction(lambda ts, t, u, f: f.setArray(part.slope(t, u.array_r)), vector(Y0))
    ts.setRHSJacobian(lambda ts, t, u, mat, pmat: fill(mat, part.jacobian(t, u.array_r)), matrix(Y0.size))
    ts.setRHSJacobianP(lambda ts, t, u, mat: fill(mat, part.jacobian_p(t, u.array_r)), matrix(P.size))


def configure(ts: PETSc.TS, method: str, split: bool) -> None:
    family, name = method.split("-")
    ts.setType(family)
    if family == "dirk":
        ts.setDIRKType(name)
        # The adjoint multiplies the explicit part's Jacobian with sums weighted by an explicit tableau that
        # PETSc never set. A zero times these is not zero where they are not finite; no entry at all is.
        empty = PETSc.Mat().createAIJ((Y0.size, Y0.size), nnz=0, comm=PETSc.COMM_SELF)
        empty.assemble()
        ts.setRHSJacobian(lambda ts, t, u, mat, pmat: None, empty)
    else:
        ts.setARKIMEXType(name)
    if split:
        set_implicit(ts, IMPLICIT)
        set_explicit(ts, EXPLICIT)
    else:
        set_implicit(ts, IMPLICIT + EXPLICIT)


def by_petsc(method: str, split: bool, prefix: str) -> Gradients:
    ts = PETSc.TS().create(comm=PETSc.COMM_SELF)
    try:
        ts.setOptionsPrefix(prefix)
        configure(ts, method, split)
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


def check(method: str, split: bool, prefix: str) -> None:
    ours, theirs = by_stiffml(method, split), by_petsc(method, split, prefix)
    form = "split into two parts" if split else "implicit as a whole"
    for name, a, b in zip(Gradients._fields, ours, theirs, strict=True):
        off = np.linalg.norm(a - b) / np.linalg.norm(b)
        bound, look_at = AGREEMENT, "stiffml/methods/runge_kutta_rows.py, then at stiffml/gradients/sweep.py"
        if name == "final":
            bound, look_at = SAME_STATE, "the steps themselves: stiffml/petsc/stepper.py, or the tableau"
        assert off <= bound, (
            f"{method}, {form}: {name} is {a}, PETSc's is {b}: {off:.1e} apart, more than {bound}; "
            f"look at {look_at}"
        )


@pytest.mark.parametrize("name", SPLIT)
def test_split_gradients_are_those_of_tsadjoint(name: str, prefix: str) -> None:
    check(f"arkimex-{name}", split=True, prefix=prefix)


@pytest.mark.skipif(
    PETSc.Sys.getVersion() < (3, 26, 0),
    reason="TSAdjoint of PETSc 3.25 has a segmentation fault where there is no explicit part",
)
@pytest.mark.parametrize("method", WHOLE)
def test_whole_gradients_are_those_of_tsadjoint(method: str, prefix: str) -> None:
    check(method, split=False, prefix=prefix)
