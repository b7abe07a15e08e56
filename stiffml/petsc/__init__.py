"""Steps in time by PETSc: a TS that takes one at a time. Only ``library.py`` imports petsc4py."""
