"""Gray and Scott's reaction with diffusion in two dimensions: spots that grow and divide."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.function import Parts
from problems.library.shipped import shipped
from problems.parameters import Parameter
from problems.problem import Problem
from problems.stencils import laplacian, reaction_diffusion_sparsity

SIZE = 64
LENGTH = 2.5


def diffusion(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """Each species at its own rate, five points; linear."""
    rates = torch.stack([p["Du"], p["Dv"]])[:, None, None]
    return rates * (y.shape[-1] / LENGTH) ** 2 * laplacian(y)


def reaction(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    u, v = y[..., 0, :, :], y[..., 1, :, :]
    made = u * v * v
    return torch.stack([p["gamma"] * (1 - u) - made, made - (p["gamma"] + p["kappa"]) * v], dim=-3)


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    return diffusion(t, y, p) + reaction(t, y, p)


def problem(size: int = SIZE) -> Problem:
    x = LENGTH * np.arange(size) / size
    inside = (x >= 1) & (x <= 1.5)
    wave = np.where(inside, np.sin(4 * np.pi * x) ** 2, 0)
    v = 0.25 * wave[:, None] * wave
    return Problem(
        name="gray_scott",
        title="Gray and Scott's reaction with diffusion in two dimensions, periodic",
        rhs=rhs,
        parts=Parts(diffusion, reaction, linear=True),
        equations="""\
u_t = Du Δu − u v² + γ (1 − u)
v_t = Dv Δv + u v² − (γ + κ) v                     on [0, 2.5)², periodic
v(x, y, 0) = ¼ sin²(4πx) sin²(4πy) where 1 ≤ x, y ≤ 1.5, else 0;   u(x, y, 0) = 1 − 2 v(x, y, 0)""",
        kind="pde",
        y0=np.stack([1 - 2 * v, v]),
        t_span=(0.0, 2000.0),
        parameters={
            "Du": Parameter(8e-5, "1", "diffusion of u"),
            "Dv": Parameter(4e-5, "1", "diffusion of v"),
            "gamma": Parameter(0.024, "1", "supply of u, removal of v"),
            "kappa": Parameter(0.06, "1", "conversion of v"),
        },
        components=("u", "v"),
        grid={"x": x, "y": x},
        bounds=(0.0, 1.0),
        scale=np.array([1.0, 0.3]),
        resized=problem,
        sparsity=lambda: reaction_diffusion_sparsity((2, size, size)),
        references=shipped("gray_scott") if size == SIZE else (),
        stiffness=f"mild at {size} points along an axis, where diffusion reaches -8 Du (n/2.5)² = "
        f"{-8 * 8e-5 * (size / LENGTH) ** 2:.2g}; it grows with n²; the pattern moves in times of order 100",
        citation="J. E. Pearson, Complex patterns in a simple system, Science 261 (1993) 189-192; W. "
        "Hundsdorfer & J. G. Verwer, Numerical Solution of Time-Dependent Advection-Diffusion-Reaction "
        "Equations, Springer (2003), p. 21; set-up of "
        "PETSc's example ts/tutorials/advection-diffusion-reaction/ex5",
    )
