"""The flow's traces are those of its Jacobian, and its density is that of the points it makes."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor

import stiffml
from stiffml.experiments.flow.model import TO_DATA, TO_NORMAL, Dynamics, carried, log_density

COLUMNS = 3


def dynamics(trace: str = "exact", samples: int = 0) -> Dynamics:
    torch.manual_seed(0)
    return Dynamics(COLUMNS, 8, trace, samples)


def points(count: int) -> Tensor:
    return torch.randn(count, COLUMNS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_exact_trace() -> None:
    func, t, z = dynamics(), torch.tensor(0.3, dtype=torch.float64), points(5)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda point: func.velocity(t, point[None])[0]))(z)
    slope, trace = func(t, (z, z[:, 0]))
    torch.testing.assert_close(slope, func.velocity(t, z))
    torch.testing.assert_close(trace, jacobians.diagonal(dim1=1, dim2=2).sum(1))


def test_hutchinsons_trace_is_right_on_average() -> None:
    """Over all signs, of which there are eight."""
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=COLUMNS)), dtype=torch.float64)
    func, t = dynamics("Hutchinson", len(signs)), torch.tensor(0.3, dtype=torch.float64)
    z = points(1).expand(len(signs), COLUMNS)
    func.draw_noise(torch.Generator().manual_seed(2))
    assert func.noise is not None
    assert set(func.noise.flatten().tolist()) == {-1.0, 1.0}
    func.noise.copy_(signs)
    exact = dynamics()(t, (z, z[:, 0]))[1]
    torch.testing.assert_close(func(t, (z, z[:, 0]))[1].mean(), exact[0])


def test_the_density_of_what_the_flow_makes() -> None:
    """p(x) = N(z) |det ∂z/∂x| for the map that carries x to z, and back."""
    func, x = dynamics(), points(2)
    solve = partial(stiffml.odeint, method="dopri5", rtol=1e-10, atol=1e-10)
    found = log_density(func, x, solve)
    z = carried(func, x, TO_NORMAL, 1e-10)
    torch.testing.assert_close(carried(func, z, TO_DATA, 1e-10), x, rtol=0, atol=1e-8)
    for number in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(
            lambda point: solve(func.velocity, point[None], TO_NORMAL)[-1][0], x[number]
        )
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(z[number]).sum()
        torch.testing.assert_close(
            found[number], normal + torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-7
        )
