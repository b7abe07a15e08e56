"""Intervals solved side by side, with steps of their own: as one after the other; and rate constants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decays import RATES, Chain, chain_runs

from stiffml import Adaptive, solve
from stiffml.training import least_squares, read_csv
from stiffml.training.lm.intervals import shot
from stiffml.training.lm.one_by_one import OneByOne
from stiffml.training.lm.residuals import Residuals
from stiffml.training.lm.side_by_side import SideBySide

SCALE = np.array([0.5, 2e-3])
TIGHT = {"steps": Adaptive(), "rtol": 1e-9, "atol": torch.tensor([1e-12, 1e-14], dtype=torch.float64)}
LOOK_AT = "look at stiffml/training/lm/side_by_side.py"


class OneState(Chain):
    """The same for one state at a time."""

    def forward(self, t, y):
        assert y.shape == (2,)
        return super().forward(t, y)


WAYS = [
    (method, initial, length)
    for method in ("bdf", "dirk-es213sal", "sdirk3")
    for initial in ("known", "learned")
    for length in (4, 100)
]
SLOW = {("sdirk3", "known", 4), ("sdirk3", "known", 100), ("sdirk3", "learned", 100)}


@pytest.mark.parametrize(
    ("method", "initial", "length"),
    [pytest.param(*way, marks=pytest.mark.sweep) if way in SLOW else way for way in WAYS],
)
def test_side_by_side_is_one_by_one(method: str, initial: str, length: int) -> None:
    """Intervals of several lengths, from a state that is fitted or not."""
    runs = chain_runs().with_initial({"A": initial})
    points = []
    for one_by_one in (False, True):
        residuals = Residuals(Chain(2.0, 300.0), runs, SCALE, {"method": method, **TIGHT})
        assert isinstance(residuals.engine, SideBySide)
        if one_by_one:
            residuals.engine = OneByOne(residuals.arguments, residuals.vector.parameters)
        points.append(residuals.of(shot(runs, length)).begin(residuals.vector.read(), None))
    found, expected = points
    # Steps are chosen apart from each other: as far as the tolerance lets them differ.
    np.testing.assert_allclose(found.residuals, expected.residuals, atol=1e-6, err_msg=LOOK_AT)
    size = np.abs(expected.jacobian()).max()
    np.testing.assert_allclose(found.jacobian(), expected.jacobian(), atol=1e-4 * size, err_msg=LOOK_AT)


def test_a_kept_point_is_the_same_bit_by_bit() -> None:
    runs = chain_runs().with_initial({"A": "learned"})
    residuals = Residuals(Chain(2.0, 300.0), runs, SCALE, {"method": "bdf", **TIGHT})
    problem = residuals.of(shot(runs, 4))
    point = problem.begin(residuals.vector.read(), None)
    again = problem.restored(problem.kept(point))
    problem.evaluate(residuals.vector.read() - 0.3, point)
    np.testing.assert_array_equal(point.residuals, again.residuals)
    np.testing.assert_array_equal(point.jacobian(), again.jacobian())


def test_a_model_of_one_state_is_solved_one_by_one() -> None:
    runs = chain_runs()
    assert isinstance(Residuals(OneState(), runs, SCALE, {"method": "bdf", **TIGHT}).engine, OneByOne)
    found = least_squares(OneState(3.0, 600.0), runs).model.rates
    np.testing.assert_allclose(found, RATES, rtol=1e-4)


class Kinetics(torch.nn.Module):
    """Robertson-like: A -> B, B + C -> A + C, 2 B -> B + C."""

    def __init__(self, rates: list[float]) -> None:
        super().__init__()
        self.log_k = torch.nn.Parameter(torch.tensor(rates, dtype=torch.float64).log())

    def forward(self, t, y):
        k, (a, b, c) = self.log_k.exp(), y.unbind(-1)
        r1, r2, r3 = k[0] * a, k[1] * b * c, k[2] * b * b
        return torch.stack([r2 - r1, r1 - r2 - r3, r3], dim=-1)


TRUE, NOISE = [0.4, 1e2, 3e4], {"A": 0.01, "B": 4e-5, "C": 0.01}


def test_rate_constants_from_a_table(tmp_path) -> None:
    """Runs with times of their own, noise and gaps."""
    rng, rows = np.random.default_rng(0), ["run,t,A,B,C"]
    for number in range(4):
        t = np.append(0.0, np.sort(10 ** rng.uniform(-4, 1.5, rng.integers(14, 24))))
        y0 = torch.tensor([rng.uniform(0.6, 1.4), 0.0, 0.0], dtype=torch.float64)
        with torch.no_grad():
            y = solve(Kinetics(TRUE), y0, torch.from_numpy(t), rtol=1e-8, atol=1e-12).y.numpy()
        y = y + np.array(list(NOISE.values())) * rng.standard_normal(y.shape)
        gaps = rng.random(y.shape) < 0.15
        y[0, 0], gaps[0, 0] = y0[0], False  # unseen runs start here: an error of it is none of the model's
        for i, at in enumerate(t):
            cells = ["" if gap else f"{v:.8g}" for v, gap in zip(y[i], gaps[i], strict=True)]
            rows.append(",".join([f"exp{number}", f"{at:.8g}", *cells]))
    (tmp_path / "runs.csv").write_text("\n".join(rows))

    runs = read_csv(tmp_path / "runs.csv", run="run", time="t", noise=NOISE)
    runs = runs.with_initial({"A": "learned", "B": 0.0, "C": 0.0})
    train, validate = runs.split(fraction=0.75)
    result = least_squares(Kinetics([0.2, 3e2, 1e4]), train)
    assert result.report(validate).mean <= 1.5  # in units of the noise; what is expected is 0.8
    intervals = result.covariance.intervals()
    for i, rate in enumerate(TRUE):
        low, high = intervals[f"log_k[{i}]"]
        assert low <= np.log(rate) <= high, f"k{i + 1}"
        assert high - low < 0.3
