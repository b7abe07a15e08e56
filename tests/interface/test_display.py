"""What a prompt and a notebook show of public objects fits a screen."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import decay
from torch import Tensor, nn

import problems
import stiffml
from stiffml import closures, diagnostics, training
from stiffml.display import HEIGHT, WIDTH, html_table, short
from stiffml.training import Run, Runs

T = torch.linspace(0, 1, 200, dtype=torch.float64)
Y0 = torch.ones(40, dtype=torch.float64)
LONG = tuple(f"a component with a rather long name, number {i}" for i in range(40))


def network(seed: int = 0) -> nn.Module:
    return closures.mlp([40, 8, 40]).double()


def runs() -> Runs:
    values = np.exp(-T.numpy())[:, None] * np.ones(40)
    return Runs([Run(f"run {i}", T.numpy(), values) for i in range(40)], LONG, noise=0.01)


def solution() -> stiffml.Solution:
    return stiffml.solve(decay, Y0, T)


def library(name: str) -> tuple[problems.Problem, stiffml.Solution]:
    problem = problems.load(name)
    return problem, problem.solve()


class Rate(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.full((40,), 0.7, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.k * y


def few() -> Runs:
    t = T.numpy()[::20]
    return Runs([Run("one", t, np.exp(-t)[:, None] * np.ones(40))], LONG, initial="known")


@cache
def result() -> training.Result:
    return training.fit(Rate, few(), method="cn", attempts=1)


def compared() -> training.Comparison:
    return training.compare(
        Rate, few(), methods=["cn"], optimizers=["adam"], seeds=1, iterations=1, steps=None
    )


def report() -> problems.Report:
    problem, found = library("hires")
    return problem.check(found)


EXAMPLES: dict[type, Callable[[], Any]] = {
    stiffml.Solution: solution,
    stiffml.Recorded: lambda: solution().steps,
    stiffml.Event: lambda: stiffml.Event(T[0], Y0),
    stiffml.Events: lambda: stiffml.Events(T, Y0.expand(200, 40)),
    stiffml.Crossing: lambda: stiffml.Crossing(lambda t, y: y[0], "falling"),
    stiffml.SteadyState: lambda: stiffml.steady_state(decay, Y0),
    stiffml.Sensitivities: lambda: stiffml.sensitivities(decay, Y0, T),
    stiffml.GradientReport: lambda: stiffml.check_gradients(
        decay, Y0, T[:2], method="cn", steps=stiffml.Grid(1)
    ),
    diagnostics.GradientCheck: lambda: diagnostics.GradientCheck("y0", 2.0, 1e-9),
    stiffml.ODEBlock: lambda: stiffml.ODEBlock(network(), T),
    stiffml.Split: lambda: stiffml.Split(decay, decay),
    stiffml.Sparsity: lambda: stiffml.Sparsity(np.eye(300)),
    stiffml.KeptSteps: lambda: stiffml.KeptSteps(stiffml.Adaptive()),
    stiffml.Krylov: lambda: stiffml.Krylov("bcgs"),
    stiffml.Assembled: lambda: stiffml.Assembled(np.eye(300)),
    stiffml.Disk: lambda: stiffml.Disk("folder"),
    stiffml.Fixed: lambda: stiffml.Fixed(0.1),
    stiffml.Theta: lambda: stiffml.Theta(0.5),
    problems.Problem: lambda: problems.load("pollu"),
    problems.Report: report,
    problems.Reference: lambda: problems.load("pollu").references[0],
    problems.Parameter: lambda: problems.Parameter(np.ones(300), "1/s", "many numbers"),
    problems.Parts: lambda: problems.load("brusselator").parts,
    training.Runs: runs,
    training.Run: lambda: runs()[0],
    training.Result: result,
    training.Report: lambda: result().report(),
    training.Covariance: lambda: result().covariance,
    training.Band: lambda: result().band("one", T.numpy()),
    training.Profile: lambda: training.Profile(LONG[0], T.numpy(), T.numpy(), 0.95, (-1e-9, np.inf), (1.0,)),
    training.Collocation: lambda: training.collocate(runs()[:2]),
    training.Comparison: compared,
    diagnostics.Advice: lambda: diagnostics.advise(diagnostics.stiffness(library("hires")[1], points=5)),
    diagnostics.TrainingReport: lambda: diagnostics.training_step(Rate(), few(), method="cn"),
    closures.MissingRate: lambda: closures.MissingRate(LONG, torch.ones(40), torch.ones(40)),
    closures.Matched: lambda: closures.Matched((1.0,) * 40, (1.0,) * 40, (1.0,) * 40, 1.0),
}
"""Large ones, where a class can be large."""

DEFAULT = [
    stiffml.BackwardEuler,
    stiffml.CrankNicolson,
    stiffml.BDF,
    stiffml.SDIRK3,
    stiffml.LU,
    stiffml.GMRES,
]
DEFAULT += [stiffml.Adaptive, stiffml.Grid, stiffml.Newton, stiffml.Discrete, stiffml.PointBlock]
DEFAULT += [training.Whole, training.MultipleShooting, training.GrowingHorizon, training.FullSpace]
DEFAULT += [training.FirstOrder, training.LevenbergMarquardt]
EXAMPLES |= {kind: kind for kind in DEFAULT}
EXAMPLES |= {type(method): lambda method=method: method for method in stiffml.METHODS.values()}

WITHOUT_EXAMPLE = {
    "Strategy": "abstract",
    "Preparable": "abstract",
    "Head": "abstract",
    "Features": "abstract",
    "Status": "an enumeration",
    "Trainer": "a loop of the user's own",
    "History": "rows of a Trainer",
}


def public() -> list[type]:
    found = {}
    for room in (stiffml, problems, training, diagnostics, closures):
        for name in room.__all__:
            kind = getattr(room, name)
            if inspect.isclass(kind) and not issubclass(kind, Exception):
                found[kind] = name
    # Modules of networks print as torch prints modules.
    return [k for k, name in found.items() if name not in WITHOUT_EXAMPLE and k not in closures_of_torch()]


def closures_of_torch() -> set[type]:
    return {getattr(closures, n) for n in closures.__all__ if inspect.isclass(getattr(closures, n))} - {
        closures.MissingRate,
        closures.Matched,
    }


@pytest.mark.parametrize("kind", public(), ids=lambda kind: kind.__name__)
def test_all_public_classes_fit_a_screen(kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kind in EXAMPLES, f"{kind.__name__} has no example here"
    shown = repr(EXAMPLES[kind]())
    lines = shown.splitlines()
    assert len(lines) <= HEIGHT, f"{len(lines)} lines"
    assert max(map(len, lines)) <= WIDTH, f"{max(map(len, lines))} characters in a line"


def test_a_solution_says_what_it_is() -> None:
    text = repr(solution())
    assert "200 times, 0 to 1" in text
    assert "tensor (200, 40) float64" in text
    assert "Newton iterations" in text
    own = stiffml.solve(decay, torch.ones(2, 1, dtype=torch.float64), T[:4].expand(2, 4), batch_dims=1)
    assert "(2, 4) times" in repr(own)


@pytest.mark.parametrize("kind", [stiffml.Solution, problems.Report, training.Report, training.Covariance])
def test_tables_in_notebooks(kind: type) -> None:
    text = EXAMPLES[kind]()._repr_html_()
    assert text.startswith("<table>")
    assert text.count("<tr>") == text.count("</tr>") > 2


def test_html_is_escaped() -> None:
    assert "<b>" not in html_table([("<b>", "a & b")])
    assert "a &amp; b" in html_table([("<b>", "a & b")])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.ones(2), "tensor([1., 1.])"),
        (np.ones((3, 2)), "array (3, 2) float64"),
        ("a" * 200, "'" + "a" * 70 + "…"),
        (list(range(9)), "[0, 1, 2, 3, …]"),
        ({"a": np.ones(9)}, "{a: array (9) float64}"),
        (torch.zeros(2, device="meta"), "tensor (2) float32"),
    ],
)
def test_values_in_a_few_words(value: object, text: str) -> None:
    assert short(value) == text
