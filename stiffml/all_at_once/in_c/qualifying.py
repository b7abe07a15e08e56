"""Which equations are solved in C."""

from __future__ import annotations

from stiffml.all_at_once.in_c.library import library
from stiffml.all_at_once.structure import Structure
from stiffml.compiled.refusal import NotCompilableError
from stiffml.system.system import System


def has_rows_in_c(structure: Structure) -> bool:
    """Whether the rows of many steps are added up and solved with in C; f may be any function.

    So they are where there is a C compiler. Rosenbrock rows have second derivatives of f besides, which only
    torch has.
    """
    return not structure.topology.brackets and not isinstance(library(), NotCompilableError)


def is_in_c(structure: Structure, system: System) -> bool:
    """Whether Newton's whole iteration is in C: f and g are compiled, and not extrapolated at the nodes."""
    if not all(part.is_compiled for part in system.parts) or not has_rows_in_c(structure):
        return False
    parts = zip("fg", system.parts, strict=False)
    return not any(part.extrapolates(structure.node_times(name)) for name, part in parts if part.span.degree)
