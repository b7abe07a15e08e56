"""Scientific machine learning on stiff systems: PETSc's time steppers, exact discrete adjoints, torch."""

import importlib
from typing import Any

from stiffml.diagnostics.gradient_check import GradientReport, check_gradients
from stiffml.errors import LinearSolveError, NonFiniteDerivativeError, ReplayError, SolveError, Status
from stiffml.interface.compiling import compile
from stiffml.interface.odeblock import ODEBlock
from stiffml.interface.sensitivities import Sensitivities, sensitivities
from stiffml.interface.solution import Solution
from stiffml.interface.solve import odeint, solve
from stiffml.linear import GMRES, LU, Assembled, Krylov, PointBlock, Sparsity
from stiffml.linear.sparse.compression import MissingEntriesError
from stiffml.methods import (
    ARKIMEX,
    BDF,
    DIRK,
    ETD,
    METHODS,
    SDIRK3,
    BackwardEuler,
    CrankNicolson,
    Rosenbrock,
    RungeKutta,
    Theta,
)
from stiffml.run.crossings import Crossing, Event, Events
from stiffml.settings import Discrete, Disk, Newton
from stiffml.steady import SteadyState, steady_state
from stiffml.steps import Adaptive, Fixed, Grid, KeptSteps, Recorded
from stiffml.system.derivatives.graph import NotTwiceDifferentiableError
from stiffml.system.split import Split
from stiffml.version import __version__


def __getattr__(name: str) -> Any:
    if name in ("closures", "distributed"):  # imported when first asked for
        return importlib.import_module(f"stiffml.{name}")
    raise AttributeError(f"module 'stiffml' has no attribute {name!r}")


__all__ = [
    "ARKIMEX",
    "BDF",
    "DIRK",
    "ETD",
    "GMRES",
    "LU",
    "METHODS",
    "SDIRK3",
    "Adaptive",
    "Assembled",
    "BackwardEuler",
    "CrankNicolson",
    "Crossing",
    "Discrete",
    "Disk",
    "Event",
    "Events",
    "Fixed",
    "GradientReport",
    "Grid",
    "KeptSteps",
    "Krylov",
    "LinearSolveError",
    "MissingEntriesError",
    "Newton",
    "NonFiniteDerivativeError",
    "NotTwiceDifferentiableError",
    "ODEBlock",
    "PointBlock",
    "Recorded",
    "ReplayError",
    "Rosenbrock",
    "RungeKutta",
    "Sensitivities",
    "Solution",
    "SolveError",
    "Sparsity",
    "Split",
    "Status",
    "SteadyState",
    "Theta",
    "__version__",
    "check_gradients",
    "compile",
    "odeint",
    "sensitivities",
    "solve",
    "steady_state",
]
