"""The problem library: equations, references, invariants."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import problems
from problems.trajectories import ReferenceError, reference_trajectory
from stiffml import check_gradients


@pytest.mark.parametrize("name", problems.names())
def test_problem_is_consistent(name: str) -> None:
    problem = problems.load(name)
    func, y0 = problem.func(), problem.initial_state()
    t = torch.zeros((), dtype=torch.float64)
    count = len(problem.components)
    assert y0.shape == (count,)
    batch = y0 + torch.rand(4, 5, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    looped = torch.stack([torch.stack([func(t, y) for y in row]) for row in batch])
    torch.testing.assert_close(func(t, batch), looped)
    torch.testing.assert_close(torch.vmap(torch.vmap(lambda y: func(t, y)))(batch), looped)
    if problem.invariants is not None:
        # W·f = 0, to rounding of the largest rate.
        rates = func(t, batch).numpy()
        assert np.abs(rates @ problem.invariants.T).max() <= 1e-14 * np.abs(rates).max()
    assert problem.references
    assert problem.citation
    assert problem.stiffness


@pytest.mark.parametrize("name", problems.names())
def test_reference_trajectory_meets_the_published_values(name: str) -> None:
    problem = problems.load(name)
    times = problem.times(3).numpy()
    y = reference_trajectory(problem, times)  # raises if it misses a published value by more than 1e-10
    assert y.shape == (4, len(problem.components))
    assert problem.invariant_drift(y) < 1e-10


def test_a_wrong_reference_is_noticed() -> None:
    import dataclasses

    problem = problems.load("vanderpol")
    shifted = dataclasses.replace(problem.references[0], y=problem.references[0].y * (1 + 1e-9))
    with pytest.raises(ReferenceError, match=r"vanderpol: relative difference 1\.0e-09"):
        reference_trajectory(dataclasses.replace(problem, references=(shifted,)), np.array([0.0, 1.0]))


def test_changing_a_value_drops_the_references() -> None:
    assert problems.load("vanderpol").references
    changed = problems.load("vanderpol", eps=1e-3)
    assert changed.parameters["eps"].value == 1e-3
    assert not changed.references
    assert not problems.load("robertson").make(t_span=(0, 1)).references


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"no problem 'robertsen'\. Did you mean 'robertson'"):
        problems.load("robertsen")
    with pytest.raises(ValueError, match="vanderpol has no parameter mu; it has eps"):
        problems.load("vanderpol", mu=3.0)
    with pytest.raises(ValueError, match="no parameter k9"):
        problems.load("robertson").func("k9")


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
