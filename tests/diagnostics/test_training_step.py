"""What is said of a training that is known to be off in one way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stiffml import Adaptive, Grid, solve
from stiffml.diagnostics import TrainingReport, training_step
from stiffml.training import Run, Runs

D = torch.float64
T = np.concatenate([[0.0], np.geomspace(1e-3, 4.0, 24)])


class Chain(nn.Module):
    """A → B → C with rate constants exp(logs), of which ``product`` has only the product of two count."""

    def __init__(self, rates=(1.0, 50.0), product: bool = False, factor=(1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.tensor(rates, dtype=D).log())
        self.product = product
        self.register_buffer("factor", torch.tensor(factor, dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b, _ = y.unbind(-1)
        first, second = self.logs.exp().unbind(-1)
        if self.product:
            first, second = first * second / 50, 50.0 * torch.ones_like(first)
        return self.factor * torch.stack([-first * a, first * a - second * b, second * b], dim=-1)


def runs(noise: float = 0.0, known: bool = False, rates=(1.0, 50.0)) -> Runs:
    with torch.no_grad():
        y = solve(
            Chain(rates),
            torch.tensor([1.0, 0, 0], dtype=D),
            torch.from_numpy(T),
            method="bdf",
            rtol=1e-9,
            atol=1e-13,
        )
    values = y.y.numpy()
    sizes = np.ptp(values, axis=0)
    values = values + noise * sizes * np.random.default_rng(0).standard_normal(values.shape)
    values[0] = [1, 0, 0]
    more = {"noise": dict(zip("ABC", (noise * sizes).tolist(), strict=True))} if known else {}
    return Runs([Run("one", T, values)], ["A", "B", "C"], initial="known", time_units="s", **more)


def said(report: TrainingReport) -> str:
    return " ".join(" ".join(report.notes).split())


def test_a_training_in_which_nothing_is_wrong() -> None:
    report = training_step(Chain((1.2, 5e3)), runs(rates=(1.0, 5e3)), steps=Grid(4))
    assert report.notes == ()
    assert report.gradients is not None
    assert report.gradients.ok
    assert report.identifiability.poor == 0
    assert report.advice is not None
    assert report.advice.verdict == "stiff"
    text = str(report)
    assert "nothing stands out" in text
    assert max(map(len, text.splitlines())) < 80


def test_where_the_error_sits() -> None:
    """Residuals are model minus data over the range, by component and time."""
    data, model = runs(), Chain((1.0, 60.0))
    report = training_step(model, data, method="bdf", steps=Adaptive(), rtol=1e-8, atol=1e-11, check=False)
    y0 = torch.tensor([1.0, 0, 0], dtype=D)
    with torch.no_grad():
        y = solve(model, y0, torch.from_numpy(T), method="bdf", rtol=1e-10, atol=1e-14).y.numpy()
    expected = ((y - data[0].values) / np.ptp(data[0].values, axis=0))[1:]
    np.testing.assert_allclose(report.residuals[0][1:], expected, atol=1e-5)
    assert report.rms == pytest.approx(np.sqrt((expected**2).mean()), rel=1e-3)
    sizes = np.sqrt((expected**2).mean(axis=0))
    np.testing.assert_allclose(list(report.by_component.values()), sizes, atol=1e-5)
    assert max(report.by_component, key=report.by_component.__getitem__) == "B"
    assert report.worst[2] == "B"
    row, component = np.unravel_index(np.abs(expected).argmax(), expected.shape)
    assert report.worst[1] == T[1 + row]
    assert report.worst[3] == pytest.approx(expected[row, component], rel=1e-3)
    assert report.by_time.sum() == pytest.approx(1)
    assert report.gradients is None


def test_nothing_is_changed() -> None:
    model = Chain((1.2, 50.0))
    before = model.logs.detach().clone()
    training_step(model, runs())
    assert torch.equal(model.logs, before)
    assert model.logs.grad is None


def test_parameters_that_only_count_together() -> None:
    report = training_step(Chain((1.2, 50.0), product=True), runs(), steps=Grid(4), check=False)
    found = report.identifiability
    assert found.poor == 1
    assert found.singular_values[1] < 1e-8 * found.singular_values[0]
    # In relative changes of the logarithms, log 1.2 and log 50.
    expected = np.array([1 / np.log(1.2), -1 / np.log(50)])
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(np.abs(found.directions[1] @ expected), 1, rtol=1e-6)
    assert "do not determine 1 of 2 directions" in said(report)
    assert "logs[0]" in said(report)


def test_singular_values_are_those_of_the_residuals() -> None:
    """By differences of solves, in relative changes."""
    model = Chain((1.2, 40.0))
    tight = {"method": "bdf", "steps": Adaptive(), "rtol": 1e-7, "atol": 1e-10}
    report = training_step(model, runs(), check=False, **tight)
    columns = []
    for i in range(2):
        ends = []
        for sign in (1, -1):
            moved = Chain((1.2, 40.0))
            with torch.no_grad():
                moved.logs[i] *= 1 + sign * 1e-3
            ends.append(training_step(moved, runs(), check=False, **tight).residuals[0][1:].ravel())
        columns.append((ends[0] - ends[1]) / 2e-3)
    expected = np.linalg.svd(np.stack(columns, axis=1), compute_uv=False)
    np.testing.assert_allclose(report.identifiability.singular_values, expected, rtol=1e-3)


@pytest.mark.parametrize(("factor", "word"), [(1e4, "down"), (1e-4, "up")])
def test_the_scale_of_the_output(factor: float, word: str) -> None:
    """C is pushed too fast, or too slowly."""
    report = training_step(Chain(factor=(1.0, 1.0, factor)), runs(), check=False)
    assert f"scale the output of the network {word}" in said(report)
    assert "moves C far" in said(report)
    assert report.rates["A"] == pytest.approx(1, rel=0.3)
    assert report.rates["C"] == pytest.approx(factor, rel=0.3)


def test_steps_that_are_too_coarse_and_needlessly_fine() -> None:
    exact = training_step(Chain(), runs(), method="beuler", steps=Grid(1), check=False)
    assert "the fit learns the steps' error" in said(exact)
    # Then all of the residual is the steps' error.
    assert exact.step_error == pytest.approx(exact.rms, rel=1e-3)
    fine = {"method": "bdf", "steps": Adaptive(), "rtol": 1e-9, "atol": 1e-12}
    report = training_step(Chain((1.2, 50.0)), runs(0.05), check=False, **fine)
    assert "larger rtol would do" in said(report)
    finer = training_step(Chain(), runs(), method="beuler", steps=Grid(64), check=False)
    assert finer.step_error < 0.05 * exact.step_error


def test_known_noise_sets_the_errors_of_directions() -> None:
    few, many = (training_step(Chain(), runs(noise, known=True), check=False) for noise in (1e-3, 1e-1))
    ratio = many.identifiability.errors / few.identifiability.errors
    np.testing.assert_allclose(ratio, 100, rtol=0.2)


class Exploding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(3.0, dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.k * y**2


def test_a_model_that_cannot_be_solved_to_the_end() -> None:
    """y' = 3 y² from 1 is infinite at t = 1/3; the data are those of k = 0.2."""
    t = np.linspace(0, 2, 30)
    data = Runs([Run("one", t, (1 / (1 - 0.2 * t))[:, None])], ["y"], initial="known")
    report = training_step(Exploding(), data, check=False)
    assert report.stopped
    assert "Whole runs cannot be solved" in said(report)
    assert "No advice on the method" in said(report)
    assert np.isnan(report.step_error)
    assert np.isfinite(report.rms)


class Detached(Chain):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        found = super().forward(t, y)
        return found + (0.5 * found.sum(-1, keepdim=True) + 0.3 * y * self.logs.exp()[0].detach()).clone()


def test_gradients_that_are_wrong_are_told() -> None:
    report = training_step(Detached((1.2, 50.0)), runs())
    assert report.gradients is not None
    assert not report.gradients.ok
    assert "Gradients by logs are wrong" in said(report)


def test_single_precision_is_not_checked() -> None:
    report = training_step(Chain().float(), runs())
    assert report.gradients is None
    assert "float64" in said(report)


def test_what_it_refuses() -> None:
    with pytest.raises(TypeError, match="model must be a module"):
        training_step(lambda seed: Chain(), runs())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no argument 'rtoll'"):
        training_step(Chain(), runs(), rtoll=1e-3)
    with pytest.raises(TypeError, match="data must be Runs"):
        training_step(Chain(), None)  # type: ignore[arg-type]
