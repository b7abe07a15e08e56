"""C code of a function and its derivatives: translated expressions, in loops over states."""

from stiffml.compiled.code.code import KINDS, LANES, code_of, flags_of

__all__ = ["KINDS", "LANES", "code_of", "flags_of"]
