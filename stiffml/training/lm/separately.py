"""What solvers of intervals have in common that begin every solve anew: one by one, or side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.gradients.directions import Units
from stiffml.interface.arguments import Arguments
from stiffml.interface.sensitivities import tangents_of
from stiffml.interface.solution import Solution

Path = tuple[np.ndarray, np.ndarray]
"""Times (k,) and states (k, size)."""


@dataclass(frozen=True)
class SolvedSeparately:
    """Intervals with these times (rows,), solved from ``starts`` (size,); see ``together.Solved``.

    ``solutions``: what is differentiated; empty where only outputs were kept.
    """

    times: Sequence[np.ndarray]
    starts: Sequence[np.ndarray]
    outputs: list[np.ndarray]
    solutions: Sequence[Solution] = ()

    @property
    def paths(self) -> list[Path]:
        return list(zip(self.times, self.outputs, strict=True))


class Separately(ABC):
    """A solver of intervals with the arguments of a solve, whose func is the model.

    Parameters
    ----------
    arguments : Arguments
        Of one interval.
    parameters : sequence of Tensor
        Those of the model that are fitted.
    """

    def __init__(self, arguments: Arguments, parameters: Sequence[Tensor]) -> None:
        self._arguments, self._parameters = arguments, list(parameters)
        self.count = sum(p.numel() for p in self._parameters)

    @abstractmethod
    def _solutions(self, times: Sequence[np.ndarray], starts: Sequence[np.ndarray]) -> list[Solution]:
        """The solves of all intervals."""

    @abstractmethod
    def _outputs(self, solutions: list[Solution], times: Sequence[np.ndarray]) -> list[np.ndarray]:
        """For each interval the states (rows, size)."""

    def groups(self, times: Sequence[np.ndarray], columns: int) -> Sequence[np.ndarray]:
        return times

    def solve(
        self,
        groups: Sequence[np.ndarray],
        starts: Sequence[np.ndarray],
        paths: Sequence[Path] | None,
        near: SolvedSeparately | None = None,
    ) -> SolvedSeparately:
        """Solve all intervals; each begins anew, whatever is known nearby."""
        solutions = self._solutions(groups, starts)
        return SolvedSeparately(groups, starts, self._outputs(solutions, groups), solutions)

    def assembled(self, groups: Sequence[np.ndarray], solutions: Sequence[Solution]) -> None:
        """None: each solve begins anew."""
        return None

    def solutions_of(self, solved: SolvedSeparately) -> Sequence[Solution]:
        """What is differentiated; solved again where only outputs were kept."""
        return solved.solutions or self._solutions(solved.times, solved.starts)

    def kept(self, solution: SolvedSeparately) -> list[dict[str, np.ndarray]]:
        return [
            {"start": start, "outputs": outputs}
            for start, outputs in zip(solution.starts, solution.outputs, strict=True)
        ]

    def restored(
        self, groups: Sequence[np.ndarray], kept: Sequence[dict[str, np.ndarray]]
    ) -> SolvedSeparately:
        return SolvedSeparately(groups, [one["start"] for one in kept], [one["outputs"] for one in kept])


def changes(solution: Solution, parameters: Sequence[Tensor], samples: int, by_start: bool) -> np.ndarray:
    """(n, samples · size, P) how outputs change with the parameters, and then with y0 of their own sample.

    ``by_start``: P has also one number for each component of y0.
    """
    piece = solution.pieces[0]
    positions = {id(p): i for i, p in enumerate(piece.tape.replay.system.parameters)}
    first: dict[int, int] = {}
    count = 0
    for p in parameters:
        if id(p) in positions:  # the others have no effect
            first[positions[id(p)]] = count
        count += p.numel()
    size = solution.y[0].numel() // samples  # type: ignore[union-attr]
    # Samples are independent: one direction moves the same component of all of them.
    moved = np.tile(np.eye(size), samples) if by_start else np.zeros((0, samples * size))
    start = np.concatenate([np.zeros((count, samples * size)), moved])
    return tangents_of(piece, start, Units(first, len(start))).numpy().swapaxes(1, 2)


def with_starts(found: np.ndarray, change: np.ndarray, count: int) -> np.ndarray:
    """(n, size, numbers) by all that is fitted, which moves the start by ``change`` (numbers, size).

    ``found`` has the derivatives by ``count`` parameters, then, where there is a change, by the start.
    """
    values = np.zeros((*found.shape[:2], len(change)))
    values[:, :, :count] = found[:, :, :count]
    return values + found[:, :, count:] @ change.T if change.any() else values


def outputs_of(solution: Solution) -> np.ndarray:
    """(rows, size) as double precision."""
    assert isinstance(solution.y, torch.Tensor)
    return solution.y.detach().cpu().double().numpy()
