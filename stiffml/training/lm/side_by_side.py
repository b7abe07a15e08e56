"""Solves all intervals in one call, each with times and steps of its own: for models that take a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stiffml.interface.arguments import Arguments
from stiffml.interface.integrate import solved
from stiffml.interface.own_times.checking import check
from stiffml.interface.solution import Solution
from stiffml.settings import Newton
from stiffml.system.space import Space, solving_on
from stiffml.training.lm.separately import Separately, SolvedSeparately, changes, outputs_of, with_starts

TRIED = 2
"""With so many samples a model is tried."""


class SideBySide(Separately):
    """The solver of intervals with one solve for all, for a model that takes a batch."""

    def _solutions(self, times: Sequence[np.ndarray], starts: Sequence[np.ndarray]) -> list[Solution]:
        with torch.inference_mode(False), torch.enable_grad():
            return [solved(in_batch(self._arguments, times, starts))]

    def _outputs(self, solutions: list[Solution], times: Sequence[np.ndarray]) -> list[np.ndarray]:
        values = outputs_of(solutions[0])  # (n, intervals, size), the last row of each repeated
        return [values[: len(own), i] for i, own in enumerate(times)]

    def derivatives(self, solution: SolvedSeparately, starts: Sequence[np.ndarray]) -> list[np.ndarray]:
        (of_all,) = self.solutions_of(solution)
        count, size = len(starts), len(solution.starts[0])
        by_start = any(change.any() for change in starts)
        found = changes(of_all, self._parameters, count, by_start)
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
