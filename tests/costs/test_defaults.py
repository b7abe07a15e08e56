"""The comparison of all methods at equal digits: what it measures, and what it makes of that."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import defaults
from defaults_summary import contenders, cost_at, frontier, summary

import problems
from stiffml import METHODS


def row(
    method: str, seconds: list[float | None], digits: list[float | None], problem: str = "one"
) -> dict[str, Any]:
    rtols = [10.0**-k for k in range(3, 3 + len(seconds))]
    evaluations = [None if one is None else round(1000 * one) for one in seconds]
    named = {"mode": "eager", "problem": problem, "method": method, "rtol": rtols}
    return {**named, "cpu_s": seconds, "digits": digits, "rhs_evals": evaluations}


def test_costs_between_tolerances_are_interpolated() -> None:
    points = frontier(row("bdf", [1.0, 3.0, 4.0, None], [2.0, 1.5, 4.0, None]), "cpu_s")
    assert points == [(2.0, 1.0), (4.0, 4.0)], "three seconds for fewer digits are beaten by one"
    assert cost_at(points, 3.0) == pytest.approx(2.0)
    assert cost_at(points, 1.0) == 1.0
    assert cost_at(points, 4.1) == math.inf
    assert frontier(row("bdf", [1.0], [-0.5]), "cpu_s") == []


def test_ratios_are_at_equal_digits() -> None:
    """b needs the time of a for the digits it has; c is twice as dear at each."""
    rows = [
        row("a", [1.0, 4.0], [2.0, 4.0]),
        row("b", [2.0, 9.0], [3.0, 3.5]),
        row("c", [4.0, None], [3.0, None]),
    ]
    found = summary(rows)["eager"]["methods"]
    assert found["a"]["rtol"] == {"0.001": 1.0, "0.0001": 1.0}
    assert found["b"]["rtol"]["0.001"] == pytest.approx(1.0)
    assert found["b"]["rtol"]["0.0001"] == pytest.approx(9 / 2**1.5, abs=0.01)
    assert found["c"]["rtol"] == {"0.001": 2.0, "0.0001": None}
    assert found["c"]["failed_by_rtol"] == {"0.001": 0, "0.0001": 1}
    assert found["c"]["digits"]["4"] is None
    assert found["b"]["digits"]["2"] == 2.0
    assert "5" not in found["a"]["digits"], "no method has five digits"
    assert next(iter(found)) == "a"


def test_medians_are_over_problems_and_failures_are_dear() -> None:
    rows = [row("a", [1.0], [3.0], name) for name in "xyz"]
    rows += [row("b", [seconds], [3.0], name) for seconds, name in zip((2.0, 3.0, None), "xyz", strict=True)]
    rows[-1]["digits"] = [None]
    found = summary(rows)["eager"]["methods"]["b"]
    assert found["rtol"]["0.001"] == 3.0
    assert found["failed_by_rtol"]["0.001"] == 1


def test_contenders_are_those_within_twice_the_least_time() -> None:
    rows = [row("a", [1.0], [4.5], "robertson"), row("b", [1.9], [4.2], "robertson")]
    rows += [row("c", [2.1], [4.5], "robertson"), row("d", [0.1], [3.9], "robertson")]
    assert contenders(rows) == ["a", "b"]
    rows += [
        row("a", [9.0], [6.0], "hires"),
        row("c", [2.1], [6.0], "hires"),
        row("d", [0.1], [6.0], "pollu"),
    ]
    assert contenders(rows) == ["a", "b", "c"]


def test_methods_of_few_problems_come_last() -> None:
    rows = [row(method, [2.0 if method == "a" else 1.0], [6.5], name) for name in "xyz" for method in "ac"]
    rows.append(row("b", [1.0], [6.5], "x"))
    assert [*summary(rows)["eager"]["methods"]] == ["c", "a", "b"]


def test_every_adaptive_implicit_method_takes_part() -> None:
    names = defaults.all_methods()
    for name, method in METHODS.items():
        expected = method.adaptive and method.implicit and method.whole and name != "bdf5"
        assert (name in names) == (expected or name in ("dopri5", "tsit5")), name
    akzo, beam = problems.load("akzo"), problems.load("beam")
    assert not defaults.takes(akzo, "dopri5")
    assert not defaults.takes(akzo, "rosw-grk4t")
    assert defaults.takes(beam, "rosw-grk4t")


def test_sections_are_those_of_breakpoints() -> None:
    """A solve in sections ends as one with breakpoints, but for the first step of a section."""
    problem = problems.load("nand").make(t_span=(4.0, 6.0))
    t = torch.tensor(problem.t_span, dtype=torch.float64)
    with torch.no_grad():
        whole = problem.solve(t, method="rosw-rodaspr2", rtol=1e-4)
    reference = problems.Reference(6.0, whole.y[-1].numpy(), "", 1e-9, "")
    case = defaults.Case.of(dataclasses.replace(problem, references=(reference,)), "eager")
    assert len(case.funcs) == 2
    found = case.solve("rosw-rodaspr2", 1e-4, 60.0)
    assert found["steps"] == pytest.approx(whole.stats.accepted, rel=0.1)
    assert found["digits"] > 3.5
    assert case.solve("rosw-rodaspr2", 1e-4, 0.0) == {"failure": "too long"}


def test_it_is_written_as_it_goes_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*methods: str) -> dict[str, Any]:
        given = [
            "--mode",
            "eager",
            "--problems",
            "pendulum",
            "--rtols",
            "1e-3",
            "1e-4",
            "--out",
            str(tmp_path),
        ]
        monkeypatch.setattr(sys, "argv", ["defaults.py", *given, "--methods", *methods])
        defaults.main()
        return json.loads((tmp_path / "defaults.json").read_text())

    first = run("rosw-rodaspr2")
    second = run("rosw-rodaspr2", "beuler")
    assert second["rows"][0] == first["rows"][0], "what was measured was measured again"
    assert [one["method"] for one in second["rows"]] == ["rosw-rodaspr2", "beuler"]
    digits = second["rows"][0]["digits"]
    assert digits[1] > digits[0] + 0.5
    assert set(second["summary"]["eager"]["methods"]) == {"rosw-rodaspr2", "beuler"}
    assert (tmp_path / "defaults.png").read_bytes().startswith(b"\x89PNG")
