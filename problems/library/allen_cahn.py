"""Allen and Cahn's equation: interfaces that stand still for long, and then vanish."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from problems.function import Parts
from problems.library.shipped import shipped
from problems.parameters import Parameter
from problems.problem import Problem

SIZE = 127


def diffusion(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """ε u_xx by central differences, with u = −1 and 1 beyond the first and the last point."""
    h = 2 / (y.shape[-1] + 1)
    end = torch.ones_like(y[..., :1])
    wide = torch.cat([-end, y, end], dim=-1)
    return p["eps"] / h**2 * (wide[..., :-2] - 2 * y + wide[..., 2:])


def reaction(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    return y - y**3


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    return diffusion(t, y, p) + reaction(t, y, p)


def sparsity(size: int) -> csr_array:
    return csr_array(diags_array([1.0, 1.0, 1.0], offsets=[-1, 0, 1], shape=(size, size)) != 0)


def problem(size: int = SIZE) -> Problem:
    x = np.linspace(-1, 1, size + 2)[1:-1]
    return Problem(
        name="allen_cahn",
        title="Allen and Cahn's equation, interfaces that last",
        rhs=rhs,
        parts=Parts(diffusion, reaction),
        equations="""\
u_t = ε u_xx + u − u³   on (−1, 1);   u(−1) = −1, u(1) = 1
u(x, 0) = 0.53 x + 0.47 sin(−1.5 π x)""",
        kind="pde",
        y0=(0.53 * x + 0.47 * np.sin(-1.5 * np.pi * x))[None],
        t_span=(0.0, 70.0),
        parameters={"eps": Parameter(0.01, "1", "square of the width of interfaces")},
        components=("u",),
        grid={"x": x},
        bounds=(-1.0, 1.0),
        scale=np.array([1.0]),
        resized=problem,
        sparsity=lambda: sparsity(size),
        references=shipped("allen_cahn") if size == SIZE else (),
        stiffness=f"diffusion: eigenvalues down to -4 ε/h² = {-((size + 1) ** 2) * 0.01:.3g} with {size} "
        "points; the interfaces move in times of order 10 to 100, and two vanish at once near t = 40; "
        "what is not odd in x grows meanwhile, so that rounding errors are seen in the seventh digit",
        citation="A.-K. Kassam & L. N. Trefethen, Fourth-order time-stepping for stiff PDEs, SIAM J. Sci. "
        "Comput. 26 (2005) 1214-1233; here by finite differences of second order",
    )
