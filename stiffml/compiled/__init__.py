"""Functions compiled to C: from torch's operations to expressions, code, a library and calls of it."""
