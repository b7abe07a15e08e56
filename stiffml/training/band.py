"""What the covariance of a fit says of its solution: a band around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from stiffml.display import readable
from stiffml.interface.sensitivities import sensitivities
from stiffml.steps import Adaptive
from stiffml.training.lm.covariance import Covariance


@readable
@dataclass(frozen=True)
class Band:
    """A solution with its standard errors, to first order in the errors of what was fitted.

    Attributes
    ----------
    times : ndarray
        (n,)
    y : ndarray
        (n, components) the solution.
    errors : ndarray
        (n, components) its standard errors; the noise of a further observation is not in them.
    low, high : ndarray
        (n, components) the interval at each time and component by itself, by Student's distribution.
    level : float

    Examples
    --------
    >>> from stiffml.training import fit
    >>> band = fit(Decay(), runs, steps=stiffml.Grid(10)).band("a", [0.0, 0.5])
    >>> [f"{x:.4f}" for x in (band.low[1, 0], band.y[1, 0], band.high[1, 0])]  # exp(−1.5) is 0.2231
    ['0.2120', '0.2231', '0.2343']
    """

    times: np.ndarray
    y: np.ndarray
    errors: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float


def band_of(
    model: nn.Module,
    times: np.ndarray,
    y0: np.ndarray,
    covariance: Covariance,
    learned: Sequence[tuple[int, int]],
    level: float,
    max_steps: int,
    **arguments: Any,
) -> Band:
    """The band from the derivatives of the solution by all that was fitted, C_y = J C Jᵀ.

    ``learned``: pairs (component of y0, position among the fitted numbers).
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    dtype = next((p.dtype for p in model.parameters()), torch.float64)
    found = sensitivities(
        model,
        torch.from_numpy(y0.copy()).to(dtype),
        torch.from_numpy(times.copy()),
        wrt=[*names, "y0"],
        method="bdf",
        steps=Adaptive(max_steps=max_steps),
        **arguments,
    )
    y = found.solution.y
    assert isinstance(y, Tensor)
    columns = np.zeros((*y.shape, len(covariance.values)))
    at = 0
    for name in names:
        part = _array(found.wrt[name]).reshape(*y.shape, -1)
        columns[..., at : at + part.shape[-1]] = part
        at += part.shape[-1]
    by_start = _array(found.wrt["y0"])
    for component, position in learned:
        columns[..., position] = by_start[..., component]
    variance = np.einsum("nci,ij,ncj->nc", columns, covariance.matrix, columns)
    errors, values = np.sqrt(np.maximum(variance, 0)), _array(y)
    factor = stdtrit(covariance.freedom, 0.5 + level / 2) if covariance.freedom > 0 else np.inf
    return Band(times, values, errors, values - factor * errors, values + factor * errors, level)


def _array(value: Any) -> np.ndarray:
    assert isinstance(value, Tensor)
    return value.detach().cpu().double().numpy()
