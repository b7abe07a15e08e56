"""Which equations are solved in C."""

from __future__ import annotations

from stiffml.all_at_once.in_c.library import library
from stiffml.all_at_once.structure import Structure
from stiffml.compiled.refusal import NotCompilableError
from stiffml.system.system import System


def is_in_c(structure: Structure, system: System) -> bool:
    """Whether the equations of many steps are solved in C.

    So they are if f, and g, are compiled, and do not extrapolate at the nodes. Rosenbrock rows have second
    derivatives of f besides, which are not compiled.
    """
    if structure.topology.brackets or not all(part.is_compiled for part in system.parts):
        return False
    if isinstance(library(), NotCompilableError):
        return False
    parts = zip("fg", system.parts, strict=False)
    return not any(part.extrapolates(structure.node_times(name)) for name, part in parts if part.span.degree)
