"""The examples of CONTRIBUTING.md do what they are said to do, and its folders are there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from small_problems import SmallNetwork, times
from torch import Tensor

import stiffml
from problems import Problem

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
CODE = [
    textwrap.dedent(block)
    for block in re.findall(r"^ *```python\n(.*?)^ *```", TEXT, re.DOTALL | re.MULTILINE)
]


def example(containing: str, **supposed: Any) -> dict[str, Any]:
    """What the example that has these words defines."""
    (code,) = [block for block in CODE if containing in block]
    names = {"__name__": "example", "stiffml": stiffml, "torch": torch, **supposed}
    exec(compile(code, f"CONTRIBUTING.md, the example with {containing!r}", "exec"), names)
    return names


def test_the_method(network: SmallNetwork, start: Tensor) -> None:
    method = example("class ImplicitMidpoint")["ImplicitMidpoint"]()
    t = times(0, 1)
    exact = stiffml.odeint(network, start, t, rtol=1e-10, atol=1e-12)
    off = []
    for count in (16, 32):
        y = stiffml.odeint(network, start, t, method=method, steps=stiffml.Grid(count))
        off.append(float((y - exact).abs().max()))
    assert off[0] / off[1] == pytest.approx(4, rel=0.05), "its order is 2"
    tight = {"steps": stiffml.Grid(16), "newton": stiffml.Newton(rtol=1e-12, atol=1e-14)}
    native = type("NativeMidpoint", (type(method),), {"stepper": "native"})()
    found, expected = (stiffml.odeint(network, start, t, method=m, **tight) for m in (native, method))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    mass = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    for more in ({}, {"mass": mass}):
        arguments = {"method": method, "steps": stiffml.Grid(5), **more}
        report = stiffml.check_gradients(network, start, times(0, 0.3, 1), **arguments)
        assert report.ok, f"\n{report}"


def test_the_problem() -> None:
    problem = example('name="kaps"')["problem"]()
    assert isinstance(problem, Problem)
    with torch.no_grad():
        report = problem.check(problem.solve(method="rosw-rodas3"))
    assert report.digits is not None
    assert report.digits > 5


def test_the_preconditioner() -> None:
    rates = torch.logspace(0, 4, 300, dtype=torch.float64)
    y0 = torch.linspace(1, 2, 300, dtype=torch.float64)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -rates * y + torch.sin(y.roll(1))

    solution = example("class Decay", func=func, y0=y0, t=times(0, 1), rates=rates)["sol"]
    without = stiffml.solve(func, y0, times(0, 1), linear=stiffml.GMRES())
    assert solution.stats.krylov_iterations < without.stats.krylov_iterations / 2


def test_what_is_named_is_there() -> None:
    """Files and folders of the layout; those that are to come stand in the last section."""
    present, _ = TEXT.split("## Where coming pieces will live")
    named = set(re.findall(r"`((?:stiffml|problems|tests|benchmarks|docs)/[\w./]*)`", present))
    own = {"problems/library/kaps.py", "stiffml/methods/midpoint.py"}
    missing = {name for name in named - own if not (ROOT / name).exists()}
    assert not missing, f"CONTRIBUTING.md names {missing}"
    picture = TEXT.split("```")[1]
    rooms = {path.stem for path in (ROOT / "stiffml").iterdir() if path.stem[0] not in "_."} - {"py"}
    unseen = {room for room in rooms if not re.search(rf"\b{room}\b", picture)}
    assert not unseen, f"{unseen}: not in the picture of CONTRIBUTING.md"
