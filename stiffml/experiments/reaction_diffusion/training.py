"""Rates first, from sums over three snapshots; then windows of trajectories, with exact gradients."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor
from torch.nn.functional import pad

from stiffml.experiments.reaction_diffusion.model import RATE, Model

POINTS = 4000
"""Of space and time, at which rates are compared: half of them where there is anything of v."""

PRESENT = 0.02
"""Of v."""

WEIGHT = 1e6
"""Of mean squares of windows, near 1e-6: the optimizer's tolerances are meant for numbers of order 1."""


def match_rates(model: Model, y: Tensor, spacing: float, iterations: int) -> float:
    """Fit the network to the rates in snapshots (times, 2, n, n) at equal times; the misfit left, relative.

    By Simpson's rule y(t + h) − y(t − h) = h/3 (f(t − h) + 4 f(t) + f(t + h)) but for h⁵/90 of a fourth
    derivative. It is linear in f, the states are known and so is what diffusion does of it: what is left is
    such a sum of the network's values. Nothing is solved.
    """
    weights = torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64) / 6
    known = model.diffused(pad(y, (1, 1, 1, 1), mode="circular"))
    three = y.unfold(0, 3, 1)  # (times − 2, 2, n, n, 3)
    wanted = (y[2:] - y[:-2]) / (2 * spacing) - known.unfold(0, 3, 1) @ weights
    states = three.movedim(1, -1).reshape(-1, 3, 2)
    rates = wanted.movedim(1, -1).reshape(-1, 2) / RATE
    generator = torch.Generator().manual_seed(0)
    present = states[:, 1, 1] > PRESENT
    chosen = [
        rows[torch.randperm(len(rows), generator=generator)[: POINTS // 2]]
        for rows in (torch.nonzero(present)[:, 0], torch.nonzero(~present)[:, 0])
    ]
    here = torch.cat(chosen)
    states, rates = states[here] / model.typical, rates[here]
    size = rates.square().mean(dim=0)
    optimizer = torch.optim.LBFGS(
        model.network.parameters(),
        max_iter=iterations,
        history_size=30,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def misfit() -> Tensor:
        found = torch.einsum("psc,s->pc", model.network(states), weights)
        return ((found - rates).square() / size).mean()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = misfit()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return float(misfit().sqrt())


def fit_windows(
    model: Model, y: Tensor, times: Tensor, windows: int, length: int, iterations: int
) -> list[float]:
    """L-BFGS on so many windows of ``length`` intervals, spread over the snapshots; the loss of each trial.

    Each is solved from its first snapshot, and its others are compared, in units of ``typical``. The network
    keeps the weights of the least loss.
    """
    unit, losses = model.typical[:, None, None], [float("inf")]
    firsts = torch.linspace(0, len(times) - 1 - length, windows).round().long().tolist()
    optimizer = torch.optim.LBFGS(
        model.network.parameters(),
        max_iter=iterations,
        max_eval=iterations + 4,
        line_search_fn="strong_wolfe",
    )
    best = deepcopy(model.network.state_dict())

    def closure() -> Tensor:
        nonlocal best
        optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for first in firsts:
            window = slice(first, first + length + 1)
            found = model.solved(y[first], times[window])
            loss = WEIGHT * ((found - y[window]) / unit).square().mean() / windows
            loss.backward()
            total += loss.detach()
        if float(total) < min(losses):
            best = deepcopy(model.network.state_dict())
        losses.append(float(total))
        return total

    optimizer.step(closure)
    model.network.load_state_dict(best)
    return losses[1:]
