"""Solving the problems of the library: published end values, reports, datasets, pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray

import problems
from problems.checking import drifts
from problems.solving import output_times
from problems.trajectories import reference_trajectory
from problems.workprecision import measure, plot
from stiffml import Adaptive, Fixed

BDF, DIRK, RTOLS = "bdf", "dirk-es648sa", (1e-6, 1e-9)
EXACT_OR_PUBLISHED = ("prothero", "robertson", "vanderpol", "hires", "orego", "pollu", "e5_conserved", "akzo")
PENDULUM, IGNITIONS = "pendulum", ("h2air", "ch4air")
SLOW = {(name, DIRK, 1e-9) for name in EXACT_OR_PUBLISHED if name not in ("prothero", "pollu")} | {
    ("ch4air", BDF, 1e-9),
    ("h2air", DIRK, 1e-6),
}
CASES = [
    *(
        (name, method, rtol)
        for name in (*EXACT_OR_PUBLISHED, PENDULUM)
        for method in (BDF, DIRK)
        for rtol in RTOLS
    ),
    *((name, BDF, rtol) for name in IGNITIONS for rtol in RTOLS),
    ("h2air", DIRK, 1e-6),
]


@pytest.mark.parametrize(
    ("name", "method", "rtol"),
    [pytest.param(*case, marks=pytest.mark.sweep) if case in SLOW else case for case in CASES],
)
def test_end_values_are_met(name: str, method: str, rtol: float) -> None:
    problem = problems.load(name)
    # The bound is for each component; PETSc's default error norm is the root of the mean square of all.
    options: dict[str, object] = {"ts_adapt_wnormtype": "infinity"}
    if (name, method) == ("orego", BDF):
        # Errors of a limit cycle add up as a shift in time: order 6, and steps well inside the tolerance.
        method, options = "bdf6", {**options, "ts_adapt_safety": 0.7}
    (reference,) = (r for r in problem.references if r.t == problem.t_span[1])
    t = torch.tensor([problem.t_span[0], reference.t], dtype=torch.float64)
    with torch.no_grad():
        report = problem.check(problem.solve(t, method=method, rtol=rtol, options=options))
    (comparison,) = report.comparisons
    assert comparison.error <= 100 * rtol, f"{method} at rtol {rtol:g}: {comparison}"


@pytest.mark.parametrize(
    ("method", "rtol"), [("rosw-rodaspr2", 1e-4), pytest.param("dopri8", 1e-9, marks=pytest.mark.sweep)]
)
def test_the_beam(method: str, rtol: float) -> None:
    """Its undamped waves are not for BDF; explicit steps are as many as stability asks for."""
    problem = problems.load("beam")
    t, steps = torch.tensor(problem.t_span, dtype=torch.float64), Adaptive(stop_if_stiff=False)
    with torch.no_grad():
        report = problem.check(problem.solve(t, method=method, rtol=rtol, steps=steps))
    (comparison,) = report.comparisons
    assert comparison.error <= 100 * rtol, str(comparison)


def test_the_beam_is_that_of_the_matrices() -> None:
    """C and D by their entries, as the book has them."""
    problem, n = problems.load("beam"), 40
    y = 0.3 * np.random.default_rng(0).standard_normal(2 * n)
    z, w = y[:n], y[n:]
    turn = z[:, None] - z
    beside = np.abs(np.arange(n)[:, None] - np.arange(n)) == 1
    C = np.diag([1.0, *[2.0] * (n - 2), 3.0]) - beside * np.cos(turn)
    D = -np.sin(turn) * beside
    for t in (1.0, 4.0):
        force = 1.5 * np.sin(t) ** 2 * (t < np.pi)
        wide = np.array([-z[0], *z, z[-1]])
        v = n**4 * np.diff(wide, 2) + n**2 * force * (np.cos(z) + np.sin(z))
        expected = np.concatenate([w, C @ v + D @ np.linalg.solve(C, D @ v + w**2)])
        found = problem.func()(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y)).numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


# E5: the published end value is wrong, and the four equations as they stand lose digits

BARI = np.array([1.152903278711829e-291, 8.86765551764212e-23, 8.854814626268838e-23, 0.0])


def test_the_published_end_value_of_e5_is_impossible() -> None:
    problem = problems.load("e5")
    (ours,) = problem.references
    A, end = problem.parameters["A"].value, problem.t_span[1]
    # y1' = −A y1 − B y1 y3 ≤ −A y1, since concentrations are not negative.
    largest = np.log10(problem.y0[0]) - A * end / np.log(10)
    assert largest == pytest.approx(-3429, abs=1)
    assert np.log10(BARI[0]) > largest + 3000, "y1 of the test set could exist after all"
    # y2 − y3 − y4 is 0 for all time; 1.4e-3 of it is missing there, and nothing here.
    assert drifts(problem, BARI)["y2 - y3 - y4"] == pytest.approx(0.5 * 1.45e-3, rel=0.01)
    assert drifts(problem, ours.y)["y2 - y3 - y4"] == 0


def test_e5_as_four_equations_loses_digits_and_conserved_does_not() -> None:
    t = torch.tensor([0.0, 1e13], dtype=torch.float64)
    reports = {
        name: (problem := problems.load(name)).check(problem.solve(t, method="bdf", rtol=1e-9))
        for name in ("e5", "e5_conserved")
    }
    lost, kept = reports["e5"], reports["e5_conserved"]
    assert lost.digits is not None
    assert kept.digits is not None
    assert kept.digits > 7
    assert lost.digits < 6, "four equations now keep their digits: the lesson of E5 is gone"
    # What is lost shows without any reference: the drift of the invariant is as large as the error.
    assert lost.invariant_drift > 1e-6
    assert kept.invariant_drift < 1e-12


# Fields


@pytest.mark.parametrize(
    ("name", "method", "split"),
    [
        ("burgers", "bdf", False),
        ("burgers", "arkimex-4", True),
        ("ks", "bdf", False),
        ("ks", "arkimex-4", True),
    ],
)
def test_fields_in_one_dimension_meet_their_references(name: str, method: str, split: bool) -> None:
    problem = problems.load(name)
    t = torch.tensor([0.0, *(r.t for r in problem.references)], dtype=torch.float64)
    report = problem.check(problem.solve(t, method=method, rtol=1e-6, split=split))
    assert len(report.comparisons) == 2
    # Nearby solutions of KS part as exp(0.05 t): 12 times over its span.
    assert max(c.error for c in report.comparisons) <= 1e-4 * (12 if name == "ks" else 1), report
    assert report.invariant_drift <= 1e-12


@pytest.mark.parametrize(("method", "split"), [("bdf", False), ("arkimex-4", True)])
@pytest.mark.parametrize(("name", "size", "end"), [("brusselator", 6, 1.5), ("gray_scott", 12, 50.0)])
def test_fields_in_two_dimensions(name: str, size: int, end: float, method: str, split: bool) -> None:
    problem = problems.load(name, size=size).make(t_span=(0.0, end))
    y = reference_trajectory(problem, np.array([0.0, end]))[1]
    t = torch.tensor([0.0, end], dtype=torch.float64)
    found = problem.solve(t, method=method, rtol=1e-6, split=split).y[-1].numpy()
    error = (np.abs(found - y).max(axis=(1, 2)) / np.abs(y).max(axis=(1, 2))).max()
    assert error <= 1e-4, f"{method}: {error:.1e}; look at the breakpoints, and at the two parts"


# Reports


@pytest.mark.parametrize("name", problems.names())
def test_default_output_times_hold_the_references_once(name: str) -> None:
    problem = problems.load(name)
    times = output_times(problem).numpy()
    assert {r.t for r in problem.references} <= set(times)
    assert times[0] == problem.t_span[0]
    assert (np.diff(times) > 1e-9 * times[1:]).all(), "two output times differ by rounding"


def test_report() -> None:
    problem = problems.load("hires")
    solution = problem.solve(rtol=1e-5)
    report = problem.check(solution)
    assert report.digits == pytest.approx(-np.log10(report.comparisons[0].error))
    assert report.invariant_drift < 1e-10
    text = str(report)
    for part in ("hires", "digits at t = 321.812", "drift of enzyme"):
        assert part in text
    assert "no reference at an output time" in str(problem.check(problem.solve(problem.times(4)[:3])))
    with pytest.raises(ValueError, match=r"hires has states of shape \(8,\), not \(3,\)"):
        problem.check(problems.load("robertson").solve(torch.tensor([0.0, 1.0], dtype=torch.float64)))


def test_a_report_claims_no_more_digits_than_the_reference_has() -> None:
    problem = problems.load("e5_conserved")
    (reference,) = problem.references
    solution = problem.solve(torch.tensor([0.0, 1e13], dtype=torch.float64), rtol=1e-4)
    solution.y[-1] = torch.from_numpy(reference.y)
    assert problem.check(solution).digits == 10


def test_report_sees_what_leaves_the_bounds() -> None:
    problem = problems.load("robertson")
    solution = problem.solve(problem.times(3))
    assert problem.check(solution).worst == ""
    solution.y[2, 1] = -0.25
    report = problem.check(solution)
    assert (report.worst, report.excess) == ("B", 0.25)
    assert "B by 2.5e-01, 1e+00 of its largest value" in str(report)
    solution.y[2, 1] = -6e-113  # far below the rounding of what B was
    assert problem.check(solution).worst == ""
    solution.y[2, 1] = -1e-12  # small, but not for B, which is never above 3.7e-5
    report = problem.check(solution)
    assert (report.worst, report.share) == ("B", 1e-12 / float(solution.y[:, 1].max()))


def test_drift_of_nonlinear_invariants() -> None:
    problem = problems.load("pendulum")
    coarse = problem.solve(problem.times(4), method="beuler", steps=Fixed(0.01))
    assert drifts(problem, coarse.y.numpy())["energy"] > 1e-3
    fine = problem.solve(problem.times(4), rtol=1e-9)
    assert drifts(problem, fine.y.numpy())["energy"] < 1e-6


# Datasets


def test_datasets_are_deterministic(tmp_path: Path) -> None:
    problem = problems.load("orego")
    data = problem.dataset(20, noise=0.01, seed=3)
    xarray.testing.assert_identical(data, problem.dataset(20, noise=0.01, seed=3))
    other = problem.dataset(20, noise=0.01, seed=4)
    xarray.testing.assert_identical(data["state"], other["state"])
    assert not np.array_equal(data["observed"], other["observed"])
    assert data["state"].dims == ("time", "component")
    assert list(data["component"].values) == ["HBrO2", "Br-", "Ce4+"]
    assert data["time"].attrs["units"] == problem.time_units
    path = tmp_path / "orego.nc"
    problems.save_dataset(data, path)
    xarray.testing.assert_identical(problems.load_dataset(path), data)
    assert list(tmp_path.iterdir()) == [path]


def test_noise_has_the_size_asked_for() -> None:
    problem = problems.load("robertson")
    data = problem.dataset(400, noise=0.02, seed=0)
    deviation = ((data["observed"] - data["state"]) / problem.scale).std("time")
    # 400 draws: the standard error of a standard deviation is 3.5 %.
    np.testing.assert_allclose(deviation, 0.02, rtol=0.15)


def test_datasets_of_many_trajectories() -> None:
    problem = problems.load("ks", size=16).make(t_span=(0.0, 2.0))
    data = problem.dataset(
        4, trajectories=3, sampler=lambda rng: rng.standard_normal((1, 16)), seed=1, rtol=1e-5
    )
    assert data["state"].dims == ("trajectory", "time", "component", "x")
    assert data["state"].shape == (3, 5, 1, 16)
    assert not np.allclose(data["state"][0], data["state"][1])


def test_datasets_explain_wrong_arguments() -> None:
    problem = problems.load("hires")
    with pytest.raises(ValueError, match="noise must not be negative"):
        problem.dataset(5, noise=-1.0)
    with pytest.raises(ValueError, match="trajectories and sampler go together"):
        problem.dataset(5, trajectories=3)
    with pytest.raises(ValueError, match="times must be n \\+ 1 = 6"):
        problem.dataset(5, times=problem.times(4))


# Pictures and work-precision


@pytest.mark.parametrize(("name", "panels"), [("hires", 8), ("pollu", 16), ("ks", 2), ("gray_scott", 10)])
def test_pictures(name: str, panels: int) -> None:
    problem = problems.load(name)
    problem = problem.make(size=8, t_span=(0.0, 1.0)) if problem.grid else problem
    figure = problem.plot(problem.solve(problem.times(4)))
    # Colour bars count as panels.
    assert sum(panel.get_visible() for panel in figure.axes) == panels


def test_work_precision() -> None:
    problem = problems.load("hires")
    data = measure(problem, ["bdf", "rosw-ra34pw2"], [1e-3, 1e-5], repeats=1)
    digits = data["digits"].values
    assert ((digits[:, 1] - digits[:, 0]) > 1).all(), "two decades of rtol should bring about two digits"
    assert (np.diff(data["steps"].values) > 0).all()
    assert (data["f_units"] > 0).all()
    lines = plot(data).axes[0].lines
    np.testing.assert_array_equal([line.get_ydata() for line in lines], digits)
    assert len(plot(data).axes) == 2
    with pytest.raises(ValueError, match="unknown name 'bdf9'"):
        measure(problem, ["bdf9"], [1e-3])


def test_work_precision_of_a_changed_problem_computes_its_reference() -> None:
    problem = problems.load("vanderpol", eps=1e-2)
    data = measure(problem, ["bdf"], [1e-4, 1e-6], repeats=1)
    assert "computed by an integrator of scipy" in data.attrs["reference"]
    assert float(data["digits"].min()) > 2


def test_work_precision_goes_on_after_a_failure() -> None:
    reference = problems.Reference(2.0, np.ones(1), "no solution exists", 1e-3, "")
    problem = problems.Problem(
        "blowup", lambda t, y, p: y**2, np.ones(1), (0.0, 2.0), references=(reference,)
    )
    data = measure(problem, ["bdf", "cn"], [1e-3], repeats=1)
    assert np.isnan(data["digits"]).all()
    assert all(
        "t = 1" in str(failure) or "0.99" in str(failure) for failure in data["failure"].values.ravel()
    )
