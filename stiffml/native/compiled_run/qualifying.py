"""Which samples' runs are taken in C."""

from __future__ import annotations

from stiffml.compiled.refusal import NotCompilableError
from stiffml.methods import BDF, Method
from stiffml.native.compiled_run.library import library
from stiffml.native.compiled_run.tables import table_of
from stiffml.native.side_by_side.work import Work
from stiffml.steps import Adaptive
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.system import System

WIDEST = 64
"""Components of a sample up to which the matrices of C are as fast as those of LAPACK, or matter little."""


def obstacle(work: Work) -> str:
    """Why steps are taken in Python, samples side by side; empty if each sample runs in C."""
    if not isinstance(work.tolerances.rtol, float):
        return "rtol differs between components"
    return obstacle_of(work.system, work.method, isinstance(work.steps, Adaptive))


def obstacle_of(system: System, method: Method, adaptive: bool) -> str:
    """Why C cannot have the steps of a method, with errors if they are ``adaptive``; empty if it can."""
    if not system.f.is_compiled:
        return "the function is not compiled"
    if system.g is not None:
        return "the function is split into two parts"
    if system.layout.samples > 1 or system.layout.width > WIDEST:
        return f"samples have more than {WIDEST} components"
    if not _has_coefficients(method, system, adaptive):
        return "the method has rows that C does not know"
    if method.time_is_state and not _knows_derivative_by_time(system.f):
        return "the derivative by time is not compiled"
    made = library()
    return str(made) if isinstance(made, NotCompilableError) else ""


def _has_coefficients(method: Method, system: System, adaptive: bool) -> bool:
    if isinstance(method, BDF):
        return True
    if (method.estimate_history if adaptive else method.history) > 1:
        return False
    return table_of(method, system.form, adaptive) is not None


def _knows_derivative_by_time(f: Dynamics) -> bool:
    from stiffml.system.derivatives.compiled_dynamics import CompiledDynamics  # imports casadi

    return isinstance(f, CompiledDynamics) and f.compiled.may("push")
