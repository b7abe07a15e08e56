"""The rows of many steps in C, for compiled functions: Newton's iteration, tangents, and the reverse sweep.

One call does what ``newton.py``, ``matrix.py`` and ``triangular.py`` do with arrays: f and its Jacobians at
all nodes by compiled code, residuals, factors of the diagonal blocks, substitution row by row, and the tests.
The matrix is never formed. Results are the same but for rounding. ``qualifying.py`` says when.
"""
