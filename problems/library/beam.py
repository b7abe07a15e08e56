"""A beam, inextensible and clamped at one end, that a force bends and lets go."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.parameters import Parameter
from problems.problem import Problem
from problems.references import published

N = 40
"""Pieces of the beam."""


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """Angles z and their velocities z' of N pieces: z'' = C v + D u with C u = D v + z'².

    C and D, tridiagonal, hold −cos and −sin of the angles between neighbours.
    """
    z, w = y[..., :N], y[..., N:]
    force = p["force"] * torch.sin(t) ** 2 * (t <= math.pi)
    # Clamped at the left: z₀ = −z₁; free at the right: z_{N+1} = z_N.
    wide = torch.cat([-z[..., :1], z, z[..., -1:]], dim=-1)
    bend = wide[..., 2:] - 2 * z + wide[..., :-2]
    v = p["stiffness"] * N**4 * bend + N**2 * force * (torch.cos(z) + torch.sin(z))
    turn = z[..., :-1] - z[..., 1:]
    cosines, sines = torch.cos(turn), torch.sin(turn)
    zero = torch.zeros_like(z[..., :1])

    def product(v: Tensor, above: Tensor, below: Tensor) -> Tensor:
        """Of a matrix with entries −above at (l, l + 1) and −below at (l + 1, l)."""
        return -torch.cat([above * v[..., 1:], zero], -1) - torch.cat([zero, below * v[..., :-1]], -1)

    diagonal = torch.full_like(z, 2.0)
    diagonal[..., 0], diagonal[..., -1] = 1.0, 3.0
    slope = product(v, sines, -sines) + w**2
    u = torch.linalg.solve(_tridiagonal(diagonal, cosines), slope[..., None])[..., 0]
    bent = diagonal * v + product(v, cosines, cosines) + product(u, sines, -sines)
    return torch.cat([w, bent], dim=-1)


def _tridiagonal(diagonal: Tensor, cosines: Tensor) -> Tensor:
    beside = torch.diag_embed(-cosines, 1)
    return torch.diag_embed(diagonal) + beside + beside.mT


def problem() -> Problem:
    names = range(1, N + 1)
    return Problem(
        name="beam",
        title="A thin beam, clamped at one end and bent by a force on the other",
        rhs=rhs,
        equations="""\
z''  = C v + D u,  C u = D v + z'²        (z: angles of n = 40 pieces, z₀ = −z₁, z₄₁ = z₄₀)
v_l  = n⁴ (z_{l−1} − 2 z_l + z_{l+1}) + n² (cos z_l F_y − sin z_l F_x)
F_y  = −F_x = 1.5 sin²t for t ≤ π, then 0
C    = tridiagonal: −cos(z_l − z_{l±1}) beside 1, 2, …, 2, 3
D    = tridiagonal: −sin(z_l − z_{l±1}) beside 0""",
        y0=np.zeros(2 * N),
        t_span=(0.0, 5.0),
        parameters={
            "force": Parameter(1.5, "1", "largest force on the free end, along −x and y alike"),
            "stiffness": Parameter(1.0, "1", "bending stiffness"),
        },
        components=(*(f"z{n}" for n in names), *(f"w{n}" for n in names)),
        breakpoints=(math.pi,),
        scale=np.concatenate([np.linspace(0.05, 1.5, N), np.linspace(0.05, 3.0, N)]),
        references=(published("beam", rtol_valid=1e-9),),
        stiffness="eigenvalues up to ±6390i, undamped, which BDF of order 5 is unstable for and the solution "
        "hardly excites; those that matter begin at ±3.5i",
        citation="E. Hairer & G. Wanner, Solving Ordinary Differential Equations II, Springer (1996), "
        "section IV.1, eqs. 1.10 to 1.20, and IV.10; Test Set for Initial Value Problem Solvers (University "
        "of Bari), problem beam",
    )
