"""The Kuramoto-Sivashinsky equation in one dimension: fourth-order stiffness and chaos."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from problems.function import Parts
from problems.library.shipped import shipped
from problems.parameters import Parameter, Values
from problems.problem import Problem
from problems.stencils import neighbours, second_difference, star, stencil_sparsity

SIZE = 64
LENGTH = 22.0


def dispersion(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """−u_xx − u_xxxx by central differences, five points; linear."""
    per_square = (y.shape[-1] / p["length"]) ** 2
    curvature = per_square * second_difference(y, -1)
    return -curvature - per_square * second_difference(curvature, -1)


def convection(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """−(u²/2)_x by central differences of the flux, so that the mean of u is conserved."""
    before, after = neighbours(y * y, -1)
    return -y.shape[-1] / (4 * p["length"]) * (after - before)


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    return dispersion(t, y, p) + convection(t, y, p)


def problem(size: int = SIZE) -> Problem:
    shape = (1, size)

    def initial(values: Values) -> np.ndarray:
        """The same waves for any size. The last one breaks a symmetry, or the solution would settle."""
        phase = 2 * np.pi * np.arange(size) / size
        return (np.cos(phase) * (1 + np.sin(phase)) + np.cos(3 * phase + 1) / 2)[None]

    stiffest = -((4 * (size / LENGTH) ** 2) ** 2) + 4 * (size / LENGTH) ** 2
    return Problem(
        name="ks",
        title="The Kuramoto-Sivashinsky equation, periodic and chaotic",
        rhs=rhs,
        parts=Parts(dispersion, convection, linear=True),
        equations="u_t = −u_xx − u_xxxx − (u²/2)_x   on [0, L), periodic;"
        "   u(x, 0) = cos φ (1 + sin φ) + ½ cos(3φ + 1), φ = 2πx/L",
        kind="pde",
        y0=initial({}),
        t_span=(0.0, 50.0),
        parameters={"length": Parameter(LENGTH, "1", "L: the longer, the more waves")},
        components=("u",),
        grid={"x": LENGTH * np.arange(size) / size},
        invariants={"mean": np.full(size, 1 / size)},
        scale=np.array([1.5]),
        resized=problem,
        sparsity=lambda: stencil_sparsity(shape, {(0, 0): star(1, reach=2)}),
        references=shipped("ks") if size == SIZE else (),
        stiffness=f"the fourth derivative: eigenvalues down to {stiffest:.3g} with {size} points, while "
        "waves grow at rates up to 1/4 and nearby solutions part at a rate of about 0.05",
        citation="Y. Kuramoto & T. Tsuzuki, Prog. Theor. Phys. 55 (1976) 356-369; G. I. Sivashinsky, Acta "
        "Astronautica 4 (1977) 1177-1206; length and resolution of arXiv 2412.11301; initial values "
        "like those of A.-K. Kassam & L. N. Trefethen, SIAM J. Sci. Comput. 26 (2005) 1214-1233",
    )
