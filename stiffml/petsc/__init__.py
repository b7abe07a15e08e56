"""The only room that imports petsc4py: a TS that takes one step at a time."""

from stiffml.petsc.stepper import Stepper

__all__ = ["Stepper"]
