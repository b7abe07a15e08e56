"""Which runs are taken in C."""

from __future__ import annotations

from stiffml.compiled.refusal import NotCompilableError
from stiffml.petsc.compiled_run.library import library
from stiffml.run.request import Request
from stiffml.system.derivatives.dynamics import Dynamics

WIDEST = 64
"""Components of a sample up to which the matrices of C are as fast as those of LAPACK, or matter little."""


def obstacle(request: Request) -> str:
    """Why the steps of a run are taken in Python; empty if they are taken in C."""
    method, system, solver = request.method, request.system, request.solver
    if not all(part.is_compiled for part in system.parts):
        return "a function is not compiled"
    if not method.in_petsc:
        return "PETSc does not have the method"
    if request.plan is not None:
        return "all steps are solved for at once"
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
    if method.time_is_state and not _knows_derivative_by_time(system.f):
        return "the derivative by time is not compiled"
    made = library()
    return str(made) if isinstance(made, NotCompilableError) else ""


def _knows_derivative_by_time(f: Dynamics) -> bool:
    from stiffml.system.derivatives.compiled_dynamics import CompiledDynamics  # imports casadi

    return isinstance(f, CompiledDynamics) and f.compiled.may("push")
