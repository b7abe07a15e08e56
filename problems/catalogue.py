"""The problems by name, those of the library and those of your own."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from pathlib import Path
from typing import Any

from problems.problem import Problem

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
    FileNotFoundError
        For the path of a file that does not exist, and for a mechanism where Cantera is not installed.
    """
    problem = _from_file(Path(name)) if name.endswith(".py") else _from_library(name)
    return problem.make(size=size, **values) if values or size is not None else problem


def _from_library(name: str) -> Problem:
    if name not in _MODULES:
        close = difflib.get_close_matches(name, _MODULES, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no problem {name!r}.{meant} Known: {', '.join(_MODULES)}")
    module, function = _MODULES[name].split(":")
    return getattr(importlib.import_module(f"problems.library.{module}"), function)()


def _from_file(path: Path) -> Problem:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    problem = getattr(module, "problem", None)
    problem = problem() if callable(problem) else problem
    if not isinstance(problem, Problem):
        raise ValueError(f"{path} must define problem, a problems.Problem or a function that returns one")
    return problem
