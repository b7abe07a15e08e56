"""Rates from sums over three snapshots, to which a network is fitted by Levenberg-Marquardt."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap
from torch.nn.functional import pad
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from stiffml.experiments.reaction_diffusion.model import RATE, Model

POINTS = 4000
"""Of space and time, at which rates are compared: half of them where there is anything of v."""

PRESENT = 0.02
"""Of v."""

SIMPSON = (1 / 6, 4 / 6, 1 / 6)

DAMPING, LESS, MORE = 1e-2, 0.2, 4.0
"""Of the diagonal at first; by what it is multiplied after a step that helps, and after one that does not."""

LEAST, TRIALS, ROWS = 1e-9, 10, 1000
"""Of the damping; steps that may fail in a row; rows of the Jacobian that are made at once."""


def match_rates(model: Model, y: Tensor, spacing: float, iterations: int) -> float:
    """Fit the network to the rates in snapshots (times, 2, n, n) at equal times; the misfit left, relative.

    By Simpson's rule y(t + h) − y(t − h) = h/3 (f(t − h) + 4 f(t) + f(t + h)) but for h⁵/90 of a fourth
    derivative. It is linear in f, the states are known and so is what diffusion does of it: what is left is
    such a sum of the network's values. Nothing is solved.
    """
    states, rates = sums(model, y, spacing)
    size = rates.square().mean(dim=0).sqrt()
    names = [name for name, _ in model.network.named_parameters()]
    weights = [weight.detach() for weight in model.network.parameters()]

    def residual(theta: Tensor, three: Tensor, rate: Tensor) -> Tensor:
        parts = theta.split([weight.numel() for weight in weights])
        named = {n: part.view_as(weight) for n, part, weight in zip(names, parts, weights, strict=True)}
        found = theta.new_tensor(SIMPSON) @ functional_call(model.network, named, (three,))
        return (found - rate) / size

    residuals = vmap(residual, (None, 0, 0))
    jacobian = vmap(jacrev(residual), (None, 0, 0))

    def derivatives(theta: Tensor) -> Tensor:
        pieces = zip(states.split(ROWS), rates.split(ROWS), strict=True)
        return torch.cat([jacobian(theta, *piece).flatten(0, 1) for piece in pieces])

    theta = parameters_to_vector(weights)
    off, damping = residuals(theta, states, rates).flatten(), DAMPING
    for _ in range(iterations):
        slopes = derivatives(theta)
        normal, downhill = slopes.T @ slopes, -(slopes.T @ off)
        for _ in range(TRIALS):
            damped = normal + damping * torch.diag(normal.diagonal())
            trial = theta + torch.linalg.solve(damped, downhill)
            there = residuals(trial, states, rates).flatten()
            if there.norm() < off.norm():
                theta, off, damping = trial, there, max(LESS * damping, LEAST)
                break
            damping *= MORE
        else:
            break
    vector_to_parameters(theta, model.network.parameters())
    return float(off.square().mean().sqrt())


def sums(model: Model, y: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    """States (points, 3, 2) at three times, and what Simpson's rule says of the reaction there (points, 2).

    In units of ``typical`` and ``RATE``; at random points, the same for any network.
    """
    known = model.diffused(pad(y, (1, 1, 1, 1), mode="circular"))
    three = y.unfold(0, 3, 1)  # (times − 2, 2, n, n, 3)
    wanted = (y[2:] - y[:-2]) / (2 * spacing) - known.unfold(0, 3, 1) @ known.new_tensor(SIMPSON)
    states = three.movedim(1, -1).reshape(-1, 3, 2)
    rates = wanted.movedim(1, -1).reshape(-1, 2) / RATE
    generator = torch.Generator().manual_seed(0)
    present = states[:, 1, 1] > PRESENT
    chosen = [
        rows[torch.randperm(len(rows), generator=generator)[: POINTS // 2]]
        for rows in (torch.nonzero(present)[:, 0], torch.nonzero(~present)[:, 0])
    ]
    here = torch.cat(chosen)
    return states[here] / model.typical, rates[here]
