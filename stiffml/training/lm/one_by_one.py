"""Solves intervals one after the other through :func:`stiffml.sensitivities`: for any solve."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stiffml.interface.arguments import Arguments
from stiffml.interface.integrate import solved
from stiffml.interface.sensitivities import sensitivities
from stiffml.interface.solution import Solution

Path = tuple[np.ndarray, np.ndarray]
"""Times (k,) and states (k, size)."""


@dataclass(frozen=True)
class SolvedOneByOne:
    """Intervals with these times (rows,), solved from ``starts`` (size,); see ``together.Solved``."""

    times: Sequence[np.ndarray]
    starts: Sequence[np.ndarray]
    outputs: list[np.ndarray]

    @property
    def paths(self) -> list[Path]:
        return list(zip(self.times, self.outputs, strict=True))


class OneByOne:
    """The solver of intervals with the arguments of a solve, whose func is the model.

    Parameters
    ----------
    arguments : Arguments
    names : sequence of str
        The parameters of the model that are fitted.
    count : int
        How many numbers they have.
    """

    def __init__(self, arguments: Arguments, names: Sequence[str], count: int) -> None:
        self._arguments, self._names, self.count = arguments, list(names), count

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
        outputs = [
            outputs_of(one_solution(self._arguments, times, start))
            for times, start in zip(groups, starts, strict=True)
        ]
        return SolvedOneByOne(groups, starts, outputs)

    def kept(self, solution: SolvedOneByOne) -> list[dict[str, np.ndarray]]:
        return [
            {"start": start, "outputs": outputs}
            for start, outputs in zip(solution.starts, solution.outputs, strict=True)
        ]

    def restored(self, groups: Sequence[np.ndarray], kept: Sequence[dict[str, np.ndarray]]) -> SolvedOneByOne:
        return SolvedOneByOne(groups, [one["start"] for one in kept], [one["outputs"] for one in kept])

    def tangents(self, solution: SolvedOneByOne, starts: Sequence[np.ndarray]) -> list[np.ndarray]:
        found = []
        for times, state, change in zip(solution.times, solution.starts, starts, strict=True):
            wrt = [*self._names, *(["y0"] if change.any() else [])]
            options = _options(self._arguments)
            y0, t = torch.from_numpy(state).to(self._arguments.y0), torch.from_numpy(times)  # type: ignore[arg-type]
            parts = sensitivities(self._arguments.func, y0, t, wrt, **options).wrt
            flat = [parts[name].reshape(len(times), len(state), -1).numpy() for name in self._names]  # type: ignore[union-attr]
            values = np.zeros((len(times), len(state), len(change)))
            values[:, :, : self.count] = np.concatenate(flat, axis=2)
            if change.any():
                values += parts["y0"].numpy() @ change.T  # type: ignore[union-attr]
            found.append(values)
        return found


def one_solution(arguments: Arguments, times: np.ndarray, start: np.ndarray) -> Solution:
    """Solve one interval, without a graph."""
    y0 = torch.from_numpy(start).to(arguments.y0)  # type: ignore[arg-type]
    with torch.no_grad():
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


def _options(arguments: Arguments) -> dict[str, Any]:
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
    return {name: value for name, value in given.items() if name not in ("func", "y0", "t", "guess", "throw")}
