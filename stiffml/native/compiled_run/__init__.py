"""Runs in C of a single state, or of many samples with steps of their own, on threads.

The C files are parts of one library, and need no PETSc, which is not safe on threads. They do what
``native/side_by_side/`` does in Python, by the same rows: those of one-step methods come as tables, the
coefficients of BDF are worked out for each step. Their steps are those that PETSc would take. A sample's
numbers depend neither on the other samples nor on the threads. A sample for which there is no memory is left
to Python, and taken from its start there.
"""
