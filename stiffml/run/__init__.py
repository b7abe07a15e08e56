"""Forwards: driving PETSc from output to output, what is kept of it, and taking recorded steps again."""
