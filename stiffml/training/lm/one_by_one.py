"""Solves intervals one after the other: for any solve."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.gradients.directions import Units
from stiffml.interface.arguments import Arguments
from stiffml.interface.integrate import solved
from stiffml.interface.sensitivities import tangents_of
from stiffml.interface.solution import Solution

Path = tuple[np.ndarray, np.ndarray]
"""Times (k,) and states (k, size)."""


@dataclass(frozen=True)
class SolvedOneByOne:
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


class OneByOne:
    """The solver of intervals with the arguments of a solve, whose func is the model.

    Parameters
    ----------
    arguments : Arguments
    parameters : sequence of Tensor
        Those of the model that are fitted.
    """

    def __init__(self, arguments: Arguments, parameters: Sequence[Tensor]) -> None:
        self._arguments, self._parameters = arguments, list(parameters)
        self.count = sum(p.numel() for p in self._parameters)

    def groups(self, times: Sequence[np.ndarray], columns: int) -> Sequence[np.ndarray]:
        return times

    def solve(
        self,
        groups: Sequence[np.ndarray],
        starts: Sequence[np.ndarray],
        paths: Sequence[Path] | None,
        near: SolvedOneByOne | None = None,
    ) -> SolvedOneByOne:
        """Solve all intervals; each begins anew, whatever is known nearby."""
        solutions = self._solutions(groups, starts)
        return SolvedOneByOne(groups, starts, list(map(outputs_of, solutions)), solutions)

    def _solutions(self, groups: Sequence[np.ndarray], starts: Sequence[np.ndarray]) -> list[Solution]:
        pairs = zip(groups, starts, strict=True)
        return [one_solution(self._arguments, times, start, graph=True) for times, start in pairs]

    def kept(self, solution: SolvedOneByOne) -> list[dict[str, np.ndarray]]:
        return [
            {"start": start, "outputs": outputs}
            for start, outputs in zip(solution.starts, solution.outputs, strict=True)
        ]

    def restored(self, groups: Sequence[np.ndarray], kept: Sequence[dict[str, np.ndarray]]) -> SolvedOneByOne:
        return SolvedOneByOne(groups, [one["start"] for one in kept], [one["outputs"] for one in kept])

    def tangents(self, solution: SolvedOneByOne, starts: Sequence[np.ndarray]) -> list[np.ndarray]:
        solutions = solution.solutions or self._solutions(solution.times, solution.starts)
        return [
            with_starts(changes(one, self._parameters, 1, bool(change.any())), change, self.count)
            for one, change in zip(solutions, starts, strict=True)
        ]


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


def one_solution(arguments: Arguments, times: np.ndarray, start: np.ndarray, graph: bool = False) -> Solution:
    """Solve one interval, with what derivatives need or without."""
    y0 = torch.from_numpy(start).to(arguments.y0)  # type: ignore[arg-type]
    with torch.inference_mode(False), torch.set_grad_enabled(graph):
        return solved(dataclasses.replace(arguments, y0=y0, t=torch.from_numpy(times)))


def outputs_of(solution: Solution) -> np.ndarray:
    """(rows, size) as double precision."""
    assert isinstance(solution.y, torch.Tensor)
    return solution.y.detach().cpu().double().numpy()


def path_of(solution: Solution) -> Path:
    """The ends of its steps and the states there, or the outputs if states were not kept."""
    run = solution.pieces[0].tape.run
    states = run.checkpoints.states
    if states is None:
        return solution.t.detach().cpu().double().numpy(), outputs_of(solution)
    return run.trajectory.times.copy(), states
