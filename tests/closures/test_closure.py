"""Closure: what is conserved, what stays positive, what a trace component gets; bad arguments."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import decay, times
from torch import Tensor

import problems
import stiffml
from problems.library import pollu
from stiffml.closures import (
    Closure,
    Head,
    Linear,
    LogFeatures,
    ProductionLoss,
    Reactions,
    Relaxation,
    Sinh,
    mlp,
)
from stiffml.closures.conservation import constraints, elementary

POLLU = problems.load("pollu")
LACKING = POLLU.make(k9=0.0, k14=0.0).func()
CHANGED = ("NO2", "NO", "OH", "MEO2", "C2O3", "CO2", "HNO3")
RATES = dict(zip(CHANGED, (1.2e-4, 3e-5, 1.5e-4, 3e-5, 3e-5, 3e-5, 1.5e-4), strict=True))


def pollution(head: Head, gain: float = 1.0) -> Closure:
    """POLLU without two reactions, and a network for them of some random weights."""
    scale = [RATES.get(name, 0.0) for name in POLLU.components]
    features = LogFeatures(POLLU.scale)
    model = Closure(
        LACKING,
        [8],
        typical=POLLU.scale,
        scale=scale,
        where=CHANGED,
        components=POLLU.components,
        head=head,
        features=features,
        conserve=POLLU.invariants,
    )
    assert isinstance(model.network, torch.nn.Sequential)
    model.network[-1].weight.data *= gain
    return model


def drift(invariants: dict[str, Any], y: Tensor) -> float:
    """The largest change of a sum, relative to that sum of absolute values at the start."""
    found = []
    for row in invariants.values():
        row = torch.as_tensor(row)
        total = y @ row
        found.append(float((total - total[0]).abs().max() / (y[0].abs() @ row.abs())))
    return max(found)


@pytest.mark.parametrize(
    ("head", "gain"),
    [(Sinh(), 0.05), (Linear(), 1.0), (Reactions(), 0.1)],
    ids=["sinh", "linear", "reactions"],
)
def test_pollu_conserves_nitrogen_sulphur_and_carbon(head: Head, gain: float) -> None:
    model = pollution(head, gain)
    y0 = POLLU.initial_state()
    with torch.no_grad():
        sol = stiffml.solve(model, y0, POLLU.times(6), rtol=1e-5, atol=POLLU.atol(1e-5))
        plain = stiffml.solve(LACKING, y0, POLLU.times(6), rtol=1e-5, atol=POLLU.atol(1e-5))
    assert drift(POLLU.invariants, sol.y) < 1e-12
    changed = (sol.y[-1] - plain.y[-1]).abs() / torch.tensor(POLLU.scale)
    assert changed.max() > 1e-2, "the network does nothing"
    if isinstance(head, Reactions):
        assert (sol.y > -POLLU.atol(1e-5)).all()
        assert "NO2 + OH <=> HNO3" not in model.reactions  # oxygen and hydrogen are not balanced
        assert "NO2 <=> HNO3" in model.reactions


@pytest.mark.parametrize("head", [Sinh(), Reactions()], ids=["sinh", "reactions"])
def test_burning_hydrogen_conserves_elements(head: Head) -> None:
    problem = problems.load("h2air")
    typical = np.array([2000.0, *[0.1] * 10])
    model = Closure(
        problem.func(),
        [6],
        typical=typical,
        scale=10 * typical,
        where=("H2", "H", "O2", "OH", "H2O"),
        components=problem.components,
        head=head,
        conserve=problem.invariants,
    )
    with torch.no_grad():
        y0 = problem.initial_state()
        if isinstance(head, Sinh):  # which would take all of the few radicals that there are at first
            y0 = stiffml.solve(problem.func(), y0, times(0, 1e-3), rtol=1e-5, atol=1e-9).y[-1]
        sol = stiffml.solve(model, y0, times(0, 1e-4, 1e-3), rtol=1e-5, atol=1e-9)
        missing = model.missing(times(0)[0], sol.y[-1])
    assert sol.y[-1, 0] > 2000
    assert missing[4].abs() > 1e-2  # O2, of which there is a fifth
    assert drift(problem.invariants, sol.y) < 1e-12


def test_reactions_and_production_stay_positive() -> None:
    """At 0 nothing falls, at any state and for any weights; and what is conserved is so there too."""
    generator = torch.Generator().manual_seed(0)
    for head, conserve in ((Reactions(), torch.ones(1, 4)), (ProductionLoss(), None)):
        model = Closure(None, [5], typical=[1.0, 1e-3, 1.0, 10.0], head=head, conserve=conserve)
        model.network.gain = 1.0
        model.network.reset(4)
        y = torch.rand(200, 4, generator=generator, dtype=torch.float64) * model.typical
        y[torch.rand(200, 4, generator=generator) < 0.4] = 0
        with torch.no_grad():
            rates = model(times(0)[0], y)
        assert (rates[y == 0] >= 0).all()
        assert (rates < 0).any()
        if conserve is not None:
            assert len(model.reactions) == 6
            assert (rates.sum(dim=-1).abs() <= 1e-15 * rates.abs().amax(dim=-1)).all()


@pytest.mark.parametrize(
    ("head", "sign"), [(ProductionLoss(), 1), (Reactions(), -1)], ids=["production", "reactions"]
)
def test_no_weights_make_a_solution_run_away(head: Head, sign: int) -> None:
    """A production exp(50 y) would be infinite before t = 0.01."""
    network = mlp([1, 2])
    model = Closure(None, network, typical=[1.0], head=head)
    with torch.no_grad():
        network[0].weight.copy_(sign * torch.tensor([[50.0], [-50.0]]))
        sol = stiffml.solve(model, torch.ones(1).double(), times(0, 1, 10))
    assert 1e4 < sol.y[-1] < 1 + 10 * np.exp(9)


@pytest.mark.parametrize("head", [Sinh(), Reactions()], ids=["sinh", "reactions"])
def test_a_trace_component_gets_what_its_scale_allows(head: Head) -> None:
    scale = np.array([1.0, 1.0, 1e-9])
    model = Closure(None, [5], typical=np.ones(3), scale=scale, head=head, conserve=np.ones((1, 3)))
    model.network.gain = 1.0
    model.network.reset(1)
    y = torch.rand(100, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        rates = model(times(0)[0], y)
        numbers = model.network(model.features(times(0)[0], y))
    values = (
        torch.exp(12 * torch.tanh(numbers / 12) - 3)
        if isinstance(head, Reactions)
        else torch.sinh(numbers).abs()
    )
    allowed = 1e-9 * values.sum(dim=-1)
    assert (rates[:, 2].abs() <= allowed).all()
    assert rates[:, 2].abs().max() > 1e-11
    assert (rates.sum(dim=-1).abs() <= 1e-15 * values.amax(dim=-1)).all()
    # In the plain metric the same rates would be off by their sum's third: more than its scale.
    plain = torch.sinh(numbers[:, :3]) * torch.tensor(scale)
    assert (plain.mean(dim=-1).abs() > 10 * allowed).any()


def test_projected_rates_are_the_nearest() -> None:
    """Against least squares with the constraint, in units of the scale."""
    rng = np.random.default_rng(0)
    rows, scale = rng.integers(0, 3, (3, 6)).astype(float), 10.0 ** rng.uniform(-6, 0, 6)
    rows[2] = rows[0] + rows[1]  # says nothing new
    model = Closure(None, [4], typical=np.ones(6), scale=scale, head=Linear(), conserve=rows)
    y = torch.rand(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        found = (model(times(0)[0], y) / torch.tensor(scale)).numpy()
        wanted = model.network(model.features(times(0)[0], y)).numpy()
    A = rows[:2] * scale
    A = A / np.linalg.norm(A, axis=1, keepdims=True)
    nearest = wanted - A.T @ np.linalg.solve(A @ A.T, A @ wanted)
    np.testing.assert_allclose(found, nearest, atol=1e-12)
    assert len(constraints(rows, scale)) == 2


def test_elementary_reactions() -> None:
    atoms = np.array([[2, 0, 2, 1, 1, 0, 1, 2], [0, 2, 1, 1, 0, 1, 2, 2.0]])  # H2 O2 H2O OH H O HO2 H2O2
    found = elementary(atoms, 100)
    assert np.abs(found @ atoms.T).max() == 0
    assert np.linalg.matrix_rank(found) == 6
    supports = [frozenset(np.flatnonzero(row)) for row in found]
    assert not any(a < b for a, b in itertools.permutations(supports, 2))
    assert len(set(supports)) == len(supports)
    assert any(np.array_equal(abs(row), [2, 1, 2, 0, 0, 0, 0, 0]) for row in found)
    # Each set of three components has a dependence; those with a smaller one inside are no more elementary.
    triples = [set(c) for c in itertools.combinations(range(8), 3)]
    small = [s for s in supports if len(s) == 2]  # H2 = 2 H, O2 = 2 O, H2O2 = 2 OH
    assert len(small) == 3
    assert len(found) == 3 + sum(not any(s <= t for s in small) for t in triples)
    assert elementary(np.zeros((0, 2)), 5).tolist() == [[-1, 0], [0, -1]]
    with pytest.raises(ValueError, match=r"more than 5 change no .* name fewer components in where"):
        elementary(atoms, 5)


def test_only_the_components_named_change() -> None:
    model = pollution(Sinh())
    with torch.no_grad():
        missing = model.missing(times(0)[0], POLLU.initial_state())
    changed = {name for name, rate in zip(POLLU.components, missing, strict=True) if rate != 0}
    assert changed == set(CHANGED)
    assert model.where == tuple(name for name in pollu.SPECIES if name in CHANGED)


def test_kims_scaling() -> None:
    """With Linear and scale = range/t_end, dz/dτ is the network of z = y/range."""
    size, end = torch.tensor([2.0, 1e-5]).double(), 50.0
    network = mlp([2, 4, 2], seed=1)
    model = Closure(None, network, typical=size, scale=size / end, head=Linear())
    y = size * torch.tensor([0.3, 0.8]).double()
    torch.testing.assert_close(model(times(0)[0], y) * end / size, network(y / size), rtol=1e-14, atol=0)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "known": ({"known": 3}, TypeError, r"known must be callable as known\(t, y\), or None, not 3"),
    "network": ({"network": "mlp"}, TypeError, "network must be a torch.nn.Module or the widths"),
    "features": ({"network": mlp([4, 3])}, ValueError, "network must take 3 features"),
    "outputs": (
        {"network": mlp([3, 2])},
        ValueError,
        r"must give 3 numbers from 3 features, as mlp\(\[3, 32",
    ),
    "single": ({"network": torch.nn.Linear(3, 3)}, ValueError, "network must be in double precision"),
    "typical": (
        {"typical": [1.0, 0.0, 1.0]},
        ValueError,
        "typical must be positive, not 0 as of component 1",
    ),
    "scale": ({"scale": [1.0, 2.0]}, ValueError, "scale must be one number, or one for each of 3 components"),
    "no scale": ({"scale": [1, 0, 1]}, ValueError, "scale of B must be positive and finite, not 0"),
    "where": ({"where": ["D2"]}, ValueError, "where: there is no component 'D2'; there are A, B, C"),
    "near": ({"where": "b2", "components": ["b1", "a", "c"]}, ValueError, "did you mean b1?"),
    "number": ({"where": 3}, ValueError, "where must be at most 2, not 3"),
    "twice": ({"where": [0, "A"]}, ValueError, "where names a component twice"),
    "head": ({"head": "sinh"}, TypeError, r"head must be Linear\(\), Sinh\(\)"),
    "a function": ({"conserve": {"energy": abs}}, ValueError, "conserve: energy is a function of the state"),
    "rows": (
        {"conserve": [[1, 1]]},
        ValueError,
        r"conserve must be rows of 3 numbers, not of shape \(1, 2\)",
    ),
    "nothing left": (
        {"conserve": np.ones((1, 3)), "where": "A"},
        ValueError,
        "conserve leaves nothing to A: any rate of these changes a sum; name more",
    ),
    "positive": (
        {"conserve": np.ones((1, 3)), "head": ProductionLoss()},
        ValueError,
        r"ProductionLoss cannot conserve a sum that A is part of.*Take Reactions\(\), which has both",
    ),
    "unbalanced": (
        {"conserve": np.ones((1, 3)), "head": Reactions([[-1, 1, 0], [-1, 2, 0]])},
        ValueError,
        "reaction 1, A <=> 2 B, changes conserved sum 0 by 1",
    ),
    "columns": ({"head": Reactions([[-1, 1]])}, ValueError, "must have a column for each of A, B, C, not 2"),
    "no reaction": (
        {"conserve": np.ones((1, 3)), "where": "A", "head": Reactions()},
        ValueError,
        "no reaction among A alone keeps the conserved sums; name more",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(case: str) -> None:
    arguments, error, message = BAD[case]
    given: dict[str, Any] = {"known": decay, "network": [4], "typical": np.ones(3), "components": "ABC"}
    given = given | {"components": ["A", "B", "C"]} | arguments
    with pytest.raises(error, match=message):
        Closure(given.pop("known"), given.pop("network"), **given)


def test_a_state_of_another_length() -> None:
    model = Closure(decay, [4], typical=np.ones(3))
    with pytest.raises(ValueError, match=r"y must have 3 components in its last dimension, not shape \(2,\)"):
        model(times(0)[0], torch.ones(2).double())


def test_relaxation_is_what_it_says() -> None:
    """Fast components decay towards the network's numbers at scale/typical; the others have v as rate."""
    typical = torch.tensor([2.0, 4.0, 8.0], dtype=torch.float64)
    scale = torch.tensor([1.0, 400.0, 3.0], dtype=torch.float64)
    names = ["a", "b", "c"]
    model = Closure(None, [4], typical=typical, scale=scale, components=names, head=Relaxation(["b"]), seed=1)
    y, t = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.tensor(0.0)
    v = model.network(model.features(t, y))
    expected = torch.stack([v[0], 400 * (v[1] - y[1] / 4), 3 * v[2]])
    torch.testing.assert_close(model(t, y), expected, rtol=1e-14, atol=1e-14)
    every = Closure(None, [4], typical=typical, scale=scale, head=Relaxation(), seed=1)
    torch.testing.assert_close(every(t, y), scale * (v - y / typical), rtol=1e-14, atol=1e-14)
    with pytest.raises(ValueError, match="Relaxation: fast: there is no component 'd'"):
        Closure(None, [4], typical=typical, components=names, head=Relaxation(["d"]))
    with pytest.raises(ValueError, match="head: Relaxation cannot conserve a sum that y1 is part of"):
        Closure(None, [4], typical=typical, head=Relaxation(), conserve=torch.ones(1, 3))
