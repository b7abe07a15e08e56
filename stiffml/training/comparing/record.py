"""What is kept of a training while it goes on: a line for each iteration, and weights now and then.

A line is written as soon as an iteration has ended, so that a kill loses none. Where a resumed training goes
back to its last saved state, the lines written again count.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from stiffml.files import save_atomically

LINES, GROWTH = "record.jsonl", 1.5


@dataclass(frozen=True)
class Line:
    """One iteration.

    Attributes
    ----------
    iteration : int
        From 1.
    loss, norm : float
        Mean square of the residuals that are fitted to at the time, and the norm of its gradient; NaN where
        there is none.
    failures : int
        Solves that failed, and updates that were halved.
    wall_s, cpu_s : float
        Seconds of this iteration.
    rhs_evals, jacobians, accepted, rejected : int
        Its costs, forwards and backwards.
    """

    iteration: int
    loss: float
    norm: float
    failures: int
    wall_s: float
    cpu_s: float
    rhs_evals: int
    jacobians: int
    accepted: int
    rejected: int


NAMES = tuple(one.name for one in fields(Line))


class Record:
    """The record of one training in its folder.

    Parameters
    ----------
    folder : Path
        With what an earlier process has left there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines = {line.iteration: line for line in _read(folder / LINES)}

    def upto(self, iteration: int) -> list[Line]:
        """The lines of the iterations 1 to this one."""
        return [self._lines[i] for i in sorted(self._lines) if i <= iteration]

    def add(self, line: Line) -> None:
        self._lines[line.iteration] = line
        with (self._folder / LINES).open("a") as file:
            file.write(json.dumps(asdict(line)) + "\n")

    def due(self, iteration: int) -> bool:
        """Whether weights are kept after this iteration: the first ones, then ever rarer."""
        number = 1
        while number < iteration:
            number = max(number + 1, round(number * GROWTH))
        return number == iteration

    def keep(self, iteration: int, weights: Sequence[Tensor]) -> None:
        held = [one.detach().clone() for one in weights]
        save_atomically(self._folder / f"weights-{iteration:07d}.pt", lambda file: torch.save(held, file))

    def kept(self, last: int) -> dict[int, list[Tensor]]:
        """By iteration the weights that were kept, up to the last one."""
        found = {}
        for path in sorted(self._folder.glob("weights-*.pt")):
            iteration = int(path.stem.partition("-")[2])
            if iteration <= last:
                found[iteration] = torch.load(path, weights_only=True)
        return found


def _read(path: Path) -> list[Line]:
    """The complete lines of a file; the last one may have been cut by a kill."""
    found = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(Line(**json.loads(text)))
        except (ValueError, TypeError):
            continue
    return found


def trainable(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def put(model: nn.Module, weights: Sequence[Tensor]) -> None:
    """Give the model these weights."""
    with torch.no_grad():
        for parameter, one in zip(trainable(model), weights, strict=True):
            parameter.copy_(one)
