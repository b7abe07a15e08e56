"""A ring of FitzHugh and Nagumo's excitable cells, around which a pulse runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.function import Parts
from problems.library.shipped import shipped
from problems.parameters import Parameter
from problems.problem import Problem
from problems.stencils import second_difference, star, stencil_sparsity

SIZE = 128
LENGTH = 100.0
REST = (-1.1994080352440, -0.6242600440550)
"""v − v³/3 = w and v + a = b w."""


def diffusion(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """D v_xx along the ring; w does not diffuse. Linear."""
    v = y[..., 0, :]
    spread = p["D"] * (y.shape[-1] / LENGTH) ** 2 * second_difference(v, -1)
    return torch.stack([spread, torch.zeros_like(v)], dim=-2)


def excitation(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    v, w = y[..., 0, :], y[..., 1, :]
    return torch.stack([v - v**3 / 3 - w, p["phi"] * (v + p["a"] - p["b"] * w)], dim=-2)


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    return diffusion(t, y, p) + excitation(t, y, p)


def problem(size: int = SIZE) -> Problem:
    x = LENGTH * np.arange(size) / size
    excited = np.exp(-(((x - 30) / 5) ** 2))
    tired = np.exp(-(((x - 18) / 7) ** 2))
    shape = (2, size)
    return Problem(
        name="fitzhugh_nagumo",
        title="A pulse around a ring of FitzHugh and Nagumo's cells",
        rhs=rhs,
        parts=Parts(diffusion, excitation, linear=True),
        equations="""\
v_t = D v_xx + v − v³/3 − w
w_t = φ (v + a − b w)                            on [0, 100), periodic
v(x, 0) = v₀ + 3 exp(−(x − 30)²/25);   w(x, 0) = w₀ + 1.5 exp(−(x − 18)²/49);   v₀, w₀ at rest""",
        kind="pde",
        y0=np.stack([REST[0] + 3 * excited, REST[1] + 1.5 * tired]),
        t_span=(0.0, 200.0),
        parameters={
            "D": Parameter(1.0, "1", "diffusion of v"),
            "phi": Parameter(0.08, "1", "the rate of recovery by that of excitation"),
            "a": Parameter(0.7, "1", ""),
            "b": Parameter(0.8, "1", ""),
        },
        components=("v", "w"),
        grid={"x": x},
        bounds=(-3.0, 3.0),
        scale=np.array([2.0, 1.0]),
        resized=problem,
        sparsity=lambda: stencil_sparsity(
            shape, {(i, j): star(1) if i == j == 0 else star(1, 0) for i in range(2) for j in range(2)}
        ),
        references=shipped("fitzhugh_nagumo") if size == SIZE else (),
        stiffness=f"mild: diffusion with eigenvalues down to {-4 * (size / LENGTH) ** 2:.3g} with "
        f"{size} cells; it grows with n²; the pulse passes a cell in times of order 10",
        citation="R. FitzHugh, Impulses and physiological states in theoretical models of nerve membrane, "
        "Biophys. J. 1 (1961) 445-466; J. Nagumo, S. Arimoto & S. Yoshizawa, Proc. IRE 50 (1962) 2061-2070; "
        "the initial state is of our own",
    )
