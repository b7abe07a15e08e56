"""Burgers' equation in one dimension: a wave that steepens into a front as wide as the viscosity lets it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from problems.function import Parts
from problems.library.shipped import shipped
from problems.parameters import Parameter
from problems.problem import Problem
from problems.stencils import neighbours, second_difference, star, stencil_sparsity

SIZE = 512


def diffusion(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """ν u_xx by central differences; linear."""
    points = y.shape[-1]
    return p["nu"] * points**2 * second_difference(y, -1)


def convection(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """−(u²/2)_x by central differences of the flux, so that the mean of u is conserved."""
    points = y.shape[-1]
    before, after = neighbours(y * y, -1)
    return -points / 4 * (after - before)


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    return diffusion(t, y, p) + convection(t, y, p)


def problem(size: int = SIZE) -> Problem:
    x = np.arange(size) / size
    shape = (1, size)
    return Problem(
        name="burgers",
        title="Burgers' equation, periodic",
        rhs=rhs,
        parts=Parts(diffusion, convection, linear=True),
        equations="u_t = ν u_xx − (u²/2)_x   on [0, 1), periodic;   u(x, 0) = ½ sin 2πx + ¼ sin 4πx",
        kind="pde",
        y0=(0.5 * np.sin(2 * np.pi * x) + 0.25 * np.sin(4 * np.pi * x))[None],
        t_span=(0.0, 5.0),
        parameters={"nu": Parameter(8e-4, "1", "viscosity, for a unit length and a unit velocity")},
        components=("u",),
        grid={"x": x},
        invariants={"mean": np.full(size, 1 / size)},
        scale=np.array([0.5]),
        resized=problem,
        sparsity=lambda: stencil_sparsity(shape, {(0, 0): star(1)}),
        references=shipped("burgers") if size == SIZE else (),
        stiffness=f"diffusion: eigenvalues down to -4 ν n² = {-4 * 8e-4 * size**2:.3g} with n = {size} "
        "points; the front moves in times of order 1",
        citation="viscosity, domain, span and resolutions of arXiv 2412.11301; initial values of our own",
    )
