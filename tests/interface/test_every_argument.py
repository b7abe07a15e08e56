"""Every argument of everything public: what it cannot be is a TypeError or ValueError that names it."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import decay, times
from torch import Tensor, nn

import problems
import stiffml
from problems import Parameter, Parts, Problem
from problems.catalogue import ProblemFileError
from stiffml import (
    ARKIMEX,
    BDF,
    DIRK,
    GMRES,
    Adaptive,
    Assembled,
    Crossing,
    Discrete,
    Disk,
    Fixed,
    Grid,
    Krylov,
    Newton,
    ODEBlock,
    PointBlock,
    Recorded,
    Rosenbrock,
    RungeKutta,
    Sparsity,
    Split,
    Theta,
    check_gradients,
    sensitivities,
    solve,
)
from stiffml.distributed import Ensemble, Field
from stiffml.interface.arguments import DEFAULTS, Arguments
from stiffml.training import Run, Runs, collocate, from_pandas, from_xarray, read_csv, read_netcdf
from stiffml.training.data import ASinh, Forcing, Log, MinMax, Range, Scaled, Scaling, Standard


class Unprintable:
    def __repr__(self) -> str:
        raise ZeroDivisionError


JUNK: dict[str, Any] = {
    "none": None,
    "text": "x",
    "bytes": b"x",
    "bool": True,
    "nan": math.nan,
    "inf": math.inf,
    "negative": -1.5,
    "complex": 1j,
    "huge": 10**400,
    "object": object(),
    "unprintable": Unprintable(),
    "texts": ["a"],
    "ragged": [[1], [1, 2]],
    "dict": {1: 2},
    "NaNs": np.full(2, math.nan),
    "sparse": torch.eye(2).to_sparse(),
    "meta": torch.zeros(2, device="meta"),
    "complex tensor": torch.ones(2, dtype=torch.complex128),
    "bool tensor": torch.ones(2, dtype=torch.bool),
    "empty": torch.empty(0),
    "three dimensions": torch.zeros(2, 3, 4, dtype=torch.float64),
}

Y0, T = times(1, 2), times(0, 0.5, 1)


def rhs(t: Tensor, y: Tensor, p: Any) -> Tensor:
    return -p["k"] * y


def problem(**fields: Any) -> Problem:
    return Problem(
        **{
            "name": "own",
            "rhs": rhs,
            "y0": [1.0, 2.0],
            "t_span": (0.0, 1.0),
            "parameters": {"k": Parameter(1.0)},
            "scale": np.ones(2),
            **fields,
        }
    )


OWN = problem()
SOLUTION = solve(decay, Y0, T, method="cn", steps=Grid(2))
DATA = OWN.dataset(5, rtol=1e-3)
RUNS = Runs([Run(name, range(5), np.ones((5, 2))) for name in ("a", "b", "c")], ["A", "B"], noise=0.1)
LAYER = nn.Linear(1, 1)
CHEAP = {"method": "cn", "steps": Grid(1)}

EVERYTHING: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "solve": (solve, {"func": decay, "y0": Y0, "t": T}),
    "sensitivities": (sensitivities, {"func": decay, "y0": Y0, "t": T, **CHEAP}),
    "check_gradients": (check_gradients, {"func": decay, "y0": Y0, "t": T, **CHEAP}),
    "ODEBlock": (
        lambda func, t, y0, **more: ODEBlock(func, t, **more)(y0),
        {"func": decay, "t": T, "y0": Y0, **CHEAP},
    ),
    "Solution.interpolate": (SOLUTION.interpolate, {}),
    "Solution.to_xarray": (SOLUTION.to_xarray, {}),
    "Solution.plot": (SOLUTION.plot, {}),
    **{kind.__name__: (kind, {}) for kind in (Adaptive, Fixed, Grid, Recorded, Newton, Disk, Discrete)},
    **{kind.__name__: (kind, {}) for kind in (BDF, Theta, Rosenbrock, ARKIMEX, DIRK, RungeKutta)},
    **{kind.__name__: (kind, {}) for kind in (Assembled, PointBlock, Sparsity, GMRES)},
    "Krylov": (Krylov, {"method": "bcgs"}),
    "Crossing": (Crossing, {"function": decay}),
    "Split": (Split, {"implicit": decay, "explicit": decay}),
    "Field": (Field, {"shape": (4,)}),
    "Ensemble": (Ensemble, {"module": LAYER}),
    "Problem": (Problem, {name: getattr(OWN, name) for name in OWN.__dataclass_fields__}),
    "Problem.make": (OWN.make, {"k": 1.0}),
    "Problem.func": (lambda trainable: OWN.func(trainable), {}),
    "Problem.times": (OWN.times, {"count": 3}),
    "Problem.atol": (OWN.atol, {}),
    "Problem.solve": (OWN.solve, {"t": T, **CHEAP}),
    "Problem.check": (OWN.check, {}),
    "Problem.plot": (OWN.plot, {}),
    "Problem.dataset": (problems.datasets.make_dataset, {"problem": OWN, "n": 2, "rtol": 1e-3}),
    "Problem.eigenvalues": (OWN.eigenvalues, {}),
    "Parameter": (Parameter, {"value": 1.0}),
    "Parts": (Parts, {"implicit": rhs, "explicit": rhs}),
    "load": (problems.load, {"name": "vanderpol", "eps": 1.0}),
    "Run": (Run, {"name": "a", "times": [0.0], "values": [[1.0]]}),
    "Forcing": (Forcing, {"times": [0.0], "values": [[1.0]], "names": ["T"]}),
    "Runs": (Runs, {"runs": RUNS[:], "components": ["A", "B"]}),
    "Runs.with_initial": (RUNS.with_initial, {"initial": 0.0}),
    "Runs.starting_at": (RUNS.starting_at, {}),
    "Runs.split": (RUNS.split, {"fraction": None}),
    "Runs.split by time": (RUNS.split, {"by": "time", "fraction": None}),
    "Runs.windows": (RUNS.windows, {"length": 1}),
    "Runs.padded": (RUNS.padded, {}),
    "Runs.minibatches": (lambda **given: RUNS.minibatches(**given), {"size": 1, "seed": 0, "shuffle": True}),
    "Minibatches.at": (RUNS.minibatches(1).at, {}),
    "Runs.to_netcdf": (lambda path: RUNS.to_netcdf(path), {"path": "nowhere"}),
    "from_pandas": (from_pandas, {"frame": RUNS.to_pandas(), "time": "time", "run": "run"}),
    "read_csv": (
        lambda **given: (RUNS.to_pandas().to_csv("a.csv"), read_csv(**given)),
        {"path": "a.csv", "time": "time", "run": "run", "forcing": None, "separator": ","},
    ),
    "from_xarray": (from_xarray, {"data": DATA}),
    "read_netcdf": (
        lambda **given: (RUNS.to_netcdf("a.nc"), read_netcdf(**given)),
        {"path": "a.nc", "noise": None, "initial": None},
    ),
    **{kind.__name__: (kind, {"scale": 1.0}) for kind in (Range, ASinh)},
    **{kind.__name__: (kind, {"scale": 1.0, "offset": 0.0}) for kind in (MinMax, Standard)},
    "Log": (Log, {}),
    "collocate": (collocate, {}),
    "MinMax.fit": (MinMax.fit, {}),
    "Scaling": (Scaling, {"state": Range(1.0), "time": Range(1.0)}),
    "Scaling.fit": (Scaling.fit, {"runs": RUNS}),
    "Scaled": (Scaled, {"net": LAYER, "scaling": Scaling(Range(1.0), Range(1.0))}),
    "save_dataset": (lambda data, path: problems.save_dataset(data, path), {"data": DATA, "path": "nowhere"}),
    "load_dataset": (problems.load_dataset, {}),
}
"""By name: how it is called, and its arguments besides the one in question."""

LEFT_OUT = {
    ("Problem.dataset", "problem"),
    ("Assembled", "source"),  # these two are looked at with func, in linear/test_solver_choice.py
    ("GMRES", "preconditioner"),
    ("Krylov", "preconditioner"),
}

NAMES = {"text"}
NUMBERS = {"negative"}
ACCEPTED: dict[tuple[str, str], set[str]] = {
    ("*", "y0"): {"three dimensions"},
    ("solve", "y0"): {"three dimensions", "complex tensor"},
    ("ODEBlock", "y0"): {"three dimensions", "complex tensor"},
    ("solve", "method"): {"none"},
    ("Newton", "atol"): {"dict"},  # of a state with this structure
    ("*", "breakpoints"): {"none", "negative", "empty"},
    ("*", "through"): {"none", "negative", "empty"},
    ("*", "throw"): {"bool"},
    ("*", "progress"): {"bool"},
    ("*", "terminal"): {"bool"},
    ("*", "compile"): {"bool"},
    ("*", "linear"): {"bool"},
    ("*", "constant"): {"bool"},
    ("*", "split"): {"bool"},
    ("*", "stop_if_stiff"): {"bool"},
    ("*", "bounds"): {"ragged"},  # a number, and one for each component
    ("*", "path"): NAMES,
    ("*", "folder"): NAMES,
    ("*", "noise"): {"none", "NaNs"},  # where it is not known
    ("*", "initial"): {"none", "negative"},
    ("*", "start"): NUMBERS,
    ("*", "time_units"): NAMES,
    ("*", "units"): NAMES,
    ("*", "offset"): NUMBERS,
    ("Run", "name"): NAMES,
    ("Run", "source"): NAMES,
    ("Forcing", "names"): {"texts"},
    ("Runs.starting_at", "time"): NUMBERS,
    ("Runs.split", "validate"): {"none", "texts"},
    ("Runs.minibatches", "shuffle"): {"bool"},
    ("read_csv", "run"): {"none"},
    ("read_csv", "forcing"): {"none", *NAMES},
    ("MinMax.fit", "data"): {"NaNs", "three dimensions"},
    ("read_csv", "separator"): NAMES,
    ("Recorded", "ends"): {"empty"},
    ("Krylov", "method"): NAMES,
    ("Assembled", "solver"): NAMES,
    ("Sparsity", "pattern"): {"sparse"},
    ("Solution.to_xarray", "units"): NAMES | {"none"},
    ("Problem.eigenvalues", "t"): NUMBERS | {"none"},
    ("Parameter", "value"): NUMBERS | {"empty", "three dimensions"},
    ("Parameter", "initial"): {"bool"},
    ("Parameter", "description"): NAMES,
    **{
        ("Problem", field): NAMES
        for field in ("name", "title", "equations", "citation", "stiffness", "grid_units")
    },
    ("Problem", "bounds"): {"none", "ragged"},  # (low, high) = ([1], [1, 2])
    ("Problem", "references"): {"empty"},
    ("Problem", "breakpoints"): {"empty"},
    ("Problem.make", "k"): NUMBERS,
    ("Problem.func", "trainable"): NAMES,  # which it then has no parameter of
    ("load", "eps"): NUMBERS,
    ("load", "name"): NAMES,
    ("Field", "periodic"): {"bool"},
    ("Discrete", "graphs"): {"inf", "huge"},
}
"""Of JUNK: what is right, or an error of another kind. A default that is None is right anyway."""

SAID_AS = {"ends": "ends|interval", "pattern": "pattern|matrix", "trainable": "trainable|parameter"}


def arguments() -> Iterator[tuple[str, str]]:
    for name, (call, given) in EVERYTHING.items():
        parameters = inspect.signature(call).parameters.values()
        named = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        for argument in dict.fromkeys([*named, *given]):
            common = argument in CHEAP and name != "solve"
            if (name, argument) not in LEFT_OUT and argument != "self" and not common:
                yield name, argument


@pytest.mark.parametrize(("name", "argument"), list(arguments()))
def test_what_it_cannot_be_is_said_by_name(name: str, argument: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    call, given = EVERYTHING[name]
    known = inspect.signature(call).parameters.get(argument)
    accepted = ACCEPTED.get((name, argument), ACCEPTED.get(("*", argument), set()))
    if known is not None and known.default is None:
        accepted = accepted | {"none"}
    for junk, value in JUNK.items():
        if junk in accepted:
            continue
        said = outcome(lambda value=value: call(**{**given, argument: value}))
        wanted = rf"^(TypeError|ValueError|ProblemFileError): .*\b({SAID_AS.get(argument, argument)})\b"
        assert re.search(wanted, said, re.DOTALL), f"{name}({argument}={junk}): {said}"
        assert "unexpected keyword" not in said


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "taken"


def public(call: Callable[..., Any]) -> list[tuple[str, Any, Any, Any]]:
    """Names, kinds, defaults and annotations of the parameters."""
    parameters = inspect.signature(call).parameters.values()
    return [(p.name, p.kind, p.default, p.annotation) for p in parameters if p.name != "self"]


@pytest.mark.parametrize(
    ("call", "without"), [(solve, ()), (stiffml.odeint, ("throw",)), (ODEBlock.__init__, ("y0", "throw"))]
)
def test_signatures_are_those_of_arguments(call: Callable[..., Any], without: tuple[str, ...]) -> None:
    """Every option is a parameter, in the same order, with the same default and type."""
    expected = [parameter for parameter in public(Arguments) if parameter[0] not in without]
    assert public(call) == expected, f"{call.__qualname__} differs from Arguments in interface/arguments.py"


def test_every_option_is_documented() -> None:
    documented = solve.__doc__ or ""
    for field in dataclasses.fields(Arguments):
        assert re.search(rf"^    (\w+, )*{field.name}(, \w+)* : ", documented, re.MULTILINE), field.name
    assert ":func:`solve`" in (ODEBlock.__doc__ or "")
    assert ":func:`solve`" in (stiffml.odeint.__doc__ or "")


def test_every_option_reaches_the_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as it was passed, whichever way."""
    taken: list[Arguments] = []

    def take(arguments: Arguments) -> Any:
        taken.append(arguments)
        return SOLUTION

    monkeypatch.setattr("stiffml.interface.solve.solved", take)
    given: dict[str, Any] = {name: object() for name in DEFAULTS if name not in ("throw", "params")}
    given["params"] = (torch.ones(1),)
    solve(decay, Y0, T, throw=False, **given)
    stiffml.odeint(decay, Y0, T, **given)
    ODEBlock(decay, T, **given)(Y0)
    for arguments in taken:
        assert all(getattr(arguments, name) is value for name, value in given.items())
        assert (arguments.func, arguments.y0) == (decay, Y0)
        assert arguments.t is T or torch.equal(arguments.t, T)
    assert [arguments.throw for arguments in taken] == [False, True, True]


def test_arguments_are_those_of_solve() -> None:
    with pytest.raises(TypeError, match=r"ODEBlock: no argument 'metod'; known are adjoint, .*method"):
        ODEBlock(decay, T, metod="cn")
    for call in (stiffml.odeint, sensitivities, check_gradients):
        with pytest.raises(TypeError, match=rf"^{call.__name__}: no argument 'metod'; known are adjoint, .*"):
            call(decay, Y0, T, metod="cn")
    with pytest.raises(TypeError, match=r"^odeint always raises .* use solve for throw=False"):
        stiffml.odeint(decay, Y0, T, throw=False)
    assert issubclass(ProblemFileError, ValueError)
    assert stiffml.odeint(decay, Y0, T, **CHEAP).shape == (3, 2)
