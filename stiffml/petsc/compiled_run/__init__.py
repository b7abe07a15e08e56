"""Whole runs by PETSc in C: a TS whose callbacks are compiled functions, and the loop over its steps.

Of functions that are not compiled C asks Python for values and Jacobians, see ``asking.py``; nothing else of
Python is left in a step.

The C files are parts of one library, made once for the PETSc that petsc4py has loaded. They do what
``petsc/stepper.py``, ``petsc/callbacks.py``, ``petsc/convergence.py`` and ``run/drive.py`` do in Python, with
the same options of PETSc, so the steps are the same. What these treat specially ends a run in C, and the run
is taken again in Python, from its start.
"""
