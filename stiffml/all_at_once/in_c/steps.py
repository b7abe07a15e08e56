"""The equations of many steps, solved by Newton's iteration in C."""

from __future__ import annotations

import ctypes

import numpy as np

from stiffml.all_at_once import newton as judged
from stiffml.all_at_once.evaluation import Slopes
from stiffml.all_at_once.factored import Factored
from stiffml.all_at_once.in_c.factored import FactoredInC, loaded, room_for_factors
from stiffml.all_at_once.in_c.interface import CONVERGED, NO_MEMORY, NewtonStruct, PartStruct, address
from stiffml.all_at_once.in_c.rows import put_jacobians, rows_of
from stiffml.all_at_once.matrix import Jacobians
from stiffml.all_at_once.newton import StepsNotConvergedError
from stiffml.all_at_once.structure import Structure
from stiffml.settings import NewtonLimits
from stiffml.system.derivatives.compiled_dynamics import CompiledDynamics
from stiffml.system.system import System


class StepsInC:
    """What ``ManySteps`` is for functions in torch, for compiled ones.

    Attributes
    ----------
    last : Factored
        The equations as they were factorised for the last update.
    """

    def __init__(self, structure: Structure, system: System) -> None:
        self._structure, self._system, self._rows = structure, system, rows_of(structure)
        self._parts = [
            _Part(part, structure, name, *structure.topology.nodes[name])
            for name, part in zip("fg", system.parts, strict=False)
        ]
        f, g = (*(part.jacobians for part in self._parts), None)[:2]
        assert f is not None
        self._factors = room_for_factors(structure, system)
        self.last: Factored = FactoredInC(structure, f, g, system, *self._factors)

    def solve(
        self, x: np.ndarray, limits: NewtonLimits, atol: np.ndarray, scale: np.ndarray, trusted: bool
    ) -> tuple[np.ndarray, int, float]:
        """As :meth:`stiffml.all_at_once.newton.ManySteps.solve`."""
        struct, rows = self._rows.struct(self._system), self._rows
        struct.lu, struct.pivots = map(address, self._factors)
        for to, part in zip((struct.f, struct.g), self._parts, strict=False):
            part.enter(to)
        newton = NewtonStruct(
            rtol=limits.rtol,
            atol=address(atol),
            scale=address(scale),
            tested=address(rows.tested),
            trusted=trusted,
            max_iterations=judged.MAX_ITERATIONS,
            divergence=judged.DIVERGENCE,
            clean=judged.CLEAN,
            near=judged.NEAR,
            few=judged.FEW_ITERATES,
            rounding=judged.ROUNDING_LEVEL,
            solved=len(rows.solved),
            row=address(rows.solved),
            before=address(rows.before),
        )
        found = x.copy()
        ended = loaded().stiffml_solve(ctypes.byref(struct), ctypes.byref(newton), address(found))
        beside = newton.evaluated_beside
        for part in self._parts:
            part.count(newton.iterations, beside, found if ended == CONVERGED else x)
            beside = 0  # g is not evaluated there
        if ended == NO_MEMORY:
            raise MemoryError("Newton's iteration in C: no memory")
        if ended != CONVERGED:
            raise StepsNotConvergedError(newton.iterations)
        return found, newton.iterations, newton.change

    def slopes_at(self, x: np.ndarray) -> list[Slopes]:
        """The values of f and g at the solution ``x``."""
        return [Slopes(part.at, part.values) for part in self._parts]

    def is_jacobian_right(self) -> bool:
        """Whether it is: that of compiled code is."""
        return True


class _Part:
    """f or g, with its values and Jacobians at the nodes."""

    def __init__(
        self, dynamics: object, structure: Structure, name: str, at: np.ndarray, node: np.ndarray
    ) -> None:
        assert isinstance(dynamics, CompiledDynamics)
        self._dynamics, self.at, layout = dynamics, at, dynamics.layout
        self._s = structure.node_times(name)
        self._t = self._s if dynamics.direction > 0 else -self._s
        self.values = np.empty((len(at), layout.size))
        blocks = np.empty((len(at), layout.samples, layout.width, layout.width))
        self.jacobians = Jacobians(blocks, node)

    def enter(self, struct: PartStruct) -> None:
        """Put it where C reads it."""
        code = self._dynamics.compiled.code
        put_jacobians(struct, self.jacobians)
        struct.blocks, struct.samples = code.loop("blocks"), self._dynamics.layout.size // code.size
        struct.p, struct.direction = address(self._dynamics.compiled.p), self._dynamics.direction
        struct.at, struct.t, struct.values = address(self.at), address(self._t), address(self.values)

    def count(self, iterations: int, beside: int, x: np.ndarray) -> None:
        """Count the evaluations of some iterations and ``beside`` them, the last ones at ``x``."""
        if len(self.at):
            evaluated = iterations * len(self.at) + beside
            self._dynamics.stepped(evaluated, evaluated, float(self._s[-1]), x[self.at[-1]])
