"""The problem library: equations, splits, patterns, invariants, references."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import problems
from problems import trajectories
from problems.checking import compare
from problems.spectrum import jacobian
from problems.trajectories import ReferenceError, reference_trajectory
from stiffml import check_gradients

ON_GRIDS = [name for name in problems.names() if problems.load(name).grid]
SPLIT = [name for name in problems.names() if problems.load(name).parts]


def small(name: str) -> problems.Problem:
    """A problem whose unknowns are few."""
    problem = problems.load(name)
    return problem.make(size=8) if problem.grid else problem


def states(problem: problems.Problem, *batch: int) -> Tensor:
    """States near the initial one, in which nothing is zero."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.from_numpy(problem.per_component(1.0 if problem.scale is None else problem.scale))
    random = torch.rand(*batch, *problem.y0.shape, dtype=torch.float64, generator=generator)
    return problem.initial_state() + 1e-2 * scale * random


@pytest.mark.parametrize("name", problems.names())
def test_problem_is_complete(name: str) -> None:
    problem = problems.load(name)
    for text in ("title", "equations", "citation", "stiffness"):
        assert getattr(problem, text), f"{name} lacks its {text}"
    assert problem.references, f"{name} has no reference; fields: python -m problems.library.make_shipped"
    assert all(r.y.shape == problem.y0.shape for r in problem.references)
    assert all(p.units for p in problem.parameters.values())
    for reference in problem.references:
        own = compare(problem, reference, reference.y)
        assert own.error == 0, f"{name}: the state at t = {reference.t:g} misses itself"
        assert own.digits == pytest.approx(-math.log10(reference.rtol_valid))
    if problem.bounds is not None:
        low, high = (problem.per_component(bound) for bound in problem.bounds)
        for y in (problem.y0, *(r.y for r in problem.references)):
            assert ((low - 1e-12 <= y) & (y <= high)).all(), f"{name}: a known state is outside the bounds"


@pytest.mark.parametrize("name", problems.names())
def test_batches_are_the_same_as_loops(name: str) -> None:
    problem = small(name)
    func = problem.func()
    batch = states(problem, 2, 3)
    for time in (problem.t_span[0], *(b + 0.1 for b in problem.breakpoints)):
        t = torch.tensor(time, dtype=torch.float64)
        looped = torch.stack([torch.stack([func(t, y) for y in row]) for row in batch])
        size = looped.abs().amax()
        for batched in (func(t, batch), torch.vmap(torch.vmap(lambda y, t=t: func(t, y)))(batch)):
            # The largest rates of chemistry cancel: what remains is compared with them.
            assert (batched - looped).abs().max() <= 1e-13 * size, f"{name}: rhs mixes samples of a batch"


@pytest.mark.parametrize("name", problems.names())
def test_rates_conserve_the_invariants(name: str) -> None:
    problem = small(name)
    rates = problem.func()(torch.tensor(0.0, dtype=torch.float64), states(problem, 4)).numpy().reshape(4, -1)
    for invariant, row in problem.invariants.items():
        if not callable(row) and problem.mass is None:
            # To the rounding of the largest term.
            change, largest = np.abs(rates @ row).max(), np.abs(rates * row).max()
            assert change <= 1e-13 * largest, f"{name}: {invariant} changes at a rate of {change:.1e}"


@pytest.mark.parametrize("name", SPLIT)
def test_parts_sum_to_the_whole(name: str) -> None:
    problem = small(name)
    split, whole = problem.split(), problem.func()
    for time in (0.0, *(b + 0.1 for b in problem.breakpoints)):
        t, y = torch.tensor(time, dtype=torch.float64), states(problem, 3)
        torch.testing.assert_close(split(t, y), whole(t, y), rtol=1e-13, atol=1e-13)
    if split.linear:
        zero = torch.zeros_like(y)
        once, twice = split.implicit(t, y), split.implicit(t, 2 * y)
        torch.testing.assert_close(twice, 2 * once, rtol=1e-13, atol=1e-13)
        assert split.implicit(t, zero).abs().max() == 0


def test_parts_share_trainable_parameters() -> None:
    split = small("brusselator").split("alpha", "B")
    assert {id(p) for p in split.implicit.parameters()} == {id(p) for p in split.explicit.parameters()}
    assert len(list(split.parameters())) == 2
    with pytest.raises(ValueError, match="robertson has no natural split"):
        problems.load("robertson").split()
    with pytest.raises(ValueError, match="robertson has no natural split"):
        problems.load("robertson").solve(split=True)


@pytest.mark.parametrize("name", ON_GRIDS)
def test_jacobian_has_the_pattern(name: str) -> None:
    problem = small(name)
    assert problem.sparsity is not None
    pattern = problem.sparsity().toarray()
    y = states(problem).numpy()
    J = jacobian(problem, 0.5, y)
    missed = (J != 0) & ~pattern
    assert not missed.any(), f"{name}: ∂f{np.argwhere(missed)[0]} is not in the pattern"
    surplus = pattern & (J == 0)
    assert not surplus.any(), f"{name}: the pattern has entries that are always zero"


# Exact values, those of E5 (found in other variables) and those that ship (compared when made) are left out.
@pytest.mark.parametrize("name", ["robertson", "vanderpol", "hires", "orego", "pollu", "akzo", "pendulum"])
def test_reference_trajectory_meets_the_references(name: str) -> None:
    problem = problems.load(name)
    times = problem.times(3).numpy()
    y = reference_trajectory(problem, times)  # raises if it misses a reference
    assert y.shape == (4, *problem.y0.shape)


