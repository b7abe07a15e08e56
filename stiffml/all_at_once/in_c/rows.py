"""The rows of a structure as the arrays that C reads."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from stiffml.all_at_once import judgement
from stiffml.all_at_once.in_c.interface import NewtonStruct, SystemStruct
from stiffml.all_at_once.structure import Structure
from stiffml.compiled.address import address
from stiffml.system.system import System


class Rows:
    """Coefficients and index arrays of a structure, and where they are in a ``SystemStruct``."""

    def __init__(self, structure: Structure) -> None:
        topology, numbers = structure.topology, structure.coefficients
        entries = topology.entries
        beta, epsilon = np.zeros((2, len(entries.row)))
        beta[entries.with_beta], epsilon[entries.with_epsilon] = numbers.beta, numbers.epsilon
        self._kept = [
            np.ascontiguousarray(entries.starts, dtype=np.int64),
            np.ascontiguousarray(entries.column, dtype=np.int64),
            np.ascontiguousarray(numbers.alpha),
            beta,
            epsilon,
            entries.weighted[topology.diagonal].astype(np.uint8),
            topology.tested.astype(np.uint8),
            entries.row[topology.solved.entry].astype(np.int64),
            topology.solved.before.astype(np.int64),
        ]
        starts, column, alpha, beta_at, epsilon_at, weighted, tested, solved, before = map(
            address, self._kept
        )
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
        for name, part in (("f", self._template.f), ("g", self._template.g)):
            at, node = topology.nodes[name]
            part.nodes, part.at, part.node = len(at), address(at), address(node)
        self._newton = NewtonStruct(
            tested=tested,
            max_iterations=judgement.MAX_ITERATIONS,
            divergence=judgement.DIVERGENCE,
            clean=judgement.CLEAN,
            near=judgement.NEAR,
            few=judgement.FEW_ITERATES,
            rounding=judgement.ROUNDING_LEVEL,
            solved=len(topology.solved.entry),
            row=solved,
            before=before,
        )

    def struct(self, system: System) -> SystemStruct:
        """A new one, for a system with these equations, with the nodes of the topology."""
        struct = SystemStruct.from_buffer_copy(self._template)
        struct.samples, struct.width = system.layout.samples, system.layout.width
        if system.mass is not None:
            struct.mass, struct.masses = address(system.mass.blocks), len(system.mass.blocks)
        if system.g is None:
            struct.g.nodes = 0
        return struct

    def newton(self) -> NewtonStruct:
        """A new one, without tolerances."""
        return NewtonStruct.from_buffer_copy(self._newton)


_KNOWN: WeakKeyDictionary[Structure, Rows] = WeakKeyDictionary()


def rows_of(structure: Structure) -> Rows:
    """Made once for a structure, and kept as long as that is."""
    found = _KNOWN.get(structure)
    if found is None:
        found = _KNOWN[structure] = Rows(structure)
    return found
