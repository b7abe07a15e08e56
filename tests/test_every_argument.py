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
from conftest import times
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
from stiffml.training import Trainer


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


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


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
    "Split": (Split, {"implicit": decay, "explicit": decay}),
    "Field": (Field, {"shape": (4,)}),
    "Ensemble": (Ensemble, {"module": LAYER}),
    "Trainer": (
        Trainer,
        {
            "model": LAYER,
            "optimizer": torch.optim.SGD(LAYER.parameters(), 0.1),
            "loss": lambda: None,
            "folder": Path("."),
            "settings": {},
        },
    ),
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
    "split_dataset": (problems.split_dataset, {"data": DATA}),
    "windows": (problems.windows, {"data": DATA, "length": 2}),
    "save_dataset": (lambda data, path: problems.save_dataset(data, path), {"data": DATA, "path": "nowhere"}),
    "load_dataset": (problems.load_dataset, {}),
}
"""By name: how it is called, and its arguments besides the one in question."""

LEFT_OUT = {
    ("Problem.dataset", "problem"),
    ("Assembled", "source"),  # these two are looked at with func, in test_linear_choice.py
    ("GMRES", "preconditioner"),
    ("Krylov", "preconditioner"),
}

NAMES = {"text"}
NUMBERS = {"negative"}
ACCEPTED: dict[tuple[str, str], set[str]] = {
    ("*", "y0"): {"three dimensions"},
    ("*", "breakpoints"): {"none", "negative", "empty"},
    ("*", "through"): {"none", "negative", "empty"},
    ("*", "throw"): {"bool"},
    ("*", "linear"): {"bool"},
    ("*", "constant"): {"bool"},
    ("*", "split"): {"bool"},
    ("*", "stop_if_stiff"): {"bool"},
    ("*", "bounds"): {"ragged"},  # a number, and one for each component
    ("*", "path"): NAMES,
    ("*", "folder"): NAMES,
    ("Recorded", "ends"): {"empty"},
    ("Krylov", "method"): NAMES,
    ("Assembled", "solver"): NAMES,
    ("Sparsity", "pattern"): {"sparse"},
    ("Solution.to_xarray", "units"): NAMES | {"none"},
    ("Problem.eigenvalues", "t"): NUMBERS | {"none"},
    ("Parameter", "value"): NUMBERS | {"empty", "three dimensions"},
    ("Parameter", "initial"): {"bool"},
    ("Parameter", "units"): NAMES,
    ("Parameter", "description"): NAMES,
    **{("Problem", field): NAMES for field in ("name", "title", "equations", "citation", "stiffness")},
    ("Problem", "units"): NAMES,
    ("Problem", "time_units"): NAMES,
    ("Problem", "bounds"): {"none", "ragged"},  # (low, high) = ([1], [1, 2])
    ("Problem", "references"): {"empty"},
    ("Problem", "breakpoints"): {"empty"},
    ("Problem.make", "k"): NUMBERS,
    ("Problem.func", "trainable"): NAMES,  # which it then has no parameter of
    ("load", "eps"): NUMBERS,
    ("load", "name"): NAMES,
    ("Field", "periodic"): {"bool"},
    ("Trainer", "settings"): {"dict"},
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


@pytest.mark.parametrize(("name", "argument"), arguments())
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


@pytest.mark.parametrize(
    "numbers",
    [
        lambda x: np.float64(x) if isinstance(x, float) else np.int64(x),
        lambda x: np.float32(x) if isinstance(x, float) else np.uint8(x),
        lambda x: torch.tensor(x, dtype=torch.float64 if isinstance(x, float) else torch.int64),
        lambda x: np.array(x),
    ],
    ids=["numpy", "numpy, short", "torch", "0-d array"],
)
def test_numbers_of_any_kind(numbers: Callable[[Any], Any]) -> None:
    """What has one number is one, and becomes Python's."""
    n = numbers
    assert Fixed(n(0.25)) == Fixed(0.25)
    assert Grid(n(3)) == Grid(3)
    assert BDF(n(2)) == BDF(2)
    assert Theta(n(0.5)) == Theta(0.5)
    assert Discrete(n(4)) == Discrete(4)
    assert Newton(rtol=n(0.5), max_iterations=n(7)) == Newton(rtol=0.5, max_iterations=7)
    assert Adaptive(n(0.5), maximum=n(1.0), max_steps=n(9)) == Adaptive(0.5, maximum=1.0, max_steps=9)
    assert GMRES(rtol=n(0.5), restart=n(5)) == GMRES(rtol=0.5, restart=5)
    assert type(Fixed(n(0.25)).h) is float
    assert type(Grid(n(3)).substeps) is int
    batch = Y0[:, None]
    y = solve(decay, batch, T, rtol=n(0.25), atol=n(0.25), batch_dims=n(1)).y
    assert torch.equal(y, solve(decay, batch, T, rtol=0.25, atol=0.25, batch_dims=1).y)


@pytest.mark.parametrize(
    ("t", "atol"),
    [
        ([0, 0.1, 0.3], [1e-6, 1e-7]),
        ((0.0, 0.1, 0.3), (1e-6, 1e-7)),
        (np.array([0, 0.1, 0.3]), np.array([1e-6, 1e-7])),
    ],
    ids=["list", "tuple", "array"],
)
def test_numbers_in_sequences_are_taken_in_double_precision(t: Any, atol: Any) -> None:
    """torch would make single precision of a list, and 0.1 another time."""
    y = solve(decay, Y0, times(0, 0.1, 0.3), atol=times(1e-6, 1e-7)).y
    found = solve(decay, Y0, t, atol=atol)
    assert torch.equal(found.y, y)
    assert torch.equal(ODEBlock(decay, t, atol=atol)(Y0), y)
    assert found.t.dtype is torch.float64
    assert torch.equal(found.interpolate([0.1, 0.2]), found.interpolate(times(0.1, 0.2)))


def test_views_with_a_sign_to_apply() -> None:
    """Imaginary parts of conjugates are lazily negated: as a state, in func, as a gradient."""

    def lazy(x: Tensor) -> Tensor:
        found = torch.complex(torch.zeros_like(x), -x).conj().imag
        assert found.is_neg()
        return found

    def negated(t: Tensor, y: Tensor) -> Tensor:
        return lazy(decay(t, y))

    plain, signed = Y0.clone().requires_grad_(), Y0.clone().requires_grad_()
    expected = solve(decay, plain, T, mass=times(1, 2), method="cn", steps=Grid(2)).y
    found = solve(negated, lazy(signed), lazy(T), mass=lazy(times(1, 2)), method="cn", steps=Grid(2)).y
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    (wanted,) = torch.autograd.grad(expected, plain, torch.ones_like(expected))
    (gradient,) = torch.autograd.grad(found, signed, lazy(torch.ones_like(found)))
    torch.testing.assert_close(gradient, wanted, rtol=1e-14, atol=0)


@pytest.mark.parametrize("transform", ["jacrev", "jacfwd", "grad", "vmap"])
def test_transforms_of_torch_are_refused_by_name(transform: str) -> None:
    transforms = {
        "jacrev": lambda: torch.func.jacrev(lambda y: solve(decay, y, T).y)(Y0),
        "jacfwd": lambda: torch.func.jacfwd(lambda y: solve(decay, y, T).y)(Y0),
        "grad": lambda: torch.func.grad(lambda y: solve(decay, y, T).y.sum())(Y0),
        "vmap": lambda: torch.func.vmap(lambda y: solve(decay, y, T).y)(Y0[None]),
    }
    with pytest.raises(ValueError, match=r"torch\.vmap.*torch\.func.*batch_dims=1.*torch\.autograd"):
        transforms[transform]()


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ((0.0, 1e-300), r"span .* 1e-300 long.*unit of time"),
        ((0.0, 1e300), r"span .* 1e\+300 long.*unit of time"),
        ((-1e308, 1e308), "span .* inf long"),
        ((1e15, 1e15 + 1), r"has only 8 times in a span of 1.*count time from t\[0\]"),
        ((-1e17, -1e17 + 100), "has only"),
    ],
)
@pytest.mark.parametrize("arguments", [{}, {"method": "dopri5"}, CHEAP, {"breakpoints": [0.5]}], ids=str)
def test_spans_that_mean_nothing(span: tuple[float, float], message: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^t: .*{message}"):
        solve(decay, Y0, times(*span), **arguments)


@pytest.mark.parametrize("span", [(0.0, 1e-30), (0.0, 1e30), (1e12, 1e12 + 1), (-1e-20, 0.0)])
@pytest.mark.parametrize("method", ["bdf", "bdf6", "dopri5", "rosw-ra34pw2", "cn"])
def test_spans_that_do(span: tuple[float, float], method: str) -> None:
    """Far from ordinary, in either direction: y' = -y/span, of which e⁻¹ is left."""
    length = span[1] - span[0]
    steps = {} if method == "dopri5" else {"steps": Grid(50)}
    y0 = Y0.clone().requires_grad_()
    y = solve(lambda t, y: -y / length, y0, times(*span), method=method, **steps).y
    torch.testing.assert_close(y[-1].detach(), Y0 * math.exp(-1), rtol=1e-3, atol=0)
    (gradient,) = torch.autograd.grad(y[-1].sum(), y0)
    torch.testing.assert_close(gradient, torch.full_like(Y0, math.exp(-1)), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (Fixed(1e-12), r"Fixed\(1e-12\) makes 1e\+12 steps.*GiB are free.*longer steps"),
        (Fixed(1e-320), r"Fixed\(.*makes inf steps"),
        (Grid(10**14), r"Grid\(100000000000000\) makes 1e\+14 steps"),
        (Grid(2**62), "steps, which take at least"),
    ],
)
def test_more_steps_than_memory_holds(steps: Any, message: str) -> None:
    """Before anything is allocated, whatever is kept of them."""
    for kept in ("stages", "solutions", 20, Disk("/tmp")):
        wanted = message if isinstance(kept, str) else message.split(".*longer")[0]
        with pytest.raises(ValueError, match=rf"^steps: .*{wanted}"):
            solve(decay, Y0, times(0, 1), method="cn", steps=steps, adjoint=Discrete(kept))


