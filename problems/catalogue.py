"""The problems by name, those of the library and those of your own."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from problems.own_files import ProblemFileError, blamed_on, run_file
from problems.problem import Problem
from stiffml.checks import described

_MODULES = {
    "prothero": "prothero:problem",
    "robertson": "robertson:problem",
    "robertson_dae": "robertson:conserved_problem",
    "vanderpol": "vanderpol:problem",
    "hires": "hires:problem",
    "orego": "orego:problem",
    "orego_dae": "orego:quasi_steady_problem",
    "pollu": "pollu:problem",
    "emep": "emep:problem",
    "e5": "e5:problem",
    "e5_conserved": "e5:conserved_problem",
    "h2air": "ignition:hydrogen",
    "ch4air": "ignition:methane",
    "akzo": "akzo:problem",
    "pendulum": "pendulum:problem",
    "nand": "nand:problem",
    "beam": "beam:problem",
    "lotka_volterra": "lotka_volterra:problem",
    "spiral": "spiral:problem",
    "burgers": "burgers:problem",
    "ks": "ks:problem",
    "brusselator": "brusselator:problem",
    "gray_scott": "gray_scott:problem",
    "allen_cahn": "allen_cahn:problem",
    "fitzhugh_nagumo": "fitzhugh_nagumo:problem",
}

_OWN: dict[str, Callable[[], Problem]] = {}
"""Those that were registered."""

Source = TypeVar("Source", bound=Problem | Callable[[], Problem])


def register(problem: Source) -> Source:
    """Make a problem of your own known by its name, to :func:`load`, :func:`names` and all that takes names.

    Parameters
    ----------
    problem : Problem or callable
        A problem, or a function without arguments that returns one, whose name the problem has then; it is
        called when the problem is loaded. As a decorator it leaves the function as it is. A name that was
        registered before is registered anew.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        For a name of the library, or one that ends in .py.

    Examples
    --------
    >>> import numpy as np, problems
    >>> @problems.register
    ... def decay():
    ...     return problems.Problem("decay", lambda t, y, p: -y, np.ones(1), (0.0, 1.0))
    >>> problems.load("decay").size
    1
    >>> problems.unregister("decay")
    """
    make: Callable[[], Any]
    if isinstance(problem, Problem):
        own: Problem = problem
        name, make = own.name, lambda: own
    elif callable(problem) and hasattr(problem, "__name__"):
        name, make = problem.__name__, problem
    else:
        raise TypeError(
            f"problem must be a Problem, or a function that returns one, not {described(problem)}"
        )
    if name in _MODULES:
        raise ValueError(f"problem: the library has a {name!r}; choose another name")
    if name.endswith(".py"):
        raise ValueError(f"problem: {name!r} would be taken for a file; choose another name")
    _OWN[name] = make
    return problem


def unregister(name: str) -> None:
    """Forget a problem that was registered.

    Parameters
    ----------
    name : str

    Raises
    ------
    ValueError
        If none was by this name.

    Examples
    --------
    >>> import problems
    >>> mine = problems.register(problems.Problem("mine", lambda t, y, p: -y, np.ones(1), (0.0, 1.0)))
    >>> problems.unregister("mine")
    >>> "mine" in problems.names()
    False
    """
    if name not in _OWN:
        raise ValueError(f"no problem {name!r} was registered; those are {', '.join(_OWN) or 'none'}")
    del _OWN[name]


def names() -> tuple[str, ...]:
    """The names :func:`load` knows: those of the library, and those registered.

    Examples
    --------
    >>> import problems
    >>> problems.names()[:3]
    ('prothero', 'robertson', 'robertson_dae')
    """
    return (*_MODULES, *_OWN)


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

    Examples
    --------
    >>> import problems
    >>> problem = problems.load("vanderpol", eps=1e-3)
    >>> problem.y0, problem.t_span, problem.parameters["eps"].value
    (array([2., 0.]), (0.0, 2.0), 0.001)
    """
    if not isinstance(name, str | Path):
        known = ", ".join(names())
        raise TypeError(f"name must be one of {known}, or a path that ends in .py, not {described(name)}")
    own = Path(name) if str(name).endswith(".py") else None
    problem = _from_library(str(name)) if own is None else _from_file(own)
    if values or size is not None:
        problem = problem.make(size=size, **values)
    if own is not None:
        _try_out(own, problem)
    return problem


def _from_library(name: str) -> Problem:
    if name in _OWN:
        found = _OWN[name]()
        if not isinstance(found, Problem):
            raise TypeError(f"{name}: the function registered must return a Problem, not {described(found)}")
        return found
    if name not in _MODULES:
        close = difflib.get_close_matches(name, names(), n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        if Path(name).suffix:  # of a file
            meant = " A file of your own is one in Python that defines problem, or for a fit model and data."
        raise ValueError(f"no problem {name!r}.{meant} Known: {', '.join(names())}")
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
