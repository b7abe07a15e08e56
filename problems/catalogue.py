"""The problems by name, those of the library and those of your own."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import Any

import torch

from problems.own_files import ProblemFileError, blamed_on, run_file
from problems.problem import Problem
from stiffml.checks import described

_MODULES = {
    "prothero": "prothero:problem",
    "robertson": "robertson:problem",
    "vanderpol": "vanderpol:problem",
    "hires": "hires:problem",
    "orego": "orego:problem",
    "pollu": "pollu:problem",
    "e5": "e5:problem",
    "e5_conserved": "e5:conserved_problem",
    "h2air": "ignition:hydrogen",
    "ch4air": "ignition:methane",
    "akzo": "akzo:problem",
    "pendulum": "pendulum:problem",
    "burgers": "burgers:problem",
    "ks": "ks:problem",
    "brusselator": "brusselator:problem",
    "gray_scott": "gray_scott:problem",
}


def names() -> tuple[str, ...]:
    """The names :func:`load` knows."""
    return tuple(_MODULES)


def load(name: str, *, size: int | None = None, **values: Any) -> Problem:
    """A problem by name, with another size or other parameter values if given.

    Parameters
    ----------
    name : str
        One of :func:`names`, or the path of a Python file that defines ``problem``, a Problem or a function
        that returns one. The file is run.
    size : int
        Grid points along each axis, for problems on a grid.
    **values
        Parameter values: ``load("vanderpol", eps=1e-3)``.

    Raises
    ------
    ValueError
        For an unknown name or parameter; the message lists the known ones.
    ProblemFileError
        For a file that raises, that defines no problem, or whose right-hand side fails at the initial state.
    FileNotFoundError
        For the path of a file that does not exist, and for a mechanism where Cantera is not installed.
    """
    if not isinstance(name, str | Path):
        known = ", ".join(_MODULES)
        raise TypeError(f"name must be one of {known}, or a path that ends in .py, not {described(name)}")
    own = Path(name) if str(name).endswith(".py") else None
    problem = _from_library(str(name)) if own is None else _from_file(own)
    if values or size is not None:
        problem = problem.make(size=size, **values)
    if own is not None:
        _try_out(own, problem)
    return problem


def _from_library(name: str) -> Problem:
    if name not in _MODULES:
        close = difflib.get_close_matches(name, _MODULES, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no problem {name!r}.{meant} Known: {', '.join(_MODULES)}")
    module, function = _MODULES[name].split(":")
    return getattr(importlib.import_module(f"problems.library.{module}"), function)()


def _from_file(path: Path) -> Problem:
    module = run_file(path, "problem")
    problem = getattr(module, "problem", None)
    with blamed_on(path, "problem"):
        problem = problem() if callable(problem) else problem
    if not isinstance(problem, Problem):
        raise ProblemFileError(
            f"{path} must define problem, a problems.Problem or a function that returns one, not {problem!r}"
        )
    return problem


def _try_out(path: Path, problem: Problem) -> None:
    """Evaluate the right-hand side once, at the initial state; the file is named if that fails."""
    y0 = problem.initial_state()
    with blamed_on(path, "problem"), torch.no_grad():
        found = problem.func()(torch.tensor(problem.t_span[0], dtype=torch.float64), y0)
    if not isinstance(found, torch.Tensor) or found.shape != y0.shape:
        got = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise ProblemFileError(f"{path}: rhs must return a tensor of shape {tuple(y0.shape)}, not {got}")
