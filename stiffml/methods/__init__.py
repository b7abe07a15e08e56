"""Time stepping methods: one file for each family, and the table of methods by name."""

from stiffml.methods.arkimex import ARKIMEX
from stiffml.methods.base import Method
from stiffml.methods.bdf import BDF
from stiffml.methods.dirk import DIRK
from stiffml.methods.etd import ETD
from stiffml.methods.rk import RungeKutta
from stiffml.methods.rosenbrock import Rosenbrock
from stiffml.methods.sdirk import SDIRK3
from stiffml.methods.table import METHODS, resolve
from stiffml.methods.theta import BackwardEuler, CrankNicolson, Theta

__all__ = [
    "ARKIMEX",
    "BDF",
    "DIRK",
    "ETD",
    "METHODS",
    "SDIRK3",
    "BackwardEuler",
    "CrankNicolson",
    "Method",
    "Rosenbrock",
    "RungeKutta",
    "Theta",
    "resolve",
]
