"""Tangents of a run: from those of u0 and θ to those of all states, stages and outputs.

Where Jacobians are small dense blocks, all rows of a segment are solved at once for all tangents; elsewhere
they are solved row by row.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.equations import Equations
from stiffml.discretization.interpolation import Reading
from stiffml.gradients.directions import Directions
from stiffml.gradients.exponential import require_linear_part_held
from stiffml.gradients.linearized import (
    SEGMENT_NUMBERS,
    as_blocks,
    curvatures_of,
    last_state,
    linearize,
    longest_segment,
)
from stiffml.gradients.tangent_steps import Changes, Tangents, tangents_row_by_row
from stiffml.gradients.tangents_at_once import tangents_at_once
from stiffml.gradients.tape import Tape
from stiffml.native.replay import Replay
from stiffml.run.checkpoints import Checkpoints
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.derivatives.linearization import Linearization


class TangentSweep:
    """Computes P tangents along a run.

    Parameters
    ----------
    replay : Replay
    u0 : ndarray
        (P, size) tangents of the initial state; for several trajectories (P, trajectories · size).
    directions : Directions
        P directions of the parameters.

    Attributes
    ----------
    states : dict of int to ndarray
        The tangents (P, size) of the states reached so far, by number.

    Raises
    ------
    NotImplementedError
        For tangents of a mass matrix, or of a parameter of the linear part of an exponential method.
    """

    def __init__(self, replay: Replay, u0: np.ndarray, directions: Directions) -> None:
        system = replay.system
        if system.mass_has_gradient and directions.moves(len(system.parameters) - 1):
            raise NotImplementedError(
                "forward sensitivities and second derivatives with respect to the mass matrix are not "
                "available"
            )
        if replay.method.exponential:
            require_linear_part_held(replay, directions)
        self._replay, self._directions = replay, directions
        starts = replay.trajectory.starts.tolist()
        self.states: dict[int, np.ndarray] = dict(zip(starts, np.split(u0, len(starts), axis=1), strict=True))

    def run(self, checkpoints: Checkpoints, last: int) -> None:
        """Sweep all steps up to state ``last``."""
        replay = self._replay
        numbers = 8 * self._directions.count * replay.system.f.largest
        longest = max(1, min(longest_segment(replay), SEGMENT_NUMBERS // numbers))
        for segment in checkpoints.forwards(replay, last, longest):
            equations = replay.equations(segment)
            f, g = linearize_both(equations, replay)
            self.segment(equations, f, g, curvatures_of(equations, replay.system.f))

    def output(self, reading: Reading) -> np.ndarray:
        """The tangents (P, size) of an output."""
        pairs = zip(reading.weights.tolist(), reading.states.tolist(), strict=True)
        return np.asarray(sum(weight * self.states[state] for weight, state in pairs))

    def segment(
        self,
        equations: Equations,
        f: Linearization,
        g: Linearization | None,
        curvatures: list[Curvature | None],
    ) -> Tangents:
        """Sweep one segment; ``states`` must have the tangents of the states that it starts from."""
        system, along = self._replay.system, self._directions
        nodes = equations.f_nodes
        through = {"f": along.through(system.f, nodes.s, nodes.u)}
        if system.g is not None:
            nodes = equations.g_nodes
            through["g"] = along.through(system.g, nodes.s, nodes.u)
        brackets = [
            {} if curvature is None else along.through_brackets(curvature) for curvature in curvatures
        ]
        changes = Changes(through, curvatures, brackets)
        blocks = as_blocks(f, g, curvatures) if len(equations.segment.which) > 1 else None
        if blocks is not None:
            return tangents_at_once(equations, system, *blocks, changes, self.states)
        return tangents_row_by_row(equations, system, f, g, changes, self.states)


def linearize_both(equations: Equations, replay: Replay) -> tuple[Linearization, Linearization | None]:
    """The Jacobians of f and g at the nodes of a segment."""
    method, system = replay.method, replay.system
    f = linearize(equations.f_nodes, method.implicit, system.f, replay)
    return f, None if system.g is None else linearize(equations.g_nodes, False, system.g, replay)


def output_tangents(tape: Tape, u0: np.ndarray, directions: Directions) -> Tensor:
    """The tangents (n_outputs, P, size) of the outputs, from those of u0 (P, size) and of the parameters."""
    sweep = TangentSweep(tape.replay, u0, directions)
    sweep.run(tape.checkpoints, last_state(tape.readings))
    return torch.from_numpy(np.stack([sweep.output(reading) for reading in tape.readings]))
