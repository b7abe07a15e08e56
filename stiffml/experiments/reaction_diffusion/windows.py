"""Windows of trajectories, fitted to with exact gradients."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from stiffml.experiments.reaction_diffusion.model import Model

RTOL = 1e-6
"""Of windows: what their steps err by must be less than what the network does."""

WEIGHT = 1e6
"""Of mean squares of windows, near 1e-6: the optimizer's tolerances are meant for numbers of order 1."""


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
            found = model.solved(y[first], times[window], RTOL)
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
