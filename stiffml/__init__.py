"""Scientific machine learning on stiff systems: PETSc's time steppers, exact discrete adjoints, torch."""

from stiffml.diagnostics import GradientReport, check_gradients
from stiffml.errors import ReplayError, SolveError, Status
from stiffml.integration import ODEBlock, odeint, solve
from stiffml.methods import (
    ARKIMEX,
    BDF,
    DIRK,
    METHODS,
    BackwardEuler,
    CrankNicolson,
    Rosenbrock,
    RungeKutta,
    Theta,
)
from stiffml.run.events import Event
from stiffml.sensitivities import Sensitivities, sensitivities
from stiffml.settings import LU, Discrete, Disk, Newton
from stiffml.solution import Solution
from stiffml.split import Split
from stiffml.steps import Adaptive, Fixed, Grid, Recorded

__version__ = "0.1.0"

__all__ = [
    "ARKIMEX",
    "BDF",
    "DIRK",
    "LU",
    "METHODS",
    "Adaptive",
    "BackwardEuler",
    "CrankNicolson",
    "Discrete",
    "Disk",
    "Event",
    "Fixed",
    "GradientReport",
    "Grid",
    "Newton",
    "ODEBlock",
    "Recorded",
    "ReplayError",
    "Rosenbrock",
    "RungeKutta",
    "Sensitivities",
    "Solution",
    "SolveError",
    "Split",
    "Status",
    "Theta",
    "check_gradients",
    "odeint",
    "sensitivities",
    "solve",
]
