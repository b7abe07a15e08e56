"""The equations of many steps as one system: which vectors enter which rows, with which coefficients."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from stiffml.all_at_once.entries import Entries
from stiffml.all_at_once.topology import keep, topology_of
from stiffml.discretization.equations import Block, Form
from stiffml.discretization.trajectory import Segment, Trajectory
from stiffml.methods import Method


class Structure:
    """The equations of a segment as one system: R = L A x − B f(x) − E g(x) [− J x − τ ∂f/∂s] = 0.

    Attributes
    ----------
    blocks : sequence of Block
        Together they hold every step of the segment.
    topology : Topology
        Which vectors there are, and where they enter. The matrix of the system is block lower triangular.
    coefficients : Coefficients
        Of the entries of the topology.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks, self.topology = blocks, topology_of(blocks)
        self.coefficients = self.topology.entries.coefficients(blocks)
        self._of_slopes: dict[str, csr_array] = {}
        self._node_times: dict[str, np.ndarray] = {}

    @cached_property
    def times(self) -> np.ndarray:
        """(count,) the times of the vectors that are states or half steps; zero for stages."""
        topology = self.topology
        found = np.zeros(topology.count)
        for block, at in zip(self.blocks, topology.positions, strict=True):
            pattern, times = block.pattern, block.times.numpy()
            for c in range(pattern.history):
                found[at[c]] = times[:, c]
            found[at[pattern.new]] = times[:, pattern.history]
            if pattern.keeps_half:
                found[at[pattern.history]] = times[:, pattern.base : pattern.history + 1].mean(axis=1)
        return found

    def node_times(self, name: str) -> np.ndarray:
        """(M,) the times at the nodes of the topology for ``name``, "f" or "g"."""
        if name not in self._node_times:
            s = self.times.copy()
            for block, at in zip(self.blocks, self.topology.positions, strict=True):
                for c in block.pattern.stages:
                    s[at[c]] = getattr(block.numbers, f"s_{name}")[:, c].numpy()
            self._node_times[name] = s[self.topology.nodes[name][0]]
        return self._node_times[name]

    @cached_property
    def of_vectors(self) -> csr_array:
        """A: (unknowns, count), from vectors to rows."""
        topology, entries = self.topology, self.topology.entries
        return csr_array(
            (self.coefficients.alpha, entries.column, entries.starts),
            shape=(topology.unknowns, topology.count),
        )

    def of_slopes(self, name: str, node: np.ndarray, nodes: int) -> csr_array:
        """B for ``name`` "f", or E for "g": (unknowns, nodes), from slopes to rows.

        ``node`` (count,) int are the nodes of the vectors. For the array of the topology it is made once.
        """
        if node is self.topology.nodes[name][1]:
            return self.of_slopes_at_nodes(name)
        return self._of_slopes_at(name, node, nodes)

    def of_slopes_at_nodes(self, name: str) -> csr_array:
        """The same for the nodes of the topology."""
        if name not in self._of_slopes:
            places, node = self.topology.nodes[name]
            self._of_slopes[name] = self._of_slopes_at(name, node, len(places))
        return self._of_slopes[name]

    def _of_slopes_at(self, name: str, node: np.ndarray, nodes: int) -> csr_array:
        entries, f = self.topology.entries, name == "f"
        return _matrix(
            entries,
            entries.with_beta if f else entries.with_epsilon,
            self.coefficients.beta if f else self.coefficients.epsilon,
            node,
            (self.topology.unknowns, nodes),
        )

    def outputs_of_slopes(self, name: str, node: np.ndarray, nodes: int) -> csr_array:
        """The same for the rows of outputs: (outputs, nodes)."""
        entries, f = self.topology.output_entries, name == "f"
        numbers = entries.coefficients(self.blocks)
        return _matrix(
            entries,
            entries.with_beta if f else entries.with_epsilon,
            numbers.beta if f else numbers.epsilon,
            node,
            (len(self.topology.outputs), nodes),
        )

    def outputs_of_vectors(self) -> csr_array:
        """(outputs, count), the α of the rows of outputs."""
        entries = self.topology.output_entries
        numbers = entries.coefficients(self.blocks)
        shape = len(self.topology.outputs), self.topology.count
        return csr_array((numbers.alpha, entries.column, entries.starts), shape=shape)


_KNOWN: OrderedDict[object, Structure] = OrderedDict()


def structure_of(method: Method, segment: Segment, form: Form) -> Structure:
    """The equations of a segment; of the last few, kept, since trainings repeat steps.

    They depend on the times of the steps alone. Those of a window, which has some of the steps, are not kept.
    """
    if type(segment) is not Segment:
        return Structure(method.blocks(segment, form))
    trajectory = segment.trajectory
    parts = (trajectory,) if isinstance(trajectory, Trajectory) else trajectory.parts
    key = (
        method,
        form,
        (segment.first, segment.last, segment.origin),
        trajectory.times[: segment.last + 1].tobytes(),
        tuple((part.n_steps, None if part.half is None else part.half[0]) for part in parts),
    )
    found = _KNOWN.pop(key, None) or Structure(method.blocks(segment, form))
    keep(_KNOWN, key, found, len(found.topology.entries.row))
    return found


def _matrix(
    entries: Entries, which: np.ndarray, numbers: np.ndarray, node: np.ndarray, shape: tuple[int, int]
) -> csr_array:
    """The matrix with ``numbers`` at some of the entries, whose vectors have nodes."""
    starts = np.searchsorted(which, entries.starts)
    return csr_array((numbers, node[entries.column[which]], starts), shape=shape)
