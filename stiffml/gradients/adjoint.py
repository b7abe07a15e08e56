"""The discrete adjoint of a run: from dL/dy at the outputs to dL/dy0, dL/dθ and dL/dt.

The work is batched over time, one segment of consecutive steps after the other. One call computes the
Jacobians at all points at which the segment evaluated f. The reverse sweep then needs small linear algebra
only. One more call computes the parameter gradient of the whole segment. Segments of one step give the same
numbers with the least memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.equations import Equations, Nodes
from stiffml.discretization.trajectory import Segment
from stiffml.gradients.by_sample import reversed_by_sample
from stiffml.gradients.explicit import ExplicitSweep
from stiffml.gradients.exponential import LinearPart, linear_part_has_parameters
from stiffml.gradients.linearized import (
    as_blocks,
    curvatures_of,
    jacobian_of_phi,
    last_state,
    linearize,
    longest_segment,
)
from stiffml.gradients.mass import mass_gradient
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
from stiffml.system.derivatives.joint import GraphedBlocks, KeptGraphs
from stiffml.system.derivatives.linearization import Linearization, Products, PulledBack
from stiffml.system.derivatives.products import added
from stiffml.system.function.batching import Batching
from stiffml.system.system import System
from stiffml.system.trials import require_same_product


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
    is_finite : bool
        Whether they are known to be finite.
    """

    u0: Tensor
    parameters: list[Tensor | None]
    times: np.ndarray | None = None
    between: np.ndarray | None = None
    is_finite: bool = False


def reverse(
    tape: Tape, cotangents: Tensor, wrt_time: bool = False, same: SameFunc | None = None
) -> Gradients:
    """The gradients of a run by the reverse sweep over all its steps; see :func:`_reverse`.

    Graphs of func that the run has kept are used if they still can be: not if what func reads has been
    changed in place, which torch notices.
    """
    graphs = tape.run.kept if isinstance(tape.run.kept, KeptGraphs) else None
    if graphs is None or not len(graphs):
        return _reverse(tape, cotangents, wrt_time, same, None)
    try:
        return _reverse(tape, cotangents, wrt_time, same, graphs)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
    graphs.clear()
    return _reverse(tape, cotangents, wrt_time, same, None)


def _reverse(
    tape: Tape, cotangents: Tensor, wrt_time: bool, same: SameFunc | None, graphs: KeptGraphs | None
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
    graphs : KeptGraphs or None
        The graphs of func that the run has kept, which are used up.
    """
    found = None if wrt_time else reversed_by_sample(tape, cotangents)
    if found is not None:
        return Gradients(torch.from_numpy(found.u0.ravel()), found.parameters, is_finite=True)
    if same is not None:
        same.torch_is_needed()
    replay, readings = tape.replay, tape.readings
    trajectory, method, system = replay.trajectory, replay.method, replay.system
    pending = Pending()
    pending.read_all(readings, cotangents.numpy())
    longest = longest_segment(replay)
    total = Total(system, TimeGradient(trajectory) if wrt_time else None)
    if method.exponential and linear_part_has_parameters(system):
        total.linear_part = LinearPart(replay)
    explicit = None
    if is_swept_by_stages(replay):
        explicit = ExplicitSweep(replay, pending, total.times, tape.run.before if same else None, graphs)
    if method.implicit:
        replay.solver.release()
    try:
        # Steps after the last output, as in a run that failed, do not influence the outputs.
        is_last = True
        for segment in tape.checkpoints.segments(replay, last_state(readings), longest):
            if explicit is not None:
                explicit.reverse(segment)
            else:
                _reverse_segment(replay, segment, pending, total, is_last, tape.run.kept, same)
            is_last = False
            del segment  # frees its memory before the next one is made
        if explicit is not None:
            explicit.finish()
            total.add(explicit.parameters)
            if same is not None:
                same.conclude(explicit.is_as_it_was)
        if total.linear_part is not None:
            total.add(total.linear_part.parameters())
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


def is_swept_by_stages(replay: Replay) -> bool:
    """Whether a run is reversed stage by stage, with one backward pass of func for each."""
    return not replay.method.implicit and replay.system.f.is_reversed_by_stages


class Total:
    """Accumulates dL/dθ, and dL/dt if wanted, over the segments."""

    def __init__(self, system: System, times: TimeGradient | None) -> None:
        self.system, self.times = system, times
        self.linear_part: LinearPart | None = None  # of exponential methods, where that has parameters
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
    wanted = total.times is not None or system.mass_has_gradient or total.linear_part is not None
    curvatures: list[Curvature | None] = [None] * len(equations.blocks)
    kept = kept_of(equations, known)
    if same is not None and kept is None:
        same.require()
    factored, graphed = None if kept is None else kept.factored, None
    through = [True, system.g is not None]  # whether the parameters of f and g are to be reached yet
    if factored is not None:
        if is_last and system.layout.samples > 1:
            require_independent(factored, equations, system)
        swept = sweep_at_once(equations, system, factored, pending)
    else:
        pulls = total.times is None and kept is None  # else more than the sweep yields is wanted
        f: Linearization
        graphed = _graphed(equations.f_nodes, replay, total.times is not None)
        if graphed is not None:
            f = DenseBlocks.of(graphed.blocks.numpy(), constant=False)
        else:
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
        at_f, used = _through(system.f, equations.f_nodes, swept.f, total, graphed)
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
        if total.linear_part is not None:
            total.linear_part.add(equations, number, multipliers)
        if total.times is not None:
            assert at_f is not None
            jacobian = jacobian_of_phi(equations, number, replay)
            total.times.add_block(equations, number, system, multipliers, at_f, at_g, wrt_tau, jacobian)


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


def _graphed(nodes: Nodes, replay: Replay, wrt_time: bool) -> GraphedBlocks | None:
    """f at the nodes of an explicit method, whose graph serves its Jacobian and its parameters."""
    f = replay.system.f
    if replay.method.implicit or f.is_compiled or not len(nodes.s):
        return None
    if f.batching_at(float(nodes.s[0]), nodes.u[0].numpy()) is Batching.LOOP:
        return None
    return GraphedBlocks(f, nodes.s, nodes.u, wrt_time)


def _through(
    dynamics: Dynamics,
    nodes: Nodes,
    cotangents: np.ndarray,
    total: Total,
    graphed: GraphedBlocks | None = None,
) -> tuple[AtNodes, set[int]]:
    """Propagate dL/df at the nodes (M, size) to the parameters, and to the times of those that are states.

    Also returns the positions of the parameters that f depends on there.
    """
    wrt_time = total.times is not None
    weights = torch.from_numpy(cotangents)
    if graphed is not None:
        slopes, parameters, wrt_s, wrt_ends = graphed.vjp(weights, wrt_time)
    else:
        slopes, parameters, wrt_s, wrt_ends = dynamics.vjp(nodes.s, nodes.u, weights, wrt_time)
    total.add(parameters)
    at = AtNodes(nodes, slopes.numpy(), wrt_s.numpy())
    if total.times is not None:
        total.times.add_nodes(at)
        total.times.ends += wrt_ends.numpy()
    return at, {position for position, part in enumerate(parameters) if part is not None}
