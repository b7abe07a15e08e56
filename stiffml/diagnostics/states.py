"""States along a solution, and the Jacobians there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import described, texts
from stiffml.checks import times as checked_times
from stiffml.discretization.trajectory import Trajectory
from stiffml.interface.piece import Piece
from stiffml.interface.solution import Solution
from stiffml.system.state import Layout
from stiffml.system.system import System


@dataclass(frozen=True)
class States:
    """States of one run.

    Attributes
    ----------
    piece : Piece
        The run.
    s : Tensor
        (K,) solver times, which increase in the direction of integration.
    u : Tensor
        (K, size)
    """

    piece: Piece
    s: Tensor
    u: Tensor

    @property
    def system(self) -> System:
        return self.piece.tape.replay.system

    @property
    def t(self) -> np.ndarray:
        """(K,) the times as the user has them."""
        return self.system.direction * self.s.numpy()

    def jacobians(self) -> np.ndarray:
        """∂(f + g)/∂u in solver time, (K, samples, width, width)."""
        with self.piece.tape.at_work():
            parts = [part.jacobian_blocks(self.s, self.u) for part in self.system.parts]
        return sum(parts[1:], parts[0]).detach().numpy()

    def slopes(self) -> np.ndarray:
        """f + g in solver time, (K, size)."""
        with self.piece.tape.at_work():
            return sum(part.evaluate_many(self.s, self.u) for part in self.system.parts).numpy()  # type: ignore[union-attr]


def require_one_process(name: str, sol: Solution) -> Layout:
    """The layout of a solution whose samples share their times and that is whole in one process.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        With the name of the function that asks.
    """
    if not isinstance(sol, Solution):
        raise TypeError(f"{name}: sol must be a Solution, not {described(sol)}")
    if not sol.pieces or any(piece.by_sample is not None for piece in sol.pieces):
        raise ValueError(f"{name}: every sample has times of its own; solve one sample alone and pass that")
    system = sol.pieces[0].tape.replay.system
    if system.space.is_distributed:
        raise NotImplementedError(f"{name}: a field that is spread over processes; use one process")
    for piece in sol.pieces:
        piece.tape.require_same_func()
    return system.layout


def trajectory_of(piece: Piece) -> Trajectory:
    """The steps of a run whose samples share their times."""
    trajectory = piece.tape.replay.trajectory
    assert isinstance(trajectory, Trajectory)
    return trajectory


def at_steps(sol: Solution, points: int) -> list[States]:
    """States at the ends of at most ``points`` steps, evenly by number, the first and the last among them."""
    counts = [trajectory_of(piece).n_steps for piece in sol.pieces]
    first = np.cumsum([0, *(count + 1 for count in counts)])
    chosen = np.unique(np.linspace(0, first[-1] - 1, min(points, first[-1])).round().astype(int))
    found = []
    for piece, begin, end in zip(sol.pieces, first[:-1], first[1:], strict=True):
        own = chosen[(chosen >= begin) & (chosen < end)] - begin
        if len(own):
            s = torch.from_numpy(trajectory_of(piece).times[own].copy())
            found.append(States(piece, s, torch.from_numpy(_numbered(piece, own))))
    return found


def _numbered(piece: Piece, numbers: np.ndarray) -> np.ndarray:
    """(K, size) states by their increasing numbers, computed again where they were not kept."""
    tape = piece.tape
    if not trajectory_of(piece).n_steps:
        return tape.checkpoints.start[None].copy()
    rows = np.empty((len(numbers), tape.replay.system.layout.size))
    with torch.no_grad(), tape.at_work():
        for segment in tape.checkpoints.forwards(tape.replay, int(numbers[-1]) or 1, 64):
            here = (numbers >= segment.first) & (numbers <= segment.last)
            rows[here] = segment.states[numbers[here] - segment.origin]
    return rows


def at_times(sol: Solution, t: Tensor) -> list[States]:
    """States at any times of the span, in the order of integration."""
    t = checked_times("times", t).detach().double().cpu()
    layout = sol.pieces[0].tape.replay.system.layout
    with torch.no_grad():
        u = layout.flatten(sol.interpolate(t)).detach().cpu().double()
    found = []
    left = torch.ones(len(t), dtype=torch.bool)
    for piece in sol.pieces:
        s = piece.tape.replay.system.direction * t
        last = piece is sol.pieces[-1]
        own = left & ((s <= trajectory_of(piece).times[-1]) | last)
        left &= ~own
        if own.any():
            found.append(States(piece, s[own], u[own]))
    return found


def span_of(sol: Solution) -> float:
    """The length of time that was integrated."""
    return float(sum(trajectory_of(p).times[-1] - trajectory_of(p).times[0] for p in sol.pieces))


def component_names(layout: Layout, names: Sequence[str] | None) -> list[str]:
    """Of the ``width`` components of a sample: those given, or what indexes the state, such as ``y[0]``."""
    if names is not None:
        return list(texts("names", names, layout.width))
    found = []
    for number, shape in enumerate(layout.shapes):
        lead = f"y{number}" if layout.is_tuple else "y"
        own = shape[len(layout.batch) :]
        for index in np.ndindex(*own):
            found.append(f"{lead}[{', '.join(map(str, index))}]" if index else lead)
    return found