def test_reference_trajectory_of_a_field_stops_at_breakpoints() -> None:
    problem = problems.load("brusselator", size=6).make(t_span=(0.0, 1.5))
    times = np.array([0.0, 1.0, 1.5])
    implicit, explicit = (reference_trajectory(problem, times, method) for method in (None, "DOP853"))
    np.testing.assert_allclose(implicit, explicit, rtol=1e-8)


def test_a_wrong_reference_is_noticed() -> None:
    problem = problems.load("vanderpol")
    shifted = dataclasses.replace(problem.references[0], y=problem.references[0].y * (1 + 1e-9))
    with pytest.raises(ReferenceError, match=r"vanderpol: relative difference 1\.0e-09"):
        reference_trajectory(dataclasses.replace(problem, references=(shifted,)), np.array([0.0, 1.0]))


def test_an_unchecked_trajectory_ends_at_its_last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, times, ends = problems.load("robertson"), np.array([0.0, 1.0, 100.0]), []
    integrate = trajectories.solve_ivp

    def watched(slope, span, *given, **more):
        ends.append(span[1])
        return integrate(slope, span, *given, **more)

    monkeypatch.setattr(trajectories, "solve_ivp", watched)
    checked, not_checked = (reference_trajectory(problem, times, checked=c) for c in (True, False))
    assert ends == [1e11, 100.0]
    np.testing.assert_allclose(not_checked, checked, rtol=1e-9, atol=1e-18)


def test_changing_anything_drops_the_references() -> None:
    assert problems.load("vanderpol").references
    changed = problems.load("vanderpol", eps=1e-3)
    assert changed.parameters["eps"].value == 1e-3
    assert not changed.references
    assert not problems.load("robertson").make(t_span=(0, 1)).references
    assert not problems.load("robertson").make(y0=[1.0, 0.0, 0.0]).references
    coarse = problems.load("ks", size=32, length=11.0)
    assert not coarse.references
    assert coarse.y0.shape == (1, 32)
    assert coarse.parameters["length"].value == 11.0


def test_initial_states_that_depend_on_parameters_follow() -> None:
    akzo = problems.load("akzo", Ks=100.0)
    assert akzo.y0[5] == 100.0 * akzo.y0[0] * akzo.y0[3]
    akzo.solve(akzo.times(2))  # consistent


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"no problem 'mine\.csv'\. A file of your own is one in Python"):
        problems.load("mine.csv")
    with pytest.raises(ValueError, match=r"no problem 'robertsen'\. Did you mean 'robertson'"):
        problems.load("robertsen")
    with pytest.raises(ValueError, match="vanderpol has no parameter mu; it has eps"):
        problems.load("vanderpol", mu=3.0)
    with pytest.raises(ValueError, match="no parameter k9"):
        problems.load("robertson").func("k9")
    with pytest.raises(ValueError, match="vanderpol has no grid, so that its size is always 2"):
        problems.load("vanderpol", size=3)
    with pytest.raises(FileNotFoundError, match=r"no file missing\.py"):
        problems.load("missing.py")


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"mine: y0 has shape \(2,\), but components and grid make \(3,\)"):
        problems.Problem("mine", lambda t, y, p: y, np.ones(2), (0.0, 1.0), components=("a", "b", "c"))
    with pytest.raises(ValueError, match='time_grid is "log" or "linear"'):
        problems.Problem("mine", lambda t, y, p: y, np.ones(2), (0.0, 1.0), time_grid="cubic")


def test_trainable_parameters() -> None:
    func = problems.load("robertson").func("k1", "k3")
    assert {name for name, _ in func.named_parameters()} == {"k1", "k3"}
    t = torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64)
    report = check_gradients(func, problems.load("robertson").initial_state(), t, method="bdf2", rtol=1e-3)
    assert {check.name for check in report.checks} == {"y0", "t", "k1", "k3"}


def test_time_grids() -> None:
    robertson = problems.load("robertson").make(t_span=(0, 100)).times(40, first=1e-5)
    assert robertson.shape == (41,)
    assert robertson[1].item() == pytest.approx(1e-5)
    assert robertson[-1].item() == pytest.approx(100)
    assert problems.load("vanderpol").times(4).tolist() == [0, 0.5, 1, 1.5, 2]


def test_eigenvalues() -> None:
    robertson = problems.load("robertson")
    (known,) = robertson.references
    np.testing.assert_allclose(robertson.eigenvalues(), [-0.04, 0, 0], atol=1e-12)
    np.testing.assert_allclose(robertson.eigenvalues(known.t, known.y)[0], -1e4, rtol=0.01)
    # The algebraic equation of a DAE has no finite eigenvalue.
    assert len(problems.load("akzo").eigenvalues()) == 5
    # Beyond 600 unknowns by Arnoldi's iteration: that of the highest frequency.
    gray_scott = problems.load("gray_scott")
    assert gray_scott.size > 600
    kinetics = gray_scott.parameters["gamma"].value + gray_scott.parameters["kappa"].value
    assert gray_scott.eigenvalues()[0] == pytest.approx(-8 * 8e-5 * (64 / 2.5) ** 2 - kinetics, rel=0.5)
