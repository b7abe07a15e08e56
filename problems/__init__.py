"""Stiff problems whose answers are known: ``load(name)`` and ``names()``."""

from __future__ import annotations

import difflib

from problems import akzo, pendulum, robertson, vanderpol
from problems.problem import Parameter, Problem, Reference

_PROBLEMS = {
    "robertson": robertson.problem,
    "vanderpol": vanderpol.problem,
    "akzo": akzo.problem,
    "pendulum": pendulum.problem,
}

__all__ = ["Parameter", "Problem", "Reference", "load", "names"]


def names() -> tuple[str, ...]:
    """The names :func:`load` knows."""
    return tuple(_PROBLEMS)


def load(name: str, **values: float) -> Problem:
    """A problem by name, with other parameter values if given: ``load("vanderpol", eps=1e-3)``.

    Raises
    ------
    ValueError
        For an unknown name or parameter; the message lists the known ones.
    """
    if name not in _PROBLEMS:
        close = difflib.get_close_matches(name, _PROBLEMS, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no problem {name!r}.{meant} Known: {', '.join(_PROBLEMS)}")
    problem = _PROBLEMS[name]()
    return problem.make(None, None, **values) if values else problem
