"""The Jacobians of f and g in the steps of a segment, and how many steps a segment may have."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stiffml.discretization.equations import Block, Equations, Nodes
from stiffml.discretization.interpolation import Reading, StateReadings
from stiffml.linear.dense.lu import DenseBlocks
from stiffml.native.replay import Replay
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.jacobian import NARROW
from stiffml.system.derivatives.linearization import Linearization, Products, PulledBack

SEGMENT_NUMBERS = 4_000_000
"""Largest number of float64 values in a segment (32 MB), counted as eight arrays of its replicated states."""


def last_state(readings: Sequence[Reading]) -> int:
    """The number of the last state that the outputs depend on."""
    if isinstance(readings, StateReadings):
        return int(readings.states.max())
    return max([reading.end for reading in readings])


def longest_segment(replay: Replay) -> int:
    """The number of steps of a segment that fit into ``SEGMENT_NUMBERS``."""
    system, numbers = replay.system, 1
    if replay.method.implicit:
        numbers = replay.solver.numbers_per_jacobian
    elif is_narrow(system.f):
        numbers = system.layout.width
    return max(1, SEGMENT_NUMBERS // (system.f.largest * numbers * 8))


def is_narrow(dynamics: Dynamics) -> bool:
    """Whether whole Jacobians of f are evaluated, and not single products."""
    return dynamics.layout.width <= NARROW and not dynamics.space.is_distributed


def linearize(
    nodes: Nodes, solves: bool, dynamics: Dynamics, replay: Replay, pulls: bool = False
) -> Linearization:
    """The Jacobians of f or g at the nodes.

    If ``solves``, they support linear solves. Otherwise they are dense blocks for small systems, and
    Jacobian products for others; where the sweep ``pulls``, those give the gradient of the parameters too.
    """
    system = replay.system
    if solves:
        return replay.solver.linearize(
            dynamics, nodes.s, nodes.u, system.mass, constant=system.constant_jacobian
        )
    if is_narrow(dynamics):
        return DenseBlocks(dynamics, nodes.s, nodes.u, system.mass)
    return (PulledBack if pulls and not dynamics.is_compiled else Products)(dynamics, nodes.s, nodes.u)


def jacobian_of_phi(equations: Equations, number: int, replay: Replay) -> Linearization | None:
    """That of the φ-functions of a block; None if it has none."""
    if not equations.blocks[number].pattern.phi:
        return None
    return linearize(equations.f_nodes, True, replay.system.f, replay)


def curvatures_of(equations: Equations, dynamics: Dynamics) -> list[Curvature | None]:
    """For each block the derivative of its Rosenbrock brackets; None for other methods."""
    return [
        _curvature(equations, block, dynamics) if block.pattern.has_rosenbrock else None
        for block in equations.blocks
    ]


def as_blocks(
    f: Linearization, g: Linearization | None, curvatures: Sequence[Curvature | None]
) -> tuple[DenseBlocks, DenseBlocks | None] | None:
    """f and g if all rows of a segment can be solved at once: all Jacobians are dense blocks."""
    if not isinstance(f, DenseBlocks) or not (g is None or isinstance(g, DenseBlocks)):
        return None
    if not all(curvature is None or curvature.blocks is not None for curvature in curvatures):
        return None
    return f, g


def _curvature(equations: Equations, block: Block, dynamics: Dynamics) -> Curvature:
    pattern = block.pattern
    states = block.state_of(pattern.base)
    assert states is not None
    directions = {row.index: equations.column(block, row.column) for row in pattern.rows if row.rosenbrock}
    s, u = equations.segment.times_at(states), equations.segment.states_at(states)
    return Curvature(
        dynamics, torch.from_numpy(s), torch.from_numpy(u), directions, block.numbers.tau.numpy()
    )
