"""Solves all intervals in one call, each with times and steps of its own: for models that take a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.interface.arguments import Arguments
from stiffml.interface.integrate import solved
from stiffml.interface.own_times.checking import check
from stiffml.interface.solution import Solution
from stiffml.settings import Newton
from stiffml.system.space import Space, solving_on
from stiffml.training.lm.one_by_one import Path, changes, outputs_of, with_starts

TRIED = 2
"""With so many samples a model is tried."""


@dataclass(frozen=True)
class SolvedSideBySide:
    """Intervals with these times (rows,), solved from ``starts`` (size,); see ``together.Solved``.

    ``solution``: what is differentiated; None where only outputs were kept.
    """

    times: Sequence[np.ndarray]
    starts: Sequence[np.ndarray]
    outputs: list[np.ndarray]
    solution: Solution | None = None

    @property
    def paths(self) -> list[Path]:
        return list(zip(self.times, self.outputs, strict=True))


class SideBySide:
    """The solver of intervals with the arguments of a solve, whose func is the model and takes a batch.

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

    def groups(self, times: Sequence[np.ndarray], columns: int) -> Sequence[np.ndarray]:
        return times

    def solve(
        self,
        groups: Sequence[np.ndarray],
        starts: Sequence[np.ndarray],
        paths: Sequence[Path] | None,
        near: SolvedSideBySide | None = None,
    ) -> SolvedSideBySide:
        """Solve all intervals; each begins anew, whatever is known nearby."""
        solution = self._solution(groups, starts)
        values = outputs_of(solution)  # (n, intervals, size), the last row of each repeated
        outputs = [values[: len(times), i] for i, times in enumerate(groups)]
        return SolvedSideBySide(groups, starts, outputs, solution)

    def _solution(self, groups: Sequence[np.ndarray], starts: Sequence[np.ndarray]) -> Solution:
        with torch.inference_mode(False), torch.enable_grad():
            return solved(in_batch(self._arguments, groups, starts))

    def kept(self, solution: SolvedSideBySide) -> list[dict[str, np.ndarray]]:
        return [
            {"start": start, "outputs": outputs}
            for start, outputs in zip(solution.starts, solution.outputs, strict=True)
        ]

    def restored(
        self, groups: Sequence[np.ndarray], kept: Sequence[dict[str, np.ndarray]]
    ) -> SolvedSideBySide:
        return SolvedSideBySide(groups, [one["start"] for one in kept], [one["outputs"] for one in kept])

    def tangents(self, solution: SolvedSideBySide, starts: Sequence[np.ndarray]) -> list[np.ndarray]:
        solved = solution.solution
        if solved is None:
            solved = self._solution(solution.times, solution.starts)
        count, size = len(starts), len(solution.starts[0])
        by_start = any(change.any() for change in starts)
        found = changes(solved, self._parameters, count, by_start)
        return [
            with_starts(found[: len(times), i * size : (i + 1) * size], change, self.count)
            for i, (times, change) in enumerate(zip(solution.times, starts, strict=True))
        ]


def in_batch(arguments: Arguments, times: Sequence[np.ndarray], starts: Sequence[np.ndarray]) -> Arguments:
    """The arguments of one solve of these intervals."""
    count, last = len(times), max(map(len, times))
    padded = np.stack([np.pad(own, (0, last - len(own)), mode="edge") for own in times])
    y0 = torch.from_numpy(np.stack(starts)).to(arguments.y0)  # type: ignore[arg-type]
    mass, newton = arguments.mass, arguments.newton
    if isinstance(newton, Newton):
        newton = dataclasses.replace(newton, atol=_for_each(newton.atol, count))
    if isinstance(mass, Tensor) and mass.dim() == 2:
        mass = mass[None]  # so that it is not taken for one diagonal a sample
    atol = _for_each(arguments.atol, count)
    t = torch.from_numpy(padded)
    return dataclasses.replace(arguments, y0=y0, t=t, batch_dims=1, mass=mass, newton=newton, atol=atol)


def _for_each(tolerance, count: int):
    """Of one sample for all of them."""
    return tolerance.expand(count, *tolerance.shape) if isinstance(tolerance, Tensor) else tolerance


def takes_batch(arguments: Arguments, times: np.ndarray, start: np.ndarray) -> bool:
    """Whether intervals can be solved by :class:`SideBySide`: what it asks of func, method and arguments.

    ``arguments`` are right for one interval; ``times`` (rows,) and ``start`` (size,) are such a one.
    """
    if arguments.make_consistent:  # has no sensitivities with times of each sample's own
        return False
    try:
        with solving_on(Space()), torch.inference_mode(False), torch.no_grad():
            check(in_batch(arguments, [times] * TRIED, [start] * TRIED))
    except Exception:  # whatever func raises for a shape that it does not expect
        return False
    return True
