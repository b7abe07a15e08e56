"""C code of a function and its derivatives: translated expressions, in loops over states."""

from stiffml.compiled.code.kinds import KINDS, LANES, code_of

__all__ = ["KINDS", "LANES", "code_of"]
