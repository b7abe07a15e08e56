"""The rows of a structure as the arrays that C reads."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from stiffml.all_at_once.in_c.interface import PartStruct, SystemStruct, address
from stiffml.all_at_once.matrix import Jacobians
from stiffml.all_at_once.structure import Structure
from stiffml.system.system import System


class Rows:
    """Coefficients and index arrays of a structure, and where they are in a ``SystemStruct``."""

    def __init__(self, structure: Structure) -> None:
        topology, numbers = structure.topology, structure.coefficients
        entries = topology.entries
        beta, epsilon = np.zeros((2, len(entries.row)))
        beta[entries.with_beta], epsilon[entries.with_epsilon] = numbers.beta, numbers.epsilon
        self.tested = topology.tested.astype(np.uint8)
        self.solved = entries.row[topology.solved.entry].astype(np.int64)
        self.before = topology.solved.before.astype(np.int64)
        self._kept = [
            np.ascontiguousarray(entries.starts, dtype=np.int64),
            np.ascontiguousarray(entries.column, dtype=np.int64),
            np.ascontiguousarray(numbers.alpha),
            beta,
            epsilon,
            entries.weighted[topology.diagonal].astype(np.uint8),
        ]
        starts, column, alpha, beta_at, epsilon_at, weighted = map(address, self._kept)
        self._template = SystemStruct(
            given=topology.given,
            unknowns=topology.unknowns,
            starts=starts,
            column=column,
            alpha=alpha,
            beta=beta_at,
            epsilon=epsilon_at,
            weighted=weighted,
        )

    def struct(self, system: System) -> SystemStruct:
        """A new one, for a system with these equations."""
        struct = SystemStruct.from_buffer_copy(self._template)
        struct.samples, struct.width = system.layout.samples, system.layout.width
        if system.mass is not None:
            struct.mass, struct.masses = address(system.mass.blocks), len(system.mass.blocks)
        return struct


_KNOWN: WeakKeyDictionary[Structure, Rows] = WeakKeyDictionary()


def rows_of(structure: Structure) -> Rows:
    """Made once for a structure, and kept as long as that is."""
    found = _KNOWN.get(structure)
    if found is None:
        found = _KNOWN[structure] = Rows(structure)
    return found


def put_jacobians(struct: PartStruct, jacobians: Jacobians) -> None:
    """Give a part the Jacobians at its nodes."""
    struct.nodes, struct.node = len(jacobians.blocks), address(jacobians.node)
    struct.jacobians = address(jacobians.blocks)
