"""The advice on each problem of the library, against steps that solves take."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import problems
from stiffml import Adaptive, SolveError, solve
from stiffml.diagnostics import Advice, advise, stiffness
from stiffml.diagnostics.advice import PER_LARGE_STEP, PER_STEP, SMALL

ENOUGH = 6_000
"""Steps after which an explicit solve has cost more than three times an implicit one, on all problems."""

VERDICTS = {
    "prothero": "stiff",
    "robertson": "stiff",
    "vanderpol": "stiff",
    "hires": "stiff",
    "orego": "stiff",
    "orego_dae": "stiff",
    "pollu": "stiff",
    "emep": "stiff",
    "e5": "stiff",
    "e5_conserved": "stiff",
    "h2air": "stiff",
    "ch4air": "stiff",
    "akzo": "mildly stiff",
    "pendulum": "not stiff",
    "nand": "stiff",
    "burgers": "mildly stiff",
    "ks": "stiff",
    "brusselator": "mildly stiff",
    "gray_scott": "not stiff",
    "robertson_dae": "stiff",
    "lotka_volterra": "not stiff",
    "spiral": "not stiff",
    "allen_cahn": "stiff",
    "fitzhugh_nagumo": "not stiff",
}
LEFT_OUT = ("beam",)
"""Of which bdf takes 45 000 steps, being unstable for its waves."""
OSCILLATORY = ("spiral", "fitzhugh_nagumo")
"""By ``benchmarks/results/advice.json``, where the seconds are."""


def solved(problem: problems.Problem, method: str, **more) -> tuple[int, Advice | None]:
    """Steps to the end of the span, and advice from them."""
    t = torch.tensor(problem.t_span, dtype=torch.float64)
    with torch.no_grad():
        sol = problem.solve(t, method=method, rtol=1e-4, **more)
    found = stiffness(sol, points=60 if problem.size <= 300 else 6) if method == "bdf" else None
    return sol.stats.accepted, None if found is None else advise(found)


def explicit_steps(problem: problems.Problem) -> float:
    """Those of dopri5; infinite where it needs more than enough."""
    try:
        return solved(problem, "dopri5", steps=Adaptive(max_steps=ENOUGH))[0]
    except SolveError:
        return float("inf")


def test_all_problems_are_here() -> None:
    assert {*VERDICTS, *LEFT_OUT} == set(problems.names())


@pytest.mark.parametrize("name", VERDICTS)
def test_the_library(name: str) -> None:
    problem = problems.load(name)
    steps, advice = solved(problem, "bdf")
    assert advice is not None
    assert advice.verdict == VERDICTS[name]
    assert advice.dae == (problem.kind == "dae" or problem.mass is not None)
    assert advice.oscillatory == (name in OSCILLATORY)
    assert max(map(len, str(advice).splitlines())) < 80
    if advice.dae:
        assert "dopri5" not in advice.methods
        return
    taken = explicit_steps(problem)
    per_step = PER_STEP if problem.size <= SMALL else PER_LARGE_STEP
    if advice.verdict == "stiff":
        assert taken > 3 * per_step * steps
        assert "dopri5" not in advice.methods
    elif advice.verdict == "not stiff":
        assert taken < per_step * steps / 3
        assert advice.methods == ("dopri5",)
    else:
        assert per_step * steps / 3 < taken < 3 * per_step * steps
    if taken < float("inf") and advice.verdict == "not stiff":
        assert advice.explicit_steps < 1.15 * taken, "stability asks for no more steps than accuracy"
    elif taken < float("inf"):
        assert advice.explicit_steps == pytest.approx(taken, rel=0.15), "stability decides on all of these"


@pytest.mark.parametrize(("eps", "verdict"), [(1.0, "not stiff"), (1e-2, "not stiff"), (1e-4, "stiff")])
def test_between_stiff_and_not(eps: float, verdict: str) -> None:
    """Van der Pol's equation, whose time is scaled by μ: stiffness T max|λ| is about 3/ε."""
    problem = problems.load("vanderpol", eps=eps)
    steps, advice = solved(problem, "bdf")
    assert advice is not None
    taken = explicit_steps(problem)
    assert advice.verdict == verdict
    assert (taken > 9 * steps) == (verdict == "stiff")
    assert (taken < steps) == (verdict == "not stiff")


def test_an_explicit_solution_says_whether_stability_limits_it() -> None:
    def relaxing(t: Tensor, y: Tensor) -> Tensor:
        return -500 * (y - torch.cos(t))

    y0, t = torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 10.0], dtype=torch.float64)
    limited = advise(stiffness(solve(relaxing, y0, t, method="dopri5", rtol=1e-3, atol=1e-3)))
    assert limited.verdict == "mildly stiff"
    assert "solve with bdf" in str(limited)
    free = advise(stiffness(solve(lambda t, y: -y, y0, t, method="dopri5", rtol=1e-8, atol=1e-10)))
    assert free.verdict == "not stiff"


def test_growth_and_oscillation_are_told() -> None:
    matrix = torch.tensor([[2.0, 40.0], [-40.0, 2.0]], dtype=torch.float64)
    y0, t = torch.ones(2, dtype=torch.float64), torch.tensor([0.0, 5.0], dtype=torch.float64)
    advice = advise(stiffness(solve(lambda t, y: y @ matrix, y0, t, method="cn", rtol=1e-2, atol=1e-2)))
    assert advice.oscillatory
    assert "make 32 turns" in " ".join(str(advice).split()), "200 / 2π"
    assert "exp(10)" in " ".join(str(advice).split())
    assert not any(name.startswith("bdf") for name in advice.methods)
