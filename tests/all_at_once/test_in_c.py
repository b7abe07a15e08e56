"""Rows in C, whole iterations in C, and rows in numpy find the same, and fail in the same way."""

from __future__ import annotations

import pytest
import torch
from forms import NEWTON, Case
from rows import RUNS, off, require_same
from small_problems import forced, known, logistic, times

import stiffml
from stiffml import Grid, solve
from stiffml.all_at_once.in_c import factored, qualifying, steps
from stiffml.compiled.refusal import NotCompilableError

D = torch.float64
OUTPUTS = times(0.1, 0.25, 0.3, 0.8)
A_FEW = ["cn", "bdf3", "arkimex-3", "dirk-es325sal", "sdirk3", "rk4"]
LOOK_AT = "look at rows.c and newton.c in all_at_once/in_c/"


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As on a machine without a C compiler, until it is undone."""
    monkeypatch.setattr(qualifying, "library", lambda: NotCompilableError("there is none"))
    return monkeypatch


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each piece of C is called."""
    counts = dict.fromkeys(("stiffml_solve", "stiffml_update", "stiffml_reverse", "stiffml_substitute"), 0)
    library = factored.loaded()

    class Counting:
        def __getattr__(self, name: str):
            counts[name] = counts.get(name, 0) + 1
            return getattr(library, name)

    for module in (factored, steps):
        monkeypatch.setattr(module, "loaded", Counting)
    return counts


@pytest.mark.parametrize(("method", "form"), RUNS)
def test_compiled_functions(method: str, form: str, calls: dict[str, int]) -> None:
    case = Case(form, OUTPUTS)
    expected = case.solve(method, Grid(3), stepping="sequential")
    found = case.solve(method, Grid(3), stepping="all-at-once", compile=True)
    assert found.stats.at_once == found.stats.accepted
    require_same(case, found, expected, f"{method}, {form}; {LOOK_AT}")
    has_brackets = method.startswith("rosw")
    extrapolates = method in {"dirk-es648sa", "dirk-es7510sa", "dirk-s7511sal"}
    whole = not has_brackets and not extrapolates
    assert (calls["stiffml_solve"] > 0) == whole, f"{calls}; look at qualifying.py"
    assert (calls["stiffml_reverse"] > 0) == (not has_brackets)


@pytest.mark.parametrize(("method", "form"), RUNS)
def test_without_a_compiler(method: str, form: str, no_library, calls: dict[str, int]) -> None:
    case = Case(form, OUTPUTS)
    expected = case.solve(method, Grid(3), stepping="sequential")
    found = case.solve(method, Grid(3), stepping="all-at-once")
    require_same(case, found, expected, f"{method}, {form}; {LOOK_AT}")
    assert not any(calls.values())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("method", A_FEW)
