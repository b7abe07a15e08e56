"""Which runs are taken in C."""

from __future__ import annotations

import warnings
from functools import cache

from stiffml.compiled.factors import WIDEST
from stiffml.compiled.refusal import NotCompilableError
from stiffml.petsc.compiled_run.library import library
from stiffml.run.request import Request
from stiffml.system.derivatives.dynamics import Dynamics


def obstacle(request: Request) -> str:
    """Why the steps of a run are taken in Python; empty if they are taken in C."""
    method, system, solver = request.method, request.system, request.solver
    if request.plan is not None:
        return "all steps are solved for at once"
    is_compiled = all(part.is_compiled for part in system.parts)
    if not is_compiled and (not method.implicit or any(part.is_compiled for part in system.parts)):
        return "a function is not compiled"
    if system.space.is_distributed or system.f.is_large:
        return "the state is large, or spread over processes"
    if not method.in_petsc:
        return "PETSc does not have the method"
    if request.events or request.bounds is not None:
        return "events and bounds are looked for between steps"
    if request.has_callback:
        return "a callback looks at every step"
    if not isinstance(request.tolerances.rtol, float):
        return "rtol differs between components"
    if request.options:
        return "it has options of PETSc"
    if request.adjoint.checkpoints not in ("stages", "solutions"):
        return "not all states are kept in memory"
    if solver is not None and not solver.uses_blocks:
        return "the Jacobian is not dense"
    if system.layout.width > WIDEST:
        return f"samples have more than {WIDEST} components"
    if system.constant_jacobian:
        return "the Jacobian is constant"
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
