"""The equations of a segment whose structure is known: with nodes in its order, which is not found anew."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from stiffml.all_at_once.structure import Structure
from stiffml.discretization.equations import Equations, Nodes
from stiffml.discretization.trajectory import Segment


class OrderedEquations(Equations):
    """The equations of a structure, with nodes in its order; made by :func:`ordered`.

    Attributes
    ----------
    structure : Structure
    """

    def __init__(self, segment: Segment, structure: Structure) -> None:
        super().__init__(segment, list(structure.blocks))
        self.structure = structure

    @cached_property
    def f_nodes(self) -> Nodes:
        return self._in_order("f")

    @cached_property
    def g_nodes(self) -> Nodes:
        return self._in_order("g")

    @cached_property
    def _vectors(self) -> np.ndarray:
        return self.structure.topology.order.vectors(self.segment)

    def _in_order(self, name: str) -> Nodes:
        topology = self.structure.topology
        at, _ = topology.nodes[name]
        s, u = torch.from_numpy(self.structure.node_times(name)), torch.from_numpy(self._vectors[at])
        return Nodes(s, u, topology.order.numbers[at], topology.node_index[name])


def ordered(structure: Structure, segment: Segment) -> OrderedEquations | None:
    """The equations of a segment, if it has the steps of a structure from their start, and all of its nodes.

    Rosenbrock rows have nodes besides those of the structure.
    """
    lacks_stages = segment.stages is None and any(block.pattern.stages for block in structure.blocks)
    if lacks_stages or segment.first != 0 or structure.topology.brackets:
        return None
    same = np.array_equal(np.sort(structure.topology.order.steps), segment.which)
    return OrderedEquations(segment, structure) if same else None
