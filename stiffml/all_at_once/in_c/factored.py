"""Linearised equations whose blocks are factorised by C."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stiffml.all_at_once.factored import Factored, Reversed
from stiffml.all_at_once.in_c.interface import CONVERGED, NO_MEMORY, SystemStruct, room
from stiffml.all_at_once.in_c.library import library
from stiffml.all_at_once.in_c.rows import rows_of
from stiffml.all_at_once.matrix import Jacobians
from stiffml.all_at_once.structure import Structure
from stiffml.compiled.address import address
from stiffml.compiled.refusal import NotCompilableError
from stiffml.system.system import System


@dataclass(frozen=True)
class FactoredInC(Factored):
    """For substitution row by row.

    Attributes
    ----------
    system : System
    lu, pivots : ndarray
        (unknowns, samples, width, width) and (unknowns, samples, width), as ``compiled/lu.c`` has them.
    """

    system: System
    lu: np.ndarray
    pivots: np.ndarray

    @classmethod
    def of(cls, structure: Structure, system: System, f: Jacobians, g: Jacobians | None) -> FactoredInC:
        """With these Jacobians, at nodes of any numbers. If a block is singular, solutions are NaN."""
        found = cls._empty(structure, system, f, g)
        if loaded().stiffml_factorise(ctypes.byref(found._struct())):
            found.lu.fill(np.nan)
            found.pivots.fill(0)
        return found

    @classmethod
    def update(
        cls,
        structure: Structure,
        system: System,
        f: Jacobians,
        g: Jacobians | None,
        values: Sequence[np.ndarray],
        x: np.ndarray,
    ) -> tuple[FactoredInC, np.ndarray]:
        """The same at x (count, size), where f, and g, have these ``values``; and Newton's update.

        The update (unknowns, size) is NaN if a block is singular. The nodes are those of the topology.
        """
        found = cls._empty(structure, system, f, g)
        return found, found._update_by("stiffml_update", values, x)

    def correction(self, values: Sequence[np.ndarray], x: np.ndarray) -> np.ndarray:
        """(unknowns, size) the update with these factors at x (count, size), where f, and g, have ``values``.

        The nodes are those of the topology.
        """
        return self._update_by("stiffml_correct", values, x)

    def _update_by(self, name: str, values: Sequence[np.ndarray], x: np.ndarray) -> np.ndarray:
        """(unknowns, size) what a function of the library finds; NaN if a block is singular."""
        struct, update = self._struct(), np.zeros_like(x)
        values = [np.ascontiguousarray(part) for part in values]
        for part, at_nodes in zip((struct.f, struct.g), values, strict=False):
            part.values = address(at_nodes)
        ended = getattr(loaded(), name)(ctypes.byref(struct), address(x), address(update))
        if ended == NO_MEMORY:
            raise MemoryError("Newton's update in C: no memory")
        if ended != CONVERGED:
            update.fill(np.nan)
        return update[self.structure.topology.given :]

    @classmethod
    def _empty(cls, structure: Structure, system: System, *parts: Jacobians | None) -> FactoredInC:
        shape = structure.topology.unknowns, system.layout.samples, system.layout.width
        f, g = (
            None if part is None else Jacobians(np.ascontiguousarray(part.blocks), part.node)
            for part in parts
        )
        assert f is not None
        pivots = np.empty(shape, dtype=np.int32)
        return cls(structure, f, g, system, np.empty((*shape, shape[-1])), pivots)

    def reverse(self, x: np.ndarray) -> Reversed:
        topology, size, columns = self.structure.topology, x.shape[1], x.shape[2:]
        count = columns[0] if columns else 1
        cotangents = np.ascontiguousarray(np.moveaxis(x, -1, 0)) if columns else x
        of_g = 0 if self.g is None else len(self.g.blocks)
        found, places = room([(count, n, size) for n in (topology.unknowns, len(self.f.blocks), of_g)])
        struct = ctypes.byref(self._struct())
        if loaded().stiffml_reverse(struct, count, address(cotangents), *places):
            raise MemoryError("reverse sweep in C: no memory")
        if columns:
            x[:] = np.moveaxis(cotangents, 0, -1)
            found = [np.moveaxis(part, 0, -1) for part in found]
        else:
            found = [part[0] for part in found]
        return Reversed(found[0], found[1], None if self.g is None else found[2])

    def along(self, right: np.ndarray, x: np.ndarray) -> None:
        v, tangents = np.ascontiguousarray(right), np.ascontiguousarray(x)
        struct = ctypes.byref(self._struct())
        if loaded().stiffml_substitute(struct, x.shape[2], address(v), address(tangents)):
            raise MemoryError("tangents in C: no memory")
        if tangents is not x:
            x[:] = tangents

    def _struct(self) -> SystemStruct:
        """A new one: two threads may solve with the same factors, at values of their own."""
        return SystemStruct.from_buffer_copy(self._template)

    @cached_property
    def _template(self) -> SystemStruct:
        struct = rows_of(self.structure).struct(self.system)
        struct.lu, struct.pivots = address(self.lu), address(self.pivots)
        for part, jacobians in ((struct.f, self.f), (struct.g, self.g)):
            if jacobians is not None:
                part.nodes, part.node = len(jacobians.blocks), address(jacobians.node)
                part.jacobians = address(jacobians.blocks)
        return struct


def loaded() -> ctypes.CDLL:
    """The library, which is there if equations are solved in C."""
    found = library()
    assert not isinstance(found, NotCompilableError)
    return found
