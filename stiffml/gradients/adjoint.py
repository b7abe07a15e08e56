"""The discrete adjoint of a run: from dL/dy at the outputs to dL/dy0, dL/dθ and dL/dt.

The work is batched over time, one segment of consecutive steps after the other. One call computes the
Jacobians at all points at which the segment evaluated f. The reverse sweep then needs small linear algebra
only. One more call computes the parameter gradient of the whole segment. Segments of one step give the same
numbers with the least memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.equations import Block, Equations, Nodes
from stiffml.discretization.interpolation import Reading
from stiffml.discretization.trajectory import Segment
from stiffml.gradients.by_sample import reversed_by_sample
from stiffml.gradients.same_values import SameFunc
from stiffml.gradients.sweep import Pending, sweep
from stiffml.gradients.tape import Tape
from stiffml.gradients.times import AtNodes, TimeGradient
from stiffml.gradients.transposed import (
    equations_of,
    factored_anew,
    kept_of,
    require_independent,
    sweep_at_once,
)
from stiffml.linear.dense.constant import ConstantBlocks
from stiffml.linear.dense.lu import DenseBlocks
from stiffml.native.replay import Replay
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.jacobian import NARROW
from stiffml.system.derivatives.linearization import Linearization, Products, PulledBack
from stiffml.system.derivatives.products import added
from stiffml.system.system import System
from stiffml.system.trials import require_same_product

SEGMENT_NUMBERS = 4_000_000
"""Largest number of float64 values in a segment (32 MB), counted as eight arrays of its replicated states."""


@dataclass
class Gradients:
    """The gradients of a loss L.

    For several trajectories, ``u0`` and ``times`` are concatenated over them.

    Attributes
    ----------
    u0 : Tensor
        (size,) dL/du0.
    parameters : list of Tensor or None
        dL/dθ; None for parameters that f does not depend on.
    times : ndarray or None
        (n_ends,) dL/d(times on which steps must end), in solver time, if wanted.
    between : ndarray or None
        (Q,) dL/d(times of outputs between step ends), in solver time, if wanted.
    """

    u0: Tensor
    parameters: list[Tensor | None]
    times: np.ndarray | None
    between: np.ndarray | None


def reverse(
    tape: Tape, cotangents: Tensor, wrt_time: bool = False, same: SameFunc | None = None
) -> Gradients:
    """The gradients of a run by the reverse sweep over all its steps.

    Parameters
    ----------
    tape : Tape
        The tape of the run.
    cotangents : Tensor
        (n_outputs, size) float64, dL/dy at the outputs.
    wrt_time : bool
        Whether dL/dt is wanted. Default False.
    same : SameFunc, optional
        Gets the values of f that are computed, for a check that func has not changed.
    """
    found = None if wrt_time else reversed_by_sample(tape, cotangents)
    if found is not None:
        return Gradients(torch.from_numpy(found.u0.ravel()), found.parameters, None, None)
    replay, readings = tape.replay, tape.readings
    trajectory, method, system = replay.trajectory, replay.method, replay.system
    pending = Pending()
    pending.read_all(readings, cotangents.numpy())
    longest = longest_segment(replay)
    total = Total(system, TimeGradient(trajectory) if wrt_time else None)
    if method.implicit:
        replay.solver.release()
    try:
        # Steps after the last output, as in a run that failed, do not influence the outputs.
        is_last = True
        for segment in tape.checkpoints.segments(replay, last_state(readings), longest):
            _reverse_segment(replay, segment, pending, total, is_last, tape.run.kept, same)
            is_last = False
            del segment  # frees its memory before the next one is made
    finally:
        if method.implicit:
            replay.solver.release()
    times = between = None
    if total.times is not None:
        between = system.space.sum_array(total.times.add_readings(readings, cotangents.numpy()))
        times = trajectory.output_gradient(total.times.boundaries)
        if len(trajectory.starts) > 1 and total.times.ends.any():
            raise NotImplementedError(
                f"{method} has stages outside their step, whose times are those of an end of the solve; the "
                "gradient with respect to times is for one trajectory at a time there"
            )
        times[[0, -1]] += total.times.ends
        times = system.space.sum_array(times)
    zero = np.zeros(system.layout.size)
    u0 = np.concatenate([pending.pop(start, zero) for start in trajectory.starts.tolist()])
    return Gradients(torch.from_numpy(u0), total.over_all_parts(), times, between)


def last_state(readings: Sequence[Reading]) -> int:
    """The number of the last state that the outputs depend on."""
    return max([reading.end for reading in readings])


def longest_segment(replay: Replay) -> int:
    """The number of steps of a segment that fit into ``SEGMENT_NUMBERS``."""
    system, numbers = replay.system, 1
    if replay.method.implicit:
        numbers = replay.solver.numbers_per_jacobian
    elif _is_narrow(system.f):
        numbers = system.layout.width
    return max(1, SEGMENT_NUMBERS // (system.f.largest * numbers * 8))


def _is_narrow(dynamics: Dynamics) -> bool:
    return dynamics.layout.width <= NARROW and not dynamics.space.is_distributed


class Total:
    """Accumulates dL/dθ, and dL/dt if wanted, over the segments."""

    def __init__(self, system: System, times: TimeGradient | None) -> None:
        self.system, self.times = system, times
        self.parameters: list[Tensor | None] = [None] * len(system.parameters)

    def over_all_parts(self) -> list[Tensor | None]:
        """dL/dθ summed over the processes that share the state. A mass matrix is local and not summed."""
        shared, space = len(self.system.f.parameters), self.system.space
        summed: list[Tensor | None] = []
        for parameter, part in zip(self.system.f.parameters, self.parameters[:shared], strict=True):
            # A parameter may matter in some processes only, such as at a boundary. All must join the sum.
            if space.every(part is None):
                summed.append(None)
            else:
                summed.append(space.sum_tensor(torch.zeros_like(parameter) if part is None else part))
        return [*summed, *self.parameters[shared:]]

    def add(self, gradients: list[Tensor | None]) -> None:
        """Add the parameter gradients of a segment; None for zero."""
        for position, part in enumerate(gradients):
            self.parameters[position] = added((self.parameters[position], part))


def _reverse_segment(
    replay: Replay,
    segment: Segment,
    pending: Pending,
    total: Total,
    is_last: bool,
    known: object,
    same: SameFunc | None,
) -> None:
    method, system = replay.method, replay.system
    if same is not None and segment.stages is None and len(method.kept_stages(system.form)):
        same.require()  # before f is evaluated for the stages
    equations = equations_of(replay, segment, known)
    wanted = total.times is not None or system.mass_has_gradient
    curvatures: list[Curvature | None] = [None] * len(equations.blocks)
    kept = kept_of(equations, known)
    if same is not None and kept is None:
        same.require()
    factored = None if kept is None else kept.factored
    through = [True, system.g is not None]  # whether the parameters of f and g are to be reached yet
    if factored is not None:
        if is_last and system.layout.samples > 1:
            require_independent(factored, equations, system)
        swept = sweep_at_once(equations, system, factored, pending)
    else:
        pulls = total.times is None and kept is None  # else more than the sweep yields is wanted
        f = linearize(equations.f_nodes, method.implicit, system.f, replay, pulls)
        g = None if system.g is None else linearize(equations.g_nodes, False, system.g, replay, pulls)
        if is_last and system.layout.samples > 1:
            _require_independent_samples(equations, system, f, g)
        curvatures = curvatures_of(equations, system.f)
        wanted = wanted or any(curvatures)
        # Large states have segments of one step, and no room for more matrices.
        blocks = as_blocks(f, g, curvatures) if len(segment.which) > 1 else None
        if blocks is not None:
            structure = None if kept is None else kept.structure
            anew = factored_anew(equations, system, *blocks, curvatures, structure=structure)
            swept = sweep_at_once(equations, system, anew, pending)
            del anew
        else:
            swept = sweep(equations, system, f, g, curvatures, pending, with_multipliers=wanted)
        for part in (f, g):
            if isinstance(part, PulledBack):
                total.add(part.parameters)
                through[part is g] = False
        del f, g, blocks  # frees the Jacobians, which may be large
    if method.implicit:
        replay.solver.release_jacobian()
    at_f = at_g = None
    uses: list[set[int]] = []
    if through[0]:
        at_f, used = _through(system.f, equations.f_nodes, swept.f, total)
        uses.append(used)
    if through[1] and system.g is not None and swept.g is not None:
        at_g, used = _through(system.g, equations.g_nodes, swept.g, total)
        uses.append(used)
    if same is not None and kept is not None:
        same.compare(kept, [at for at in (at_f, at_g) if at is not None], uses)
    for number, block in enumerate(equations.blocks if wanted else ()):
        multipliers, curvature, wrt_tau = swept.multipliers[number], curvatures[number], None
        if curvature is not None:
            parameters, wrt_s, wrt_tau = curvature.gradients(multipliers)
            total.add(parameters)
            if total.times is not None:
                total.times.add(block.known[:, block.pattern.base], wrt_s)
        if system.mass_has_gradient:
            wrt_mass = mass_gradient(block, multipliers, partial(equations.column, block), system)
            total.add([*[None] * len(system.f.parameters), wrt_mass])
        if total.times is not None:
            assert at_f is not None
            total.times.add_block(equations, number, system, multipliers, at_f, at_g, wrt_tau)


def _require_independent_samples(
    equations: Equations, system: System, f: Linearization, g: Linearization | None
) -> None:
    """Raise ValueError if samples depend on each other at the end of the run."""
    for part, linearization, nodes in (
        (system.f, f, equations.f_nodes),
        (system.g, g, equations.g_nodes if g is not None else None),
    ):
        if part is None or linearization is None or nodes is None or not len(nodes.s):
            continue
        # Products are what would be compared with; the Jacobian of all samples has been compared.
        is_done = isinstance(linearization, ConstantBlocks) and linearization.is_shared
        if not is_done and not isinstance(linearization, Products):
            require_same_product(linearization, part, nodes.s, nodes.u, int(nodes.s.argmax()))


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
    if _is_narrow(dynamics):
        return DenseBlocks(dynamics, nodes.s, nodes.u, system.mass)
    return (PulledBack if pulls and not dynamics.is_compiled else Products)(dynamics, nodes.s, nodes.u)


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


def _through(
    dynamics: Dynamics, nodes: Nodes, cotangents: np.ndarray, total: Total
) -> tuple[AtNodes, set[int]]:
    """Propagate dL/df at the nodes (M, size) to the parameters, and to the times of those that are states.

    Also returns the positions of the parameters that f depends on there.
    """
    wrt_time = total.times is not None
    slopes, parameters, wrt_s, wrt_ends = dynamics.vjp(
        nodes.s, nodes.u, torch.from_numpy(cotangents), wrt_time
    )
    total.add(parameters)
    at = AtNodes(nodes, slopes.numpy(), wrt_s.numpy())
    if total.times is not None:
        total.times.add_nodes(at)
        total.times.ends += wrt_ends.numpy()
    return at, {position for position, part in enumerate(parameters) if part is not None}


def mass_gradient(
    block: Block, multipliers: np.ndarray, column: Callable[[int], np.ndarray], system: System
) -> Tensor:
    """dL/dM = −Σ w (Σ_c α_c x_c)ᵀ, summed over the steps and the rows with L = M.

    ``multipliers`` (rows, steps, size) are the w; ``column(c)`` returns x_c (steps, size).
    """
    assert system.mass is not None
    gradient = np.zeros(1)
    alpha = block.numbers.alpha.numpy()
    for row in block.pattern.rows:
        if row.weighted:
            combined = sum(alpha[:, row.index, c, None] * column(c) for c in (*row.alpha, row.column))
            gradient = gradient - system.mass.gradient(multipliers[row.index], np.asarray(combined))
    return system.mass.as_given(gradient)
