"""Stiff problems whose answers are known: ``load(name)`` and ``names()``."""

from problems.catalogue import load, names, register, unregister
from problems.checking import Report
from problems.datasets import load_dataset, save_dataset
from problems.function import Parts
from problems.parameters import Parameter
from problems.problem import Problem
from problems.references import Reference

__all__ = [
    "Parameter",
    "Parts",
    "Problem",
    "Reference",
    "Report",
    "load",
    "load_dataset",
    "names",
    "register",
    "save_dataset",
    "unregister",
]
