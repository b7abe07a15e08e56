"""How far a model moves its components, beside how far they move in data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.training.data import Runs
from stiffml.training.lm.intervals import filled


def rates_of(model: nn.Module, data: Runs) -> dict[str, float]:
    """How far the model moves each component over how far the data do, from row to row; medians.

    At the observed states: |f| Δt, or |f| / |∂f/∂y| of the component itself where that is less, since a fast
    component comes no further; over |Δy|. Only rows in which the component changes count.
    """
    dtype = next(p.dtype for p in model.parameters())
    own, seen = [], []
    for run in data:
        states, intervals = filled(run), np.diff(run.times)[:, None]
        f, by_itself = _slopes(model, torch.tensor(run.times, dtype=dtype), torch.tensor(states, dtype=dtype))
        with np.errstate(divide="ignore"):
            moved = np.abs(f) * np.minimum(np.vstack([intervals, intervals[-1:]]), 1 / np.abs(by_itself))
        own.append((moved[1:] + moved[:-1]) / 2)
        seen.append(np.abs(np.diff(states, axis=0)))
    by_model, by_data = np.concatenate(own), np.concatenate(seen)
    found = {}
    for c, name in enumerate(data.components):
        changing = by_data[:, c] > 0
        ratios = by_model[changing, c] / by_data[changing, c]
        found[name] = float(np.median(ratios)) if changing.any() else float("nan")
    return found


def _slopes(model: nn.Module, times: Tensor, states: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """f and the derivative of each component by itself at some states, both (n, components)."""
    slopes, diagonals = [], []
    for t, y in zip(times, states, strict=True):
        with torch.enable_grad():
            leaf = y.clone().requires_grad_()
            f = model(t, leaf)
            rows = [
                torch.autograd.grad(f[c], leaf, retain_graph=True, allow_unused=True)[0]
                for c in range(len(y))
            ]
        slopes.append(f.detach())
        diagonals.append(torch.stack([y[c] * 0 if row is None else row[c] for c, row in enumerate(rows)]))
    return torch.stack(slopes).double().numpy(), torch.stack(diagonals).double().numpy()
