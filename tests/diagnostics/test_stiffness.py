"""Eigenvalues along solutions: linear systems with known modes, Robertson, DAEs, batches, large systems."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray
from daes import CONSISTENT, DIAGONAL, SmallDAE
from small_problems import SmallNetwork, times
from torch import Tensor

import problems
from stiffml import Discrete, Disk, Grid, Split, solve
from stiffml.diagnostics import advise, describe_stiffness, plot_stiffness, stiffness
from stiffml.diagnostics.eigen import KINDS

D = torch.float64
V = torch.tensor([[1.0, 1.0, 0.0], [1.0, -2.0, 0.3], [0.0, 0.5, 1.0]], dtype=D)
RATES = torch.tensor([-1.0, -50.0, -3000.0], dtype=D)
A = V @ torch.diag(RATES) @ torch.linalg.inv(V)


def linear(t: Tensor, y: Tensor) -> Tensor:
    return y @ A.T


def kinds(found: xarray.Dataset) -> list[list[str]]:
    return [[KINDS[k] for k in row] for row in found["kind"].values.reshape(-1, found.sizes["mode"]).tolist()]


def test_a_linear_system() -> None:
    sol = solve(linear, V.sum(dim=1), times(0, 2), method="bdf", rtol=1e-4, atol=1e-6)
    found = stiffness(sol, names=["a", "b", "c"], time_units="s")
    assert found.sizes == {"time": min(60, sol.stats.accepted + 1), "mode": 3, "component": 3, "row": 0}
    np.testing.assert_allclose(found["re"], np.broadcast_to([-3000, -50, -1], found["re"].shape), rtol=1e-9)
    np.testing.assert_allclose(found["im"], 0, atol=1e-9)
    assert kinds(found)[0] == ["fast decay", "slow", "slow"]
    np.testing.assert_allclose(found["stiffness"], 6000, rtol=1e-9)
    np.testing.assert_allclose(found["ratio"], 3000, rtol=1e-9)
    assert found.attrs["explicit_steps"] == pytest.approx(6000 / 3.307, rel=0.002)
    assert found.attrs["span"] == 2
    assert found.attrs["steps"] == sol.stats.accepted
    inverse = torch.linalg.inv(V)
    shares = (V * inverse.T).abs()[:, 2] / (V * inverse.T).abs()[:, 2].sum()
    np.testing.assert_allclose(found["participation"][0, 0], shares, atol=1e-12)
    assert found["re"].attrs["units"] == "1/s"
    assert list(found["component"].values) == ["a", "b", "c"]


def test_the_span_decides_not_the_slowest_mode() -> None:
    """The same eigenvalues, whose ratio is 3000, over a span of 0.001: nothing is fast."""
    sol = solve(linear, V.sum(dim=1), times(0, 1e-3), method="bdf", rtol=1e-4, atol=1e-6)
    found = stiffness(sol)
    assert set(kinds(found)[0]) == {"slow"}
    assert float(found["stiffness"].max()) == pytest.approx(3)
    assert advise(found).verdict == "not stiff"


def test_robertson() -> None:
    """−0.04 and zeros at the start; with B in balance, −(6e7 B + 1e4 C + 1e4 B) and little else."""
    problem = problems.load("robertson")
    with torch.no_grad():
        sol = problem.solve(torch.tensor([0.0, 40.0], dtype=D), rtol=1e-6)
    found = stiffness(sol, times(0, 0.1, 40), names=problem.components, time_units="s")
    np.testing.assert_allclose(found["re"][0], [-0.04, 0, 0], atol=1e-12)
    assert float(found["re"][1, 0]) == pytest.approx(-2200, rel=0.05)
    for i in (1, 2):
        y = sol.interpolate(torch.tensor(found["time"].values[i : i + 1]))[0].numpy()
        np.testing.assert_allclose(found["re"][i, :2], problem.eigenvalues(0.0, y)[:2], rtol=1e-6)
    assert kinds(found)[1].count("zero") == 1
    np.testing.assert_allclose(found["invariant"], [[1, 1, 1]])
    assert found["participation"][1, 0].values.argmax() == 1, "B"
    text = describe_stiffness(found)
    assert "constant: A + B + C" in text
    assert max(map(len, text.splitlines())) < 80


def oscillator(damping: float) -> Tensor:
    return torch.tensor([[0.0, 1.0], [-1.0, -2 * damping]], dtype=D)


@pytest.mark.parametrize(("damping", "kind"), [(0.01, "oscillation"), (0.5, "oscillation"), (3.0, "slow")])
def test_a_damped_oscillator(damping: float, kind: str) -> None:
    matrix, turns = oscillator(damping), 30
    t = torch.tensor([0.0, 2 * np.pi * turns], dtype=D)
    sol = solve(lambda t, y: y @ matrix.T, times(1, 0), t, method="rosw-ra34pw2", rtol=1e-4, atol=1e-6)
    found = stiffness(sol)
    expected = np.sort_complex(np.linalg.eigvals(matrix.numpy()))
    np.testing.assert_allclose(found["re"][-1] + 1j * found["im"][-1], expected, rtol=1e-8)
    assert kind in kinds(found)[0]
    frequency = abs(expected[0].imag)
    np.testing.assert_allclose(found["oscillation"], frequency * turns, rtol=1e-8)
    assert advise(found).oscillatory == (damping == 0.01)


def test_a_mass_matrix_and_a_dae() -> None:
    func = SmallDAE()
    y0, mass = CONSISTENT.clone(), DIAGONAL.clone()
    sol = solve(func, y0, times(0, 0.5), method="bdf", mass=mass, rtol=1e-4, atol=1e-6)
    found = stiffness(sol)
    assert found.attrs["algebraic"] == 1
    assert np.isinf(found["re"].values[:, 2]).all()
    assert kinds(found)[0][2] == "infinite"
    # One may also solve the algebraic equation and differentiate what is left.
    y, t0 = sol.y[0].detach(), torch.zeros((), dtype=D)
    J = torch.func.jacrev(lambda y: func(t0, y))(y).detach().numpy()
    left = (J[:2, :2] - np.outer(J[:2, 2], J[2, :2]) / J[2, 2]) / np.array([[1.0], [2.0]])
    np.testing.assert_allclose(np.sort(found["re"][0, :2]), np.sort(np.linalg.eigvals(left).real), rtol=1e-9)
    advice = advise(found)
    assert advice.dae
    assert "dopri5" not in advice.methods


def test_samples_of_a_batch() -> None:
    scales = torch.tensor([1.0, 10.0], dtype=D)[:, None]
    mass = torch.tensor([[1.0, 1, 1], [1, 2, 4]], dtype=D)
    y0 = V.sum(dim=1).expand(2, 3).clone()

    def func(t: Tensor, y: Tensor) -> Tensor:
        return scales * (y @ torch.diag(RATES))

    sol = solve(func, y0, times(0, 1), batch_dims=1, mass=mass, method="bdf", rtol=1e-3, atol=1e-5)
    found = stiffness(sol, points=5)
    assert found["re"].dims == ("time", "sample", "mode")
    np.testing.assert_allclose(found["re"][0, 0], [-3000, -50, -1], rtol=1e-9)
    np.testing.assert_allclose(found["re"][0, 1], np.sort([-10, -250, -7500]), rtol=1e-9)
    np.testing.assert_allclose(found["stiffness"][:, 1], 7500, rtol=1e-9)
    assert found.attrs["explicit_steps"] == pytest.approx(7500 / 3.307, rel=0.002), "the stiffest counts"
    assert "sample 1" in describe_stiffness(found)
    assert "sample 1" in plot_stiffness(found).get_suptitle()
    alone = solve(linear, V.sum(dim=1), times(0, 1), method="bdf", rtol=1e-3, atol=1e-5)
    assert "sample" not in stiffness(alone).dims


def test_backwards_in_time_growth_and_decay_change_roles() -> None:
    matrix = torch.diag(times(1e3, -0.01))
    sol = solve(lambda t, y: y @ matrix, times(1, 1), times(5, 0), method="bdf", rtol=1e-4, atol=1e-6)
    found = stiffness(sol)
    np.testing.assert_allclose(found["re"][0], [-1000, 0.01], rtol=1e-9)
    assert found["time"].values[0] == 5
    assert found.attrs["explicit_steps"] > 1000


def test_both_parts_of_a_split_count() -> None:
    split = Split(lambda t, y: y @ (A - torch.eye(3, dtype=D)).T, lambda t, y: y)
    sol = solve(split, V.sum(dim=1), times(0, 2), method="arkimex-3", rtol=1e-4, atol=1e-6)
    found = stiffness(sol)
    np.testing.assert_allclose(found["re"][-1], [-3000, -50, -1], rtol=1e-7)
    assert found.attrs["split"] == 1


@pytest.mark.parametrize("checkpoints", ["stages", "solutions", 3, "disk"])
def test_states_that_were_not_kept(checkpoints, tmp_path) -> None:
    network, y0 = SmallNetwork(), times(1, 0.5, -0.3)
    kept = Disk(tmp_path) if checkpoints == "disk" else checkpoints
    sol = solve(network, y0, times(0, 1, 3), method="cn", steps=Grid(20), adjoint=Discrete(checkpoints=kept))
    found = stiffness(sol, points=7)
    own = stiffness(solve(network, y0, times(0, 1, 3), method="cn", steps=Grid(20)), points=7)
    np.testing.assert_allclose(found["re"], own["re"], rtol=1e-7)
    assert found["time"].values[[0, -1]].tolist() == [0, 3]


def test_breakpoints_and_times_between_steps() -> None:
    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 1, -1.0, -100.0) * y

    sol = solve(func, times(1), times(0, 2), method="bdf", breakpoints=[1.0], rtol=1e-5, atol=1e-7)
    found = stiffness(sol, times(0.3, 0.7, 1.4, 1.9))
    np.testing.assert_allclose(found["re"][:, 0], [-1, -1, -100, -100], rtol=1e-12)
    steps = stiffness(sol)
    assert set(np.round(steps["re"].values[:, 0])) == {-1, -100}
    assert steps.attrs["explicit_steps"] == pytest.approx((1 + 100) / 3.307, rel=0.05)


N = 400


def diffusion(t: Tensor, y: Tensor) -> Tensor:
    wide = torch.nn.functional.pad(y, (1, 1))
    return (wide[2:] - 2 * y + wide[:-2]) * (N + 1) ** 2


@pytest.mark.parametrize("mass", [1.0, 2.0])
def test_a_large_system_has_its_extreme_eigenvalues(mass: float) -> None:
    y0 = torch.linspace(0, 1, N, dtype=D)
    more = {} if mass == 1 else {"mass": torch.full((N,), mass, dtype=D)}
    sol = solve(diffusion, y0, times(0, 0.1), method="bdf", rtol=1e-3, atol=1e-5, **more)
    found = stiffness(sol, points=2, count=4)
    k = np.arange(N, N - 4, -1)
    expected = -4 * (N + 1) ** 2 * np.sin(k * np.pi / (2 * (N + 1))) ** 2 / mass
    np.testing.assert_allclose(found["re"][0], expected, rtol=2e-3)
    assert found.attrs["all_modes"] == 0
    assert found.sizes["mode"] == 4
    np.testing.assert_allclose(found["participation"].sum("component"), 1)
    assert "4 largest" in str(advise(found))


def test_what_it_refuses() -> None:
    y0 = torch.linspace(0, 1, N, dtype=D)
    singular = torch.ones(N, dtype=D)
    singular[0] = 0
    given = {"method": "beuler", "steps": Grid(1)}
    sol = solve(lambda t, y: -y, 0 * y0, times(0, 0.1), mass=singular, **given)
    with pytest.raises(ValueError, match="singular mass matrix"):
        stiffness(sol)
    sol = solve(lambda t, y: -y, y0.expand(2, N).clone(), times(0, 0.1), batch_dims=1, **given)
    with pytest.raises(ValueError, match="2 samples of 400"):
        stiffness(sol)
    sol = solve(linear, V.sum(dim=1), times(0, 2), **given)
    with pytest.raises(ValueError, match="names"):
        stiffness(sol, names=["a"])
    with pytest.raises(ValueError, match="points"):
        stiffness(sol, points=1)
    with pytest.raises(TypeError, match="sol must be a Solution"):
        stiffness(sol.y)  # type: ignore[arg-type]
    own = times(0, 1).expand(2, 2).clone()
    ragged = solve(
        linear, V.sum(dim=1).expand(2, 3).clone(), own, batch_dims=1, method="bdf", rtol=1e-3, atol=1e-5
    )
    with pytest.raises(ValueError, match="times of its own"):
        stiffness(ragged)


def test_the_dataset_survives_a_file(tmp_path) -> None:
    from stiffml.files import save_netcdf

    sol = solve(linear, V.sum(dim=1), times(0, 2), method="bdf", rtol=1e-4, atol=1e-6)
    found = stiffness(sol)
    save_netcdf(tmp_path / "s.nc", found)
    with xarray.open_dataset(tmp_path / "s.nc", engine="h5netcdf") as again:
        assert str(advise(again.load())) == str(advise(found))
