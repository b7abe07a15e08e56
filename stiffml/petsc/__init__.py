"""Time steps by PETSc: a TS object takes them one at a time. Only ``library.py`` imports petsc4py."""
