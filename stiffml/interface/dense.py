"""A solution as it is drawn: at the ends of its steps, between them, and at its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from stiffml.errors import ReplayError
from stiffml.interface.piece import Piece
from stiffml.system.state import State

POINTS = 1500
"""At least so many, where steps are few."""

NUMBERS = 1e7
"""At most so many in all, of large states."""


def dense(
    t: Tensor, y: State, pieces: Sequence[Piece], interpolant: Callable[[Tensor], State]
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Times, states (n, size) there, and whether lines may join them, from what a Solution holds.

    The times are all outputs, the ends of all steps, and times between these where steps are few. Where the
    steps are not known any more, or the states are too many numbers, they are the outputs, not to be joined.
    """
    outputs = t.detach().cpu().double().numpy()
    parts = y if isinstance(y, tuple) else (y,)
    at_outputs = torch.cat([part.detach().reshape(len(part), -1) for part in parts], dim=1)
    width = max(1, at_outputs.shape[1])
    times = _times(pieces, outputs, math.floor(NUMBERS / width))
    if len(times) <= len(outputs):
        return outputs, at_outputs.cpu().numpy(), False
    try:
        with torch.no_grad():
            states = interpolant(torch.from_numpy(times))
    except ReplayError:  # func is no longer what it was
        return outputs, at_outputs.cpu().numpy(), False
    parts = states if isinstance(states, tuple) else (states,)
    flat = torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)
    return times, flat.cpu().numpy(), True


def _times(pieces: Sequence[Piece], outputs: np.ndarray, most: int) -> np.ndarray:
    found = [outputs]
    steps = sum(piece.tape.replay.trajectory.n_steps for piece in pieces)
    if not steps or steps + len(outputs) > most:
        return outputs
    between = max(1, min(-(-POINTS // steps), most // (steps + len(outputs)) - 1))
    fractions = np.arange(between) / between
    sign = 1.0
    for number, piece in enumerate(pieces):
        replay = piece.tape.replay
        sign, ends = replay.system.direction, replay.trajectory.times
        if len(ends) < 2:
            continue
        # A time at which two pieces meet belongs to the first; the state may jump there.
        begin = np.nextafter(ends[0], ends[1]) if number else ends[0]
        inside = ends[:-1, None] + fractions * np.diff(ends)[:, None]
        found.append(sign * np.concatenate([[begin], inside.ravel()[1:], ends[-1:]]))
    return sign * np.unique(sign * np.concatenate(found))
