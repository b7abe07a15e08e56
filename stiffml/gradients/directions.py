"""Directions in which the initial state and the parameters of a run move, and what they change directly.

The direct change of a function is ∂f/∂θ θ̇, without that through the states. It is computed at all nodes of a
segment in one call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stiffml.system.derivatives.by_parameters import parameter_jacobian, parameter_jacobian_of_bracket
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.derivatives.dynamics import Dynamics

Direction = Sequence[Tensor | None]
"""The tangent θ̇ of each parameter of a system; None for zero."""


class Directions(ABC):
    """P directions in the space of the parameters.

    Attributes
    ----------
    count : int
        P.
    """

    count: int

    @abstractmethod
    def moves(self, position: int) -> bool:
        """Whether any of them moves the parameter at a position."""

    @abstractmethod
    def through(self, dynamics: Dynamics, s: Tensor, u: Tensor) -> np.ndarray:
        """∂f/∂θ θ̇ at M nodes: (M,), (M, size) -> (M, size, P)."""

    @abstractmethod
    def through_brackets(self, curvature: Curvature) -> dict[int, np.ndarray]:
        """∂D/∂θ θ̇ for the bracket D of each Rosenbrock row in K steps, (K, size, P)."""


class Along(Directions):
    """Any directions, each given by parameter."""

    def __init__(self, directions: Sequence[Direction]) -> None:
        self._directions = directions
        self.count = len(directions)

    def moves(self, position: int) -> bool:
        return any(direction[position] is not None for direction in self._directions)

    def through(self, dynamics: Dynamics, s: Tensor, u: Tensor) -> np.ndarray:
        return np.moveaxis(dynamics.jvps(s, u, self._of(dynamics)).numpy(), 0, -1)

    def through_brackets(self, curvature: Curvature) -> dict[int, np.ndarray]:
        found = curvature.through_parameters(self._of(curvature.dynamics))
        return {row: np.moveaxis(values, 0, -1) for row, values in found.items()}

    def _of(self, dynamics: Dynamics) -> list[Direction]:
        return [direction[: len(dynamics.parameters)] for direction in self._directions]


class Units(Directions):
    """The unit vectors of whole parameters, for all of dy/dθ.

    ``first`` has for each of these parameters, by position, its first direction; further directions, up to
    ``count``, move no parameter.
    """

    def __init__(self, first: dict[int, int], count: int) -> None:
        self.first, self.count = first, count

    def moves(self, position: int) -> bool:
        return position in self.first

    def through(self, dynamics: Dynamics, s: Tensor, u: Tensor) -> np.ndarray:
        wanted = self._wanted(dynamics)
        found = parameter_jacobian(dynamics, wanted, s, u) if wanted else {}
        if found is None:
            return self._one_by_one(dynamics).through(dynamics, s, u)
        return self._placed(found, u)

    def through_brackets(self, curvature: Curvature) -> dict[int, np.ndarray]:
        dynamics = curvature.dynamics
        wanted = self._wanted(dynamics)
        found = {}
        for row in curvature.rows:
            one = parameter_jacobian_of_bracket(curvature, wanted, row) if wanted else {}
            if one is None:
                return self._one_by_one(dynamics).through_brackets(curvature)
            found[row] = self._placed(one, curvature.u)
        return found

    def _wanted(self, dynamics: Dynamics) -> list[int]:
        return [position for position in self.first if position < len(dynamics.parameters)]

    def _placed(self, found: dict[int, Tensor], u: Tensor) -> np.ndarray:
        placed = np.zeros((*u.shape, self.count))
        for position, values in found.items():
            first = self.first[position]
            placed[..., first : first + values.shape[-1]] = values.numpy()
        return placed

    def _one_by_one(self, dynamics: Dynamics) -> Along:
        directions: list[list[Tensor | None]] = [[None] * len(dynamics.parameters) for _ in range(self.count)]
        for position in self._wanted(dynamics):
            parameter, first = dynamics.parameters[position], self.first[position]
            units = torch.eye(parameter.numel(), dtype=parameter.dtype, device=parameter.device)
            for number, unit in enumerate(units):
                directions[first + number][position] = unit.view(parameter.shape)
        return Along(directions)
