"""Solves intervals one after the other: for any solve."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from stiffml.gradients.adjoint import reverse
from stiffml.gradients.directions import Along
from stiffml.gradients.jacobian import Columns, output_jacobian
from stiffml.interface.arguments import Arguments
from stiffml.interface.integrate import solved
from stiffml.interface.sensitivities import tangents_of
from stiffml.interface.solution import Solution
from stiffml.training.lm.separately import (
    Path,
    Separately,
    SolvedSeparately,
    changes,
    outputs_of,
    with_starts,
)


class OneByOne(Separately):
    """The solver of intervals with a solve for each."""

    def _solutions(self, times: Sequence[np.ndarray], starts: Sequence[np.ndarray]) -> list[Solution]:
        pairs = zip(times, starts, strict=True)
        return [one_solution(self._arguments, own, start, graph=True) for own, start in pairs]

    def _outputs(self, solutions: list[Solution], times: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(map(outputs_of, solutions))

    def derivatives(self, solution: SolvedSeparately, starts: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            with_starts(self._changes(one, bool(change.any())), change, self.count)
            for one, change in zip(self.solutions_of(solution), starts, strict=True)
        ]

    def _changes(self, solution: Solution, by_start: bool) -> np.ndarray:
        """See ``changes``; by adjoints where they are fewer than the parameters."""
        assert isinstance(solution.y, torch.Tensor)
        if solution.y.numel() >= self.count:
            return changes(solution, self._parameters, 1, by_start)
        piece = solution.pieces[0]
        tape = piece.tape.with_readings(piece.tape.run.readings)
        position = {id(p): i for i, p in enumerate(tape.replay.system.parameters)}
        used = [p for p in self._parameters if id(p) in position]  # the others have no effect
        columns = Columns(by_start, tuple(position[id(p)] for p in used))
        with torch.inference_mode(False), torch.no_grad(), tape.at_work():
            found = output_jacobian(tape, columns)[tape.run.in_time].numpy()
        rows, size, _ = found.shape
        start, *parts = np.split(found, np.cumsum([size * by_start, *(p.numel() for p in used)])[:-1], axis=2)
        known = dict(zip(map(id, used), parts, strict=True))
        of_each = [known.get(id(p), np.zeros((rows, size, p.numel()))) for p in self._parameters]
        return np.concatenate([*of_each, start], axis=2)

    def along(
        self, solved: SolvedSeparately, v: np.ndarray, starts: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """The derivatives (rows, size) of each interval along ``v`` (count,) and ``starts``, (size,) each."""
        parts = torch.from_numpy(v).split([p.numel() for p in self._parameters])
        moves = {id(p): part.view_as(p).to(p) for p, part in zip(self._parameters, parts, strict=True)}
        found = []
        for solution, start in zip(self.solutions_of(solved), starts, strict=True):
            piece = solution.pieces[0]
            direction = [moves.get(id(p)) for p in piece.tape.replay.system.parameters]
            found.append(tangents_of(piece, start[None], Along([direction]))[:, 0].numpy())
        return found

    def back(
        self, solved: SolvedSeparately, cotangents: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """The gradients (count,) of Σ ⟨cotangent, outputs⟩, and (size,) of each interval by its start."""
        found, by_start = np.zeros(self.count), []
        first = np.cumsum([0, *(p.numel() for p in self._parameters)]).tolist()
        place = {id(p): slice(a, b) for p, a, b in zip(self._parameters, first, first[1:], strict=False)}
        for solution, cotangent in zip(self.solutions_of(solved), cotangents, strict=True):
            piece = solution.pieces[0]
            run, tape = piece.tape.run, piece.tape.with_readings(piece.tape.run.readings)
            of_readings = torch.zeros(len(run.readings), cotangent.shape[1], dtype=torch.float64)
            of_readings[run.in_time] = torch.from_numpy(cotangent)
            with torch.inference_mode(False), torch.no_grad(), tape.at_work():
                gradients = reverse(tape, of_readings)
            by_start.append(gradients.u0.double().cpu().numpy())
            for p, gradient in zip(tape.replay.system.parameters, gradients.parameters, strict=True):
                if gradient is not None and id(p) in place:
                    found[place[id(p)]] += gradient.detach().cpu().double().numpy().ravel()
        return found, by_start


def one_solution(arguments: Arguments, times: np.ndarray, start: np.ndarray, graph: bool = False) -> Solution:
    """Solve one interval, with what derivatives need or without."""
    y0 = torch.from_numpy(start).to(arguments.y0)  # type: ignore[arg-type]
    with torch.inference_mode(False), torch.set_grad_enabled(graph):
        return solved(dataclasses.replace(arguments, y0=y0, t=torch.from_numpy(times)))


def path_of(solution: Solution) -> Path:
    """The ends of its steps and the states there, or the outputs if states were not kept."""
    run = solution.pieces[0].tape.run
    states = run.checkpoints.states
    if states is None:
        return solution.t.detach().cpu().double().numpy(), outputs_of(solution)
    return run.trajectory.times.copy(), states
