"""Time stepping methods: one file a family, and the table of what each can do."""

from stiffml.methods.base import Method
from stiffml.methods.bdf import BDF
from stiffml.methods.rk import RungeKutta
from stiffml.methods.table import METHODS, resolve
from stiffml.methods.theta import BackwardEuler, CrankNicolson, Theta

__all__ = [
    "BDF",
    "METHODS",
    "BackwardEuler",
    "CrankNicolson",
    "Method",
    "RungeKutta",
    "Theta",
    "resolve",
]
