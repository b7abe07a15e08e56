"""The reverse sweep of a segment by one transposed linear solve instead of row by row.

R = L A x − B f(x) − E g(x) [− J x − τ ∂f/∂s] = 0 are the equations of all steps of a segment. Their
multipliers w solve (∂R/∂x)ᵀ w = dL/dx. The results are the same as those of :mod:`stiffml.gradients.sweep`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from stiffml.all_at_once.equations import OrderedEquations, ordered
from stiffml.all_at_once.factored import Factored, FactoredBlocks, product, transposed_product
from stiffml.all_at_once.in_c.factored import FactoredInC
from stiffml.all_at_once.in_c.qualifying import has_rows_in_c
from stiffml.all_at_once.matrix import Jacobians
from stiffml.all_at_once.solve import Kept
from stiffml.all_at_once.structure import Structure
from stiffml.all_at_once.topology import Topology, topology_of
from stiffml.all_at_once.triangular import WIDE
from stiffml.discretization.equations import Equations, Nodes
from stiffml.discretization.trajectory import Segment
from stiffml.gradients.sweep import Pending, Swept
from stiffml.linear.dense.lu import DenseBlocks
from stiffml.native.replay import Replay
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.system import System
from stiffml.system.trials import require_same_product


def kept_of(equations: Equations, kept: object) -> Kept | None:
    """What the forward run has kept, if it is of the equations of this segment."""
    if not isinstance(kept, Kept) or any(block.pattern.outputs for block in equations.blocks):
        return None
    known = kept.structure.blocks
    if len(known) == len(equations.blocks) and all(map(operator.is_, known, equations.blocks)):
        return kept
    # Steps with these numbers have one topology, as long as it is kept.
    return kept if topology_of(equations.blocks) is kept.structure.topology else None


def equations_of(replay: Replay, segment: Segment, kept: object) -> Equations:
    """The equations of a segment; those of the forward run if it has kept them."""
    known = None
    if isinstance(kept, Kept) and not replay.has_queries:
        known = ordered(kept.structure, segment)
    return known or replay.equations(segment)


def factored_anew(
    equations: Equations,
    system: System,
    f: DenseBlocks,
    g: DenseBlocks | None,
    curvatures: Sequence[Curvature | None],
    columns: int = 1,
    structure: Structure | None = None,
) -> Factored:
    """The equations of a segment with these Jacobians, for ``columns`` right-hand sides.

    ``structure``: theirs, if it is known and the equations do not say.
    """
    if isinstance(equations, OrderedEquations):
        structure = equations.structure
    elif structure is None:
        structure = Structure(equations.blocks)

    def jacobians(part: DenseBlocks, nodes: Nodes) -> Jacobians:
        return Jacobians(part.at(np.arange(len(nodes.s))), nodes_of_positions(structure.topology, nodes))

    at_f = jacobians(f, equations.f_nodes)
    at_g = None if g is None else jacobians(g, equations.g_nodes)
    if has_rows_in_c(structure) and system.layout.width * columns <= WIDE:
        return FactoredInC.of(structure, system, at_f, at_g)
    return FactoredBlocks.of(structure, system, at_f, at_g, curvatures, columns)


def require_independent(factored: Factored, equations: Equations, system: System) -> None:
    """Raise ValueError if samples depend on each other at the end of a run."""
    for part, jacobians, nodes in (
        (system.f, factored.f, equations.f_nodes),
        (system.g, factored.g, equations.g_nodes if system.g is not None else None),
    ):
        if part is not None and jacobians is not None and nodes is not None and len(nodes.s):
            k = int(nodes.s.argmax())
            at = np.flatnonzero(nodes_of_positions(factored.structure.topology, nodes) == k)[-1:]
            require_same_product(DenseBlocks.of(jacobians.at(at)), part, nodes.s, nodes.u, k)


def sweep_at_once(
    equations: Equations, system: System, factored: Factored, pending: Pending, columns: tuple[int, ...] = ()
) -> Swept:
    """Reverse a segment as :func:`stiffml.gradients.sweep.sweep` does, for Jacobians as dense blocks.

    With ``columns`` = (R,) R losses are reversed at once: ``pending`` has (size, R) for each state, and what
    is returned has R in the last place too.
    """
    topology = factored.structure.topology
    nodes = {"f": equations.f_nodes}
    if system.g is not None:
        nodes["g"] = equations.g_nodes
    node_of = {name: nodes_of_positions(topology, part) for name, part in nodes.items()}
    size, given, shape = equations.size, topology.given, (system.layout.samples, system.layout.width)
    cotangents = np.zeros((topology.count, size, *columns))  # those of given states stay zero at first
    _take_pending(topology, pending, cotangents)
    slopes = {name: np.zeros((len(part.s), size, *columns)) for name, part in nodes.items()}
    of_outputs = np.empty((0, size, *columns))
    if len(topology.outputs):
        of_outputs = _through_outputs(factored, pending, cotangents, slopes, node_of, shape)
    multipliers, *found = factored.reverse(cotangents)
    for (name, total), part in zip(slopes.items(), found, strict=False):
        if part is not None and len(total):
            jacobians = factored.f if name == "f" else factored.g
            assert jacobians is not None
            if jacobians.node is node_of[name]:
                total += part
                continue
            at = topology.nodes[name][0]
            at = at[node_of[name][at] >= 0]  # Jacobians of Rosenbrock rows are at further ones
            total[node_of[name][at]] += part[jacobians.node[at]]
    for state, cotangent in zip(topology.known.tolist(), cotangents[:given], strict=True):
        pending.add(state, cotangent)
    swept = Swept(slopes["f"], slopes.get("g"), [])
    for rows, asked in zip(topology.equations, topology.output_equations, strict=True):
        steps, outputs = multipliers[rows.T], of_outputs[asked.T]
        swept.multipliers.append(np.concatenate([steps, outputs]) if len(outputs) else steps)
    return swept


def _through_outputs(
    factored: Factored,
    pending: Pending,
    cotangents: np.ndarray,
    slopes: dict[str, np.ndarray],
    node_of: dict[str, np.ndarray],
    shape: tuple[int, int],
) -> np.ndarray:
    """Reverse the rows of outputs between the ends of steps, which nothing depends on.

    Adds to the ``cotangents`` (count, size, …) of what they are made of and to those of ``slopes``. Returns
    their own, (outputs, size, …). ``shape``: (samples, width).
    """
    structure, topology = factored.structure, factored.structure.topology
    entries, (_, size, *columns) = topology.output_entries, cotangents.shape
    zero = np.zeros((size, *columns))
    own = np.array([pending.pop(state, zero) for state in topology.outputs.tolist()])
    cotangents -= product(structure.outputs_of_vectors().T, own)
    for name, jacobians in (("f", factored.f), ("g", factored.g)):
        if jacobians is None or not len(slopes[name]):
            continue
        along = product(structure.outputs_of_slopes(name, node_of[name], len(slopes[name])).T, own)
        slopes[name] += along
        at = np.unique(entries.column[entries.with_beta if name == "f" else entries.with_epsilon])
        here = along[node_of[name][at]].reshape(len(at), *shape, *columns)
        cotangents[at] += transposed_product(jacobians.at(at), here).reshape(len(at), size, *columns)
    return own


def nodes_of_positions(topology: Topology, nodes: Nodes) -> np.ndarray:
    """(count,) int, from positions to the nodes of a segment; −1 at other positions."""
    for name, known in topology.node_index.items():
        if nodes.index is known:
            return topology.nodes[name][1]
    node = np.full(topology.count, -1)
    for at, index in zip(topology.positions, nodes.index, strict=True):
        for c, where in index.items():
            node[at[c]] = where
    return node


def _take_pending(topology: Topology, pending: Pending, cotangents: np.ndarray) -> None:
    """Move those of the segment's unknowns from ``pending`` to ``cotangents`` (count, size, …)."""
    positions = topology.positions_of(tuple(pending))
    taken, own = [], positions >= topology.given
    for state, is_own in zip(list(pending), own.tolist(), strict=True):
        if is_own:
            taken.append(pending.pop(state))
    if taken:
        cotangents[positions[own]] = np.concatenate(taken).reshape(-1, *cotangents.shape[1:])
