"""How fast learned and true equations decay at the observations, and what is left to be seen there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import problems
from stiffml.experiments.robertson import COMPONENTS, Data

if TYPE_CHECKING:
    import xarray

FAST = COMPONENTS.index("B")
"""The component that comes into balance fast."""


def along_the_data(model: Callable[[Tensor, Tensor], Tensor], data: Data) -> xarray.Dataset:
    """Fastest decays over the times of the observations, of a learned field and of Robertson's equations.

    Eigenvalues of ∂f/∂y do not change with the units of y. ``left``: how far B is from its largest value,
    relative to that, and 0 afterwards: until then the data show how fast it gets there, and later nothing.
    """
    import xarray

    true = problems.load("robertson").func()
    times = data.times.numpy()
    fast = data.y[:, FAST]
    left = np.where(np.arange(len(fast)) < fast.argmax(), 1 - fast / fast.max(), 0.0)
    found = {
        "decay": (
            decays(model, data.times, data.scaled),
            "fastest decay learned, at the observations",
            "1/s",
        ),
        "decay_own": (decays(true, data.times, torch.from_numpy(data.y)), "Robertson's own there", "1/s"),
        "left": (left, "share of the transient of B that is left", "1"),
    }
    variables = {
        name: ("observation", values, {"long_name": text, "units": units})
        for name, (values, text, units) in found.items()
    }
    about = {"long_name": "time of an observation", "units": "s"}
    return xarray.Dataset(variables, {"observation": ("observation", times, about)})


def decays(func: Any, times: Tensor, states: Tensor) -> np.ndarray:
    """(m,) the fastest, in 1/s, at times (m,) and states (m, 3)."""
    found = []
    for t, y in zip(times, states, strict=True):
        jacobian = torch.func.jacrev(lambda y, t=t: func(t, y))(y).detach()
        found.append(-float(torch.linalg.eigvals(jacobian).real.min()))
    return np.array(found)
