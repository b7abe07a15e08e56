"""The rows of many steps in C: Newton's updates, tangents, and the reverse sweep, a call each.

``rows.c`` does what ``matrix.py`` and ``triangular.py`` do with arrays: residuals, factors of the diagonal
blocks, substitution row by row. The matrix is never formed. For compiled functions ``newton.c`` does all of
``newton.py`` in one call, with f and its Jacobians at all nodes. Results are the same but for rounding.
``qualifying.py`` says when. The library is made once on a machine, by its C compiler.
"""
