"""Makes the set-up of a fit: of a problem of the library, of the published experiment, or of a file."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from stiffml.cli.asked import Asked, SetUp

if TYPE_CHECKING:
    from problems import Problem
    from stiffml.training import Runs

SMALL = 100
"""Components of a state up to which functions are compiled: torch is fast on fields, and their code long."""


def set_up(asked: Asked) -> SetUp:
    """The set-up that was asked for, by compiled functions where the package that makes them is installed.

    Raises
    ------
    ValueError, OSError
        For what is wrong with it.
    """
    made = _set_up(asked)
    if len(made.data.components) > SMALL or importlib.util.find_spec("casadi") is None:
        return made
    of_all = made.arguments.get("all", {})
    if "compile" in of_all:
        return made
    return replace(
        made, arguments={**made.arguments, "all": {"compile": True, **of_all}}, compiles_unasked=True
    )


@contextmanager
def warned_as_asked(chosen: SetUp) -> Iterator[None]:
    """Within this nobody hears that what was not asked for, compiled functions, is not possible."""
    with warnings.catch_warnings():
        if chosen.compiles_unasked:
            warnings.filterwarnings("ignore", message="compile: func is evaluated by torch")
        yield


def _set_up(asked: Asked) -> SetUp:
    from stiffml.cli.own_file import defines_problem, own_set_up

    if asked.name.endswith(".py") and not defines_problem(Path(asked.name)):
        _require_absent("a problem", asked)
        return own_set_up(asked)
    plain = not asked.settings and asked.size is None and asked.data is None and asked.noise == 0
    if asked.name == "robertson" and plain and asked.learn in (None, "network"):
        return _published(asked)
    return _of_problem(asked)


def _require_absent(only: str, asked: Asked) -> None:
    given = {"--set": asked.settings, "--size": asked.size, "--learn": asked.learn, "--noise": asked.noise}
    for name, value in given.items():
        if value:
            raise ValueError(f"{name} is for {only}; {asked.name} defines a model: change it there")


def _published(asked: Asked) -> SetUp:
    from stiffml.experiments import robertson

    data = robertson.observations(asked.points)
    return SetUp(
        title="robertson, a network for all of it",
        name="robertson",
        model=robertson.Network,
        data=data.runs,
        validate=data.unseen,
        arguments={
            "all": {"method": robertson.METHOD, "scale": 1.0},
            "lm": {"target": robertson.TARGET, "attempts": robertson.ATTEMPTS},
            "descent": {"learning_rate": robertson.LEARNING_RATE},
        },
    )


@dataclass(frozen=True)
class ProblemModel:
    """seed -> a model of a problem, in any process."""

    name: str
    settings: tuple[str, ...]
    size: int | None
    names: tuple[str, ...]

    def __call__(self, seed: int) -> nn.Module:
        from problems.learning import Constants, neural_rates
        from stiffml.cli.screen import load

        problem = load(self.name, self.settings, self.size)
        return Constants(problem, self.names, seed) if self.names else neural_rates(problem, seed)


def _of_problem(asked: Asked) -> SetUp:
    from problems.learning import checked_constants, learnable, runs_of, solving
    from stiffml.cli.screen import load
    from stiffml.steps import Adaptive
    from stiffml.training import Whole

    problem = load(asked.name, asked.settings, asked.size)
    names = _names(problem, asked.learn, checked_constants, learnable)
    model = ProblemModel(asked.name, tuple(asked.settings), asked.size, names)
    model(0)  # says what is wrong before data are made
    validate: Runs | None
    if asked.data is None:
        data, validate = runs_of(problem, asked.points, asked.noise, asked.data_seed)
    else:
        from stiffml.cli.tables import read_table, split

        components = [f"{name}" for name in problem.components] if not problem.grid else None
        data, validate = split(read_table(asked.data, asked.time, asked.run, components), asked.hold_out)
    constants = {"method": "bdf", "steps": Adaptive(), **solving(problem)}
    what = f"constants {', '.join(names)}" if names else "a network for all of it"
    return SetUp(
        title=f"{problem.name}, {what}",
        name=problem.name,
        model=model,
        data=data,
        validate=validate,
        arguments={
            "all": constants if names else {},
            "lm": {"strategy": Whole()} if names else {},
        },
    )


def _names(
    problem: Problem, learn: str | None, checked: Callable[..., tuple[str, ...]], found: Callable[..., tuple]
) -> tuple[str, ...]:
    """The constants to learn; none for a network."""
    if learn == "network":
        return ()
    if learn in (None, "constants"):
        names = found(problem)
        if not names:
            raise ValueError(f"{problem.name} has no constants that its right-hand side depends on")
        return names
    return checked(problem, [name.strip() for name in str(learn).split(",")])
