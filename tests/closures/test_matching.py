"""match_rates: rates that data lack, without a solve; noise; and features of some components."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stiffml.closures import Closure, LinearFeatures, LogFeatures, Reactions, match_rates
from stiffml.closures.matching import _Matching
from stiffml.training.data import Run, Runs

TOTAL = torch.ones(1, 3, dtype=torch.float64)


def full(t: Tensor, y: Tensor) -> Tensor:
    """A -> B at 1, B -> A at 50, A + B -> C at 3."""
    a, b, _ = y.unbind(-1)
    return torch.stack([-a + 50 * b - 3 * a * b, a - 50 * b - 3 * a * b, 6 * a * b], dim=-1)


def known(t: Tensor, y: Tensor) -> Tensor:
    """Without the last."""
    a, b, _ = y.unbind(-1)
    return torch.stack([-a + 50 * b, a - 50 * b, 0 * a], dim=-1)


def observed(noise: float = 0.0, runs: int = 4) -> Runs:
    import stiffml

    t = torch.linspace(0, 6, 25, dtype=torch.float64)
    rng = np.random.default_rng(0)
    found = []
    for i in range(runs):
        y0 = torch.tensor([rng.uniform(0.5, 1.5), 0.02, 0.0], dtype=torch.float64)
        y = stiffml.odeint(full, y0, t, rtol=1e-9, atol=1e-12).numpy()
        scale = np.array([1.0, 0.02, 0.2])
        found.append(Run(f"{i}", t.numpy(), y + noise * scale * rng.standard_normal(y.shape), y0=y0.numpy()))
    given = dict(zip("ABC", noise * scale, strict=True)) if noise else None
    return Runs(found, ["A", "B", "C"], initial="known", noise=given)


def closure(typical: tuple[float, ...] = (1.0, 0.02, 0.2), hidden: tuple[int, ...] = ()) -> Closure:
    features = LogFeatures(typical, linear=False, floor=1e-2, of=[0, 1])
    return Closure(
        known,
        hidden,
        typical=typical,
        scale=0.05,
        components=["A", "B", "C"],
        head=Reactions([[-1, -1, 2]], shift=0.0),
        features=features,
        conserve=TOTAL,
    )


def test_rates_of_states_never_seen() -> None:
    model = closure()
    found = match_rates(model, observed(), ridges=(1.0, 0.1, 0.01))
    y = torch.tensor([[0.7, 0.014, 0.1], [1.2, 0.024, 0.3]], dtype=torch.float64)
    missing = model.missing(torch.tensor(0.0), y)
    expected = full(torch.tensor(0.0), y) - known(torch.tensor(0.0), y)
    # The trapezoidal rule over intervals of a 24th of the decay's time, and 0.01 of the scale.
    torch.testing.assert_close(missing, expected, rtol=0.05, atol=1e-3)
    assert found.errors[found.ridges.index(found.ridge)] == min(found.errors)
    assert min(found.errors) < 5e-3
    assert abs(float(missing.sum())) < 1e-15, "match_rates must leave the sums alone"


def test_a_compiled_closure_is_matched_alike() -> None:
    """The solves that compare ridges end within their tolerances, 1e-4, of those by torch."""
    pytest.importorskip("casadi")
    found = [
        match_rates(closure(), observed(), ridges=(1.0, 0.1), compile=compile) for compile in (False, True)
    ]
    assert found[0].ridge == found[1].ridge
    np.testing.assert_allclose(found[1].errors, found[0].errors, rtol=1e-3, atol=1e-5)


def test_a_closure_before_is_far_away() -> None:
    """What the test above finds is not there before."""
    y = torch.tensor([0.7, 0.014, 0.1], dtype=torch.float64)
    model = closure()
    missing, expected = model.missing(torch.tensor(0.0), y), 6 * y[0] * y[1]
    assert abs(missing[2] - expected) > 0.2 * expected


def test_under_noise_the_ridge_of_the_best_trajectories_is_taken() -> None:
    model = closure()
    runs = observed(0.05)
    found = match_rates(model, runs, ridges=(30.0, 0.3, 1e-3))
    errors = []
    for ridge in found.ridges:
        alone = closure()
        match_rates(alone, runs, ridges=[one for one in found.ridges if one >= ridge])
        errors.append(min(found.errors[: found.ridges.index(ridge) + 1]))
    assert found.errors[found.ridges.index(found.ridge)] == min(errors)
    assert list(found.misfits) == sorted(found.misfits, reverse=True), "weaker ridges match rates better"


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_derivatives_of_the_differences(hidden: tuple[int, ...]) -> None:
    problem = _Matching(closure(hidden=hidden), observed(runs=2), 0.01)
    theta = np.random.default_rng(1).normal(size=len(problem.read()))
    jacobian = problem.evaluate(theta).jacobian()
    direction = np.random.default_rng(2).normal(size=len(theta))
    h = 1e-6
    ahead, behind = (problem.evaluate(theta + sign * h * direction).residuals for sign in (1, -1))
    expected = (ahead - behind) / (2 * h)
    np.testing.assert_allclose(jacobian @ direction, expected, atol=1e-6 * np.abs(expected).max())


def test_runs_of_other_lengths_and_a_known_part_that_is_trained() -> None:
    class Known(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k = nn.Parameter(torch.tensor(50.0, dtype=torch.float64))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            a, b, _ = y.unbind(-1)
            return torch.stack([-a + self.k * b, a - self.k * b, 0 * a], dim=-1)

    runs = observed()
    shorter = Run("short", runs[0].times[:9], runs[0].values[:9], y0=runs[0].y0)
    runs = Runs([*runs, shorter], runs.components, initial="known")
    model = closure()
    model.known = Known()
    assert min(match_rates(model, runs).errors) < 2e-2
    assert float(model.known.k.detach()) == 50.0


def test_what_is_refused() -> None:
    model, runs = closure(), observed(runs=1)
    with pytest.raises(TypeError, match="closure must be a Closure, not"):
        match_rates(known, runs)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="runs must be Runs, not"):
        match_rates(model, [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ridges must hold at least one"):
        match_rates(model, runs, ridges=())
    other = Runs([Run("a", run.times, run.values) for run in runs], ["A", "B", "D"])
    with pytest.raises(ValueError, match=r"runs have components .*D.*, the closure .*C"):
        match_rates(model, other)


@pytest.mark.parametrize("kind", [LinearFeatures, LogFeatures])
def test_features_of_some_components(kind: type) -> None:
    y = torch.tensor([[2.0, 3.0, 5.0], [7.0, 11.0, 13.0]], dtype=torch.float64)
    some, every = kind([1.0, 2.0, 4.0], of=[2, 0]), kind([1.0, 4.0])
    assert some.count == every.count
    expected = every(torch.tensor(0.0), y[:, [0, 2]])
    assert torch.equal(some(torch.tensor(0.0), y), expected)
    changed = y.clone()
    changed[:, 1] = 100.0
    assert torch.equal(some(torch.tensor(0.0), changed), expected)
    with pytest.raises(ValueError, match="of"):
        kind([1.0, 2.0], of=[2])
