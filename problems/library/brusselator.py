"""The Brusselator with diffusion in two dimensions, and a source that is switched on."""

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

SIZE = 32
SWITCH = 1.1


def diffusion(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """α Δ of both species, five points; linear."""
    return p["alpha"] * y.shape[-1] ** 2 * laplacian(y)


def reaction(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    u, v = y[..., :1, :, :], y[..., 1:, :, :]
    made = u * u * v
    source = p["source"] * _disc(y.shape[-1]) * (t >= SWITCH)
    return torch.cat([1 + made - (p["B"] + 1) * u + source, p["B"] * u - made], dim=-3)


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    return diffusion(t, y, p) + reaction(t, y, p)


def _disc(size: int) -> Tensor:
    """1 inside the disc of radius 0.1 around (0.3, 0.6), 0 outside; (1, size, size)."""
    x = torch.arange(size, dtype=torch.float64) / size
    return (((x[:, None] - 0.3) ** 2 + (x - 0.6) ** 2) <= 0.01).double()[None]


def problem(size: int = SIZE) -> Problem:
    x = np.arange(size) / size
    bump = x * (1 - x) ** 1.5
    return Problem(
        name="brusselator",
        title="The Brusselator with diffusion in two dimensions, periodic",
        rhs=rhs,
        parts=Parts(diffusion, reaction, linear=True),
        equations="""\
u_t = 1 + u² v − (B + 1) u + α Δu + s(x, y, t)
v_t = B u − u² v + α Δv                            on [0, 1)², periodic
s = source where (x − 0.3)² + (y − 0.6)² ≤ 0.1² and t ≥ 1.1, else 0
u(x, y, 0) = 22 y (1 − y)^1.5,   v(x, y, 0) = 27 x (1 − x)^1.5""",
        kind="pde",
        y0=np.stack(
            [np.broadcast_to(22 * bump, (size, size)), np.broadcast_to(27 * bump[:, None], (size, size))]
        ),
        t_span=(0.0, 11.5),
        parameters={
            "alpha": Parameter(0.1, "1", "diffusion"),
            "B": Parameter(3.4, "1", "supply of the second reactant"),
            "source": Parameter(5.0, "1", "strength of the source"),
        },
        components=("u", "v"),
        grid={"x": x, "y": x},
        scale=np.array([1.0, 1.0]),
        breakpoints=(SWITCH,),
        resized=problem,
        sparsity=lambda: reaction_diffusion_sparsity((2, size, size)),
        references=shipped("brusselator") if size == SIZE else (),
        stiffness=f"diffusion: eigenvalues down to -8 α n² = {-0.8 * size**2:.4g} with n = {size} points "
        "along an axis, while the reaction oscillates in times of order 1",
        citation="E. Hairer & G. Wanner, Solving Ordinary Differential Equations II, Springer (1996), "
        "section IV.10, eqs. 10.14 and 10.15",
    )
