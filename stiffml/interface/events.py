"""Events of a solve: those asked for, and after it those that were passed on the way."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.polynomial.chebyshev import chebder, chebval, chebvander
from scipy.optimize import brentq
from torch import Tensor

from stiffml.checks import described
from stiffml.gradients.events import at_event
from stiffml.interface.interpolation import interpolated_piece, read_values
from stiffml.interface.piece import Piece
from stiffml.run.crossings import Crossing, Event, Events, checked
from stiffml.run.events import START_ROUNDINGS
from stiffml.system.system import System

NODES = (1 - np.cos(np.pi * np.arange(1, 6) / 6)) / 2
"""Where the solution within a step is looked at, as parts of it: with its ends, 7 Chebyshev points.

Interpolants within a step are polynomials of degree 5 or less, which these values determine.
"""

BYTES = 2**26
"""Memory for the states that are looked at together."""


def events_of(event: object) -> tuple[Crossing, ...]:
    """The events in an argument of this name.

    Raises
    ------
    TypeError
        For anything but a function, a :class:`Crossing`, or a sequence of these.
    """
    if event is None:
        return ()
    given: list[Any] = list(event) if isinstance(event, list | tuple) else [event]
    for number, one in enumerate(given):
        if not isinstance(one, Crossing) and not callable(one):
            where = f" at position {number}" if isinstance(event, list | tuple) else ""
            raise TypeError(
                "event must be callable as event(t, y), a Crossing, or a list of these, "
                f"not {described(one)}{where}"
            )
    return tuple(one if isinstance(one, Crossing) else Crossing(one) for one in given)


def all_events(
    crossings: Sequence[Crossing], pieces: Sequence[Piece], ended: Event | None
) -> tuple[Events, ...]:
    """For each event function where it was zero, by the runs of a solve and the event that ended it."""
    layout = pieces[0].tape.replay.system.layout
    rows: list[list[tuple[Tensor, Tensor]]] = [[] for _ in crossings]
    passed = {n: crossing for n, crossing in enumerate(crossings) if not crossing.terminal}
    for position, piece in enumerate(pieces if passed else ()):
        for number, roots in _roots(passed, piece, position == 0).items():
            if roots:
                rows[number] += _differentiable(passed[number], piece, roots)
    if ended is not None:
        rows[ended.number].append((ended.t, layout.flatten(ended.y)))
    none = torch.empty(0, layout.size + 1, dtype=layout.dtype, device=layout.device)
    found = []
    for each in rows:
        t = torch.stack([t for t, _ in each]) if each else none[:, 0]
        u = torch.stack([u for _, u in each]) if each else none[:, 1:]
        found.append(Events(t, layout.unflatten(u)))
    return tuple(found)


def _differentiable(
    crossing: Crossing, piece: Piece, roots: Sequence[tuple[float, np.ndarray]]
) -> list[tuple[Tensor, Tensor]]:
    """The times () and states (size,) of these roots."""
    system = piece.tape.replay.system
    s = np.array([s for s, _ in roots])
    times = torch.from_numpy(system.direction * s).to(system.layout.device, system.layout.dtype)
    rows = zip(times, interpolated_piece(piece, times, s), roots, strict=True)
    return [at_event(crossing.function, system, t, u, system.direction * root[1]) for t, u, root in rows]


@torch.inference_mode(False)
@torch.no_grad()
def _roots(
    crossings: Mapping[int, Crossing], piece: Piece, is_first: bool
) -> dict[int, list[tuple[float, np.ndarray]]]:
    """For each event function its roots in one run, in solver time, with du/ds (size,) there."""
    system, ends = piece.tape.replay.system, piece.tape.run.trajectory.times
    per_step = len(NODES) + 1
    count = max(1, BYTES // (8 * 6 * per_step * system.layout.size))
    # As for events that end a run, a root at the start does not count.
    slack = START_ROUNDINGS * np.finfo(float).eps * max(abs(ends[0]), abs(ends[-1]))
    least = ends[0] + slack if is_first else -np.inf
    found: dict[int, list[tuple[float, np.ndarray]]] = {number: [] for number in crossings}
    for first in range(0, len(ends) - 1, count):
        here = ends[first : first + count + 1]
        inner = here[:-1, None] + np.diff(here)[:, None] * np.concatenate([[0.0], NODES])
        s = np.append(inner.ravel(), here[-1])
        states = read_values(piece.tape, s)
        for number, crossing in crossings.items():
            values = np.array([_value(crossing, system, at, u) for at, u in zip(s, states, strict=True)])
            for k in range(len(here) - 1):
                rows = slice(k * per_step, (k + 1) * per_step + 1)
                roots = _within(crossing, system, (here[k], here[k + 1]), states[rows], values[rows])
                found[number] += [root for root in roots if root[0] > least]
    return found


def _value(crossing: Crossing, system: System, s: float, u: np.ndarray) -> float:
    layout = system.layout
    state = torch.from_numpy(u).to(layout.device, layout.dtype)
    time = system.f.span.own_time(system.direction * s)
    t = torch.tensor(time, dtype=layout.dtype, device=layout.device)
    return float(checked(crossing.function(t, layout.unflatten(state))))


def _within(
    crossing: Crossing, system: System, span: tuple[float, float], states: np.ndarray, values: np.ndarray
) -> list[tuple[float, np.ndarray]]:
    """The same within one step, by the states (7, size) and values (7,) at its ends and nodes."""
    changes = [
        k
        for k, (a, b) in enumerate(itertools.pairwise(values))
        if crossing.takes(a) and (a * b < 0 or b == 0)
    ]
    if not changes:
        return []
    begin, size = span[0], span[1] - span[0]
    parts = np.concatenate([[0.0], NODES, [1.0]])
    course = np.linalg.solve(chebvander(2 * parts - 1, len(parts) - 1), states)

    def value(part: float) -> float:
        return _value(crossing, system, begin + part * size, np.asarray(chebval(2 * part - 1, course)))

    found = []
    for k in changes:
        part, high = parts[k : k + 2]
        if values[k + 1] == 0 or value(part) * value(high) >= 0:
            part = high
        else:
            part = brentq(value, part, high, xtol=1e-15)
        velocity = chebval(2 * part - 1, chebder(course)) * 2 / size
        found.append((float(begin + part * size), velocity))
    return found