def test_states_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stiffml.interface.feasibility.free_bytes", lambda: 1e5)
    y0 = torch.ones(1000, dtype=torch.float64)
    arguments = {"method": "dopri5", "steps": Grid(50)}
    with pytest.raises(ValueError, match=r"50 steps.*fewer states kept \(adjoint=Discrete"):
        solve(decay, y0, times(0, 1), **arguments)
    assert solve(decay, y0, times(0, 1), **arguments, adjoint=Discrete(3)).success


def test_steps_too_short_for_time_to_move() -> None:
    with pytest.raises(ValueError, match=r"^steps: Grid\(100000\).*near t = 1e\+09.*longer steps"):
        solve(decay, Y0, times(1e9, 1e9 + 1e-3), method="cn", steps=Grid(100_000))
    tiny = Recorded(([0.5, 0.5 + 1e-15, 1.0],))
    with pytest.raises(ValueError, match=r"^steps: Recorded, interval 0, entry 1: .*too short for time"):
        solve(decay, Y0, times(1e3, 1e3 + 1), method="cn", steps=tiny)


def test_ramps_are_steps_that_time_resolves() -> None:
    """The first step of BDF of order 5 would be 1e-13 of a day that lies a million days from zero."""
    y = solve(decay, Y0, times(1e6, 1e6 + 1), method="bdf5", steps=Grid(2000)).y
    torch.testing.assert_close(y[-1], Y0 * math.exp(-1), rtol=1e-8, atol=0)


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
