"""Linearised equations whose blocks are factorised by C."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from stiffml.all_at_once.factored import Factored, Reversed
from stiffml.all_at_once.in_c.interface import SystemStruct, address
from stiffml.all_at_once.in_c.library import library
from stiffml.all_at_once.in_c.rows import put_jacobians, rows_of
from stiffml.all_at_once.matrix import Jacobians
from stiffml.all_at_once.structure import Structure
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
        found = cls(structure, f, g, system, *room_for_factors(structure, system))
        if loaded().stiffml_factorise(found._struct()):
            found.lu.fill(np.nan)
            found.pivots.fill(0)
        return found

    def reverse(self, x: np.ndarray) -> Reversed:
        topology, size, columns = self.structure.topology, x.shape[1], x.shape[2:]
        count = columns[0] if columns else 1
        cotangents = x if not columns else np.ascontiguousarray(np.moveaxis(x, -1, 0))
        assert cotangents.flags.c_contiguous
        multipliers = np.empty((count, topology.unknowns, size))
        f = np.zeros((count, len(self.f.blocks), size))
        g = np.zeros((count, 0 if self.g is None else len(self.g.blocks), size))
        if loaded().stiffml_reverse(self._struct(), count, *map(address, (cotangents, multipliers, f, g))):
            raise MemoryError("reverse sweep in C: no memory")
        found = [multipliers, f, g]
        if columns:
            x[:] = np.moveaxis(cotangents, 0, -1)
            found = [np.moveaxis(part, 0, -1) for part in found]
        else:
            found = [part[0] for part in found]
        return Reversed(found[0], found[1], None if self.g is None else found[2])

    def along(self, right: np.ndarray, x: np.ndarray) -> None:
        v, tangents = (np.ascontiguousarray(np.moveaxis(part, -1, 0)) for part in (right, x))
        if loaded().stiffml_substitute(self._struct(), len(v), address(v), address(tangents)):
            raise MemoryError("tangents in C: no memory")
        x[:] = np.moveaxis(tangents, 0, -1)

    def _struct(self) -> ctypes._Pointer[SystemStruct]:
        struct = rows_of(self.structure).struct(self.system)
        put_jacobians(struct.f, self.f)
        if self.g is not None:
            put_jacobians(struct.g, self.g)
        struct.lu, struct.pivots = address(self.lu), address(self.pivots)
        return ctypes.pointer(struct)


def room_for_factors(structure: Structure, system: System) -> tuple[np.ndarray, np.ndarray]:
    """``lu`` and ``pivots``, not filled."""
    shape = structure.topology.unknowns, system.layout.samples, system.layout.width
    return np.empty((*shape, shape[-1])), np.empty(shape, dtype=np.int32)


def loaded() -> ctypes.CDLL:
    """The library, which is there if equations are solved in C."""
    found = library()
    assert not isinstance(found, NotCompilableError)
    return found
