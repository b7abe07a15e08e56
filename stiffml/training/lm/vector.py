"""What is fitted, as one vector: the parameters of a model, then initial values that have to be learned."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.training.data import Runs


class FittedVector:
    """The parameters of a model that require gradients, then the initial values that runs do not know.

    Parameters
    ----------
    model : nn.Module
    runs : Runs
    scale : ndarray
        (components,) in whose units the residuals of the data are.

    Attributes
    ----------
    parameters : list of Tensor
    learned : list of dict
        For each run from components to positions among all numbers.
    centre, weight : ndarray
        (size,) what is known beforehand: residuals ``weight * (theta - centre)`` beside those of the data.
        Here of initial values that were measured with a known error. Where the scale is not the noise of the
        observations, it is that of these residuals too: else one scale would hold less to them than another.
    """

    def __init__(self, model: nn.Module, runs: Runs, scale: np.ndarray) -> None:
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError("model has no parameters that require gradients, so there is nothing to fit")
        self.parameters: list[Tensor] = list(named.values())
        self.of_model = sum(p.numel() for p in self.parameters)
        self.learned: list[dict[int, int]] = []
        self._named, self._of_runs = named, list[str]()
        centre, weight = [], []
        units = np.where(np.isnan(runs.noise), 1.0, runs.noise / scale)
        for run in runs:
            unknown = np.flatnonzero(run.y0_noise > 0).tolist()
            self.learned.append({c: len(self) + i for i, c in enumerate(unknown)})
            self._of_runs += [f"y0 of {run.name}: {runs.components[c]}" for c in unknown]
            centre += [run.y0[c] for c in unknown]
            weight += [0.0 if np.isinf(run.y0_noise[c]) else units[c] / run.y0_noise[c] for c in unknown]
        self._initial = np.array(centre)
        none = np.zeros(self.of_model)
        self.centre, self.weight = np.concatenate([none, centre]), np.concatenate([none, weight])

    def __len__(self) -> int:
        return self.of_model + len(self._of_runs)

    @cached_property
    def names(self) -> list[str]:
        """Of all numbers, such as ``"k"``, ``"layer.weight[0, 1]"``, ``"y0 of exp00: A"``."""
        return [*(name for key, p in self._named.items() for name in _entries(key, p)), *self._of_runs]

    def read(self) -> np.ndarray:
        """(size,) the present parameters of the model, and the initial values that the runs begin with."""
        values = [p.detach().cpu().double().numpy().ravel() for p in self.parameters]
        return np.concatenate([*values, self._initial])

    def write(self, theta: np.ndarray) -> None:
        """Set the parameters of the model; what is not finite is refused."""
        if not np.isfinite(theta).all():
            raise FloatingPointError("parameters that are not finite")
        numbers, views = self._room
        numbers[:] = theta[: self.of_model]
        with torch.no_grad():
            for p, view in zip(self.parameters, views, strict=True):
                p.copy_(view)

    @cached_property
    def _room(self) -> tuple[np.ndarray, list[Tensor]]:
        """Numbers (of_model,), and the same memory in the shapes of the parameters."""
        numbers = np.empty(self.of_model)
        parts = torch.from_numpy(numbers).split([p.numel() for p in self.parameters])
        return numbers, [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]

    def starts(self, theta: np.ndarray, run: int, state: np.ndarray, learned: bool) -> np.ndarray:
        """Where an interval of a run starts, (components,).

        ``learned``: it is the beginning of the run, whose unknown components are fitted.
        """
        start = state.copy()
        for component, position in self.learned[run].items() if learned else ():
            start[component] = theta[position]
        return start

    def changes(self, run: int, components: int, learned: bool) -> np.ndarray:
        """(size, components) the derivative of that."""
        found = np.zeros((len(self), components))
        for component, position in self.learned[run].items() if learned else ():
            found[position, component] = 1.0
        return found


def _entries(name: str, parameter: Tensor) -> list[str]:
    if parameter.dim() == 0:
        return [name]
    return [f"{name}[{', '.join(map(str, index))}]" for index in np.ndindex(*parameter.shape)]