def test_counts_are_the_same(method: str, compiled: bool, no_library) -> None:
    """As without the library: evaluations, Jacobians, iterations; cold, with a guess, both ways in time."""
    runs = []
    for is_in_c in (False, True):
        if is_in_c:
            no_library.undo()
        case, found = Case("ode", OUTPUTS), []
        for t in (OUTPUTS, -OUTPUTS):
            known = {"method": method, "steps": Grid(4), "compile": compiled, "stepping": "all-at-once"}
            cold = solve(case.func, case.y0, t, **known)
            warm = solve(case.func, case.y0, t, **known, guess=cold)
            for one in (cold, warm):
                one.y.sum().backward()
                assert one.stats.adjoint is not None
                counts = [one.stats.rhs_evals, one.stats.jacobians, one.stats.newton_iterations]
                found.append(
                    [*counts, one.stats.at_once, one.stats.adjoint.rhs_evals, one.stats.adjoint.jacobians]
                )
        runs.append(found)
    assert runs[0] == runs[1], LOOK_AT


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("samples", [4, 20])
@pytest.mark.parametrize("method", ["cn", "bdf3", "dirk-es325sal"])
def test_samples(method: str, samples: int, compiled: bool, calls: dict[str, int]) -> None:
    case = Case("dae", OUTPUTS)
    y0 = torch.rand(samples, 3, dtype=D, generator=torch.Generator().manual_seed(0)) + 0.3
    mass = torch.tensor([1.0, 2.0, 0.0], dtype=D) * torch.linspace(1, 2, samples, dtype=D)[:, None]
    found = []
    for more in ({"stepping": "sequential"}, {"stepping": "all-at-once", "compile": compiled}):
        start = y0.clone().requires_grad_()
        options = {"mass": mass, "batch_dims": 1, "make_consistent": True, **more}
        solution = solve(case.func, start, OUTPUTS, method=method, steps=Grid(3), **options)
        (gradient,) = torch.autograd.grad((solution.y**2).sum(), start)
        found.append((solution.y, gradient))
    assert calls["stiffml_solve" if compiled else "stiffml_update"] > 0
    for one, other in zip(*found, strict=True):
        assert off(one, other) <= 1e-8, LOOK_AT


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("form", ["ode", "split", "dae"])
def test_tangents_and_many_adjoints(form: str, compiled: bool, calls: dict[str, int]) -> None:
    method = {"ode": "bdf3", "split": "arkimex-3", "dae": "cn"}[form]
    case = Case(form, OUTPUTS[[0, -1]])  # few outputs, so that the Jacobian is made of adjoints
    found = []
    for more in ({"stepping": "sequential"}, {"stepping": "all-at-once", "compile": compiled}):
        solution = case.solve(method, Grid(3), **more)
        inputs = [case.y0, *case.func.parameters()]
        options = {"method": method, "steps": Grid(3), "newton": NEWTON, **case.options, **more}
        forwards = stiffml.sensitivities(case.func, case.y0, case.t.detach(), **options)
        found.append([*solution.jacobian(inputs), *forwards.wrt.values()])
    assert calls["stiffml_substitute"] > 0
    assert calls["stiffml_reverse"] > 0 or form == "dae"
    for one, other in zip(*found, strict=True):
        assert off(one, other) <= 1e-8, LOOK_AT


@pytest.mark.parametrize("compiled", [False, True])
def test_what_fails_is_solved_one_by_one(compiled: bool, calls: dict[str, int]) -> None:
    """A constant guess a long way from an unstable state; and NaN far from the solution."""
    y0, t = torch.tensor([1e-3], dtype=D), times(*[0.5 * n for n in range(41)])

    one = solve(logistic, y0, t, method="beuler", steps=Grid(4), stepping="sequential")
    other = solve(logistic, y0, t, method="beuler", steps=Grid(4), compile=compiled, stepping="all-at-once")
    assert calls["stiffml_solve" if compiled else "stiffml_update"] > 1
    assert off(other.y, one.y) <= 1e-9, LOOK_AT
    assert other.stats.accepted == one.stats.accepted


@pytest.mark.parametrize(("method", "count"), [("bdf2", 8), ("arkimex-4", 4), ("dirk-759a", 4)])
def test_equations_with_several_solutions(method: str, count: int) -> None:
    """The one of test_against_one_by_one.py: an iteration on all steps ends at solutions 20 away."""
    y0, t = known(times(0)[0]), times(0, 1, 2)
    one = solve(forced, y0, t, method=method, steps=stiffml.Fixed(2 / count), stepping="sequential")
    other = solve(forced, y0, t, method=method, steps=stiffml.Fixed(2 / count), compile=True)
    assert off(other.y, one.y) <= 1e-9, f"{method}: look at steps_lead_to in newton.c"


@pytest.mark.parametrize("compiled", [False, True])
def test_a_singular_block(compiled: bool, calls: dict[str, int]) -> None:
    """y' = y / h, so that 1 − h ∂f/∂y is zero: its steps are cut, as they are one by one."""
    y0, t = torch.tensor([1.0], dtype=D), times(0, 1)
    found, wanted = (
        solve(lambda t, y: 16 * y, y0, t, method="beuler", steps=Grid(16), **more)
        for more in ({"compile": compiled}, {"stepping": "sequential"})
    )
    assert off(found.y, wanted.y) <= 1e-10
    assert found.stats.at_once == 0
    assert found.stats.rejected == wanted.stats.rejected == 16
    assert calls["stiffml_solve" if compiled else "stiffml_update"] > 0
