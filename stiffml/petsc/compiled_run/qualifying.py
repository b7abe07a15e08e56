"""Which runs are taken in C."""

from __future__ import annotations

import warnings
from functools import cache

from stiffml.compiled.factors import WIDEST
from stiffml.compiled.refusal import NotCompilableError
from stiffml.petsc.compiled_run.library import library
from stiffml.run.nonstop import obstacle_to_any
from stiffml.run.request import Request
from stiffml.system.derivatives.dynamics import Dynamics


def obstacle(request: Request) -> str:
    """Why the steps of a run are taken in Python; empty if they are taken in C."""
    method, system = request.method, request.system
    is_compiled = all(part.is_compiled for part in system.parts)
    if not is_compiled and (not method.implicit or any(part.is_compiled for part in system.parts)):
        return "a function is not compiled"
    if not method.in_petsc:
        return "PETSc does not have the method"
    other = obstacle_to_any(request)
    if other:
        return other
    if system.layout.width > WIDEST:
        return f"samples have more than {WIDEST} components"
    if is_compiled and method.time_is_state and not _knows_derivative_by_time(system.f):
        return "the derivative by time is not compiled"
    made = library()
    if not isinstance(made, NotCompilableError):
        return ""
    if is_compiled:
        _warn_once(made)
    return str(made)


@cache
def _warn_once(reason: NotCompilableError) -> None:
    """Tell those who have asked for compiled functions, not those who would only have been faster."""
    warnings.warn(
        f"compile: the steps are taken from Python, which is slower, because {reason}. "
        "Install PETSc with its headers, and a C compiler; numbers are the same without.",
        stacklevel=2,
    )


def _knows_derivative_by_time(f: Dynamics) -> bool:
    from stiffml.system.derivatives.compiled_dynamics import CompiledDynamics  # imports casadi

    return isinstance(f, CompiledDynamics) and f.compiled.may("push")
