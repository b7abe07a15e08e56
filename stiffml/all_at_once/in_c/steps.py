"""The equations of many steps, solved by Newton's iteration in C."""

from __future__ import annotations

import ctypes

import numpy as np

from stiffml.all_at_once.evaluation import Slopes
from stiffml.all_at_once.in_c.factored import FactoredInC, loaded
from stiffml.all_at_once.in_c.interface import CONVERGED, NO_MEMORY, PartStruct, room
from stiffml.all_at_once.in_c.rows import rows_of
from stiffml.all_at_once.judgement import StepsNotConvergedError
from stiffml.all_at_once.matrix import Jacobians
from stiffml.all_at_once.structure import Structure
from stiffml.compiled.address import address
from stiffml.settings import NewtonLimits
from stiffml.system.derivatives.compiled_dynamics import CompiledDynamics
from stiffml.system.system import System


class StepsInC:
    """What ``ManySteps`` is for functions in torch, for compiled ones.

    Attributes
    ----------
    last : FactoredInC or None
        The equations as they were factorised for the last update.
    """

    last: FactoredInC | None = None

    def __init__(self, structure: Structure, system: System) -> None:
        self._structure, self._system = structure, system
        self._slopes: list[Slopes] = []

    def solve(
        self, x: np.ndarray, limits: NewtonLimits, atol: np.ndarray, scale: np.ndarray, trusted: bool
    ) -> tuple[np.ndarray, int, float]:
        """As :meth:`stiffml.all_at_once.newton.ManySteps.solve`."""
        structure, system, rows = self._structure, self._system, rows_of(self._structure)
        topology, samples, width = structure.topology, system.layout.samples, system.layout.width
        struct, newton = rows.struct(system), rows.newton()
        parts = list(zip("fg", system.parts, (struct.f, struct.g), strict=False))
        nodes = [len(topology.nodes[name][0]) for name, _, _ in parts]
        (found, lu, *arrays), (start, struct.lu, *places) = room(
            [
                x.shape,
                (topology.unknowns, samples, width, width),
                *((count, samples * width) for count in nodes),
                *((count, samples, width, width) for count in nodes),
            ]
        )
        pivots = np.empty(lu.shape[:3], dtype=np.int32)
        struct.pivots = address(pivots)
        times = []
        for number, (name, part, to) in enumerate(parts):
            times.append(structure.node_times(name) * part.direction)
            to.values, to.jacobians = places[number], places[len(parts) + number]
            _enter(part, times[-1], to)
        newton.rtol, newton.trusted = limits.rtol, trusted
        newton.atol, newton.scale = address(atol), address(scale)
        found[:] = x
        ended = loaded().stiffml_solve(ctypes.byref(struct), ctypes.byref(newton), start)
        beside = newton.evaluated_beside
        for name, part, to in parts:
            if to.nodes:
                at, count = topology.nodes[name][0][-1], newton.iterations * to.nodes + beside
                s = float(structure.node_times(name)[-1])
                part.stepped(count, count, s, (found if ended == CONVERGED else x)[at])
            beside = 0  # g is not evaluated there
        if ended == NO_MEMORY:
            raise MemoryError("Newton's iteration in C: no memory")
        if ended != CONVERGED:
            raise StepsNotConvergedError(newton.iterations)
        jacobians = []
        for (name, _, _), values, blocks in zip(parts, arrays, arrays[len(parts) :], strict=False):
            at, node = topology.nodes[name]
            self._slopes.append(Slopes(at, values))
            jacobians.append(Jacobians(blocks, node))
        self.last = FactoredInC(structure, jacobians[0], (*jacobians, None)[1], system, lu, pivots)
        return found, newton.iterations, newton.change

    def slopes_at(self, x: np.ndarray) -> list[Slopes]:
        """The values of f and g at the solution ``x``."""
        return self._slopes

    def is_jacobian_right(self) -> bool:
        """Whether it is: that of compiled code is."""
        return True


def _enter(part: object, t: np.ndarray, struct: PartStruct) -> None:
    """Put a compiled function where C reads it, with its own times at the nodes."""
    assert isinstance(part, CompiledDynamics)
    code = part.compiled.code
    struct.samples = part.layout.size // code.size
    struct.blocks = code.loop("blocks", len(t) * struct.samples)
    struct.p, struct.t, struct.direction = address(part.compiled.p), address(t), part.direction
