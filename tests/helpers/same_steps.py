"""The same steps by every way of solving linear systems, compared with differences taken once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from fields import (
    ERROR,
    RATE,
    Brusselator,
    Case,
    T,
    arguments_for,
)
from gradients import compare
from solvers import PRECONDITIONERS
from torch import Tensor

from stiffml import (
    GMRES,
    Assembled,
    Grid,
    Solution,
)

METHODS = {
    "cn": "cn",
    "theta": "theta",
    "bdf3": "bdf3",
    "bdf": "bdf",
    "rosw": "rosw-ra34pw2",
    "arkimex": "arkimex-3",
    "arkimex split": "arkimex-3",
    "dirk": "dirk-es213sal",
}
LOOK_AT = "look at linear/krylov/, then at gradients/sweep.py"


def problem(form: str, t: Tensor = T) -> Case:
    model = Brusselator()
    return Case(model.split() if form == "arkimex split" else model, t=t)


def preconditioner(name: str, case: Case) -> Any:
    if hasattr(case.func, "implicit"):
        return PRECONDITIONERS[name](case.func.implicit, case.func.implicit)
    return PRECONDITIONERS[name](case.func, case.func.diffusion)


class Differences:
    """Losses of one method's steps, each found once: they are the same however systems are solved."""

    def __init__(self, form: str, t: Tensor) -> None:
        self.case = problem(form, t)
        self._arguments = arguments_for(METHODS[form], linear=GMRES(Assembled()))
        solution = self.case.solve(steps=Grid(1), **self._arguments)
        assert isinstance(solution.y, Tensor)
        self.y = solution.y.detach()
        self._arguments["steps"] = self.steps = solution.steps
        self._known: dict[bytes, Tensor] = {}

    def loss(self) -> Tensor:
        key = b"".join(p.detach().numpy().tobytes() for p in self.case.inputs.values())
        if key not in self._known:
            self._known[key] = self.case.loss(self.case.solve(**self._arguments))
        return self._known[key]

    def require(self, y: Tensor, gradients: Mapping[str, Tensor], what: str) -> None:
        """The same solution, and gradients for y0, t and each layer's parameters."""
        off = float((y.detach() - self.y).abs().max())
        assert off <= 1e-8, f"{what}: the solution is off by {off:.1e}; look at the tolerances of solves"
        groups: dict[str, list[str]] = {}
        for name in self.case.inputs:
            groups.setdefault(name.rpartition(".")[0] or name, []).append(name)
        for group, names in groups.items():
            inputs = [self.case.inputs[name] for name in names]
            size = 1e-4 if group == "t" else 1e-3
            error, rate = compare(self.loss, inputs, [gradients[name] for name in names], size)
            assert error <= ERROR, f"{what}: the gradient for {group} is off by {error:.1e}; {LOOK_AT}"
            assert rate >= RATE, f"{what}: {group} has Taylor rate {rate:.2f}; {LOOK_AT}"


@lru_cache
def differences(form: str, t: Tensor = T) -> Differences:
    return Differences(form, t)


def require(what: str, form: str, case: Case, t: Tensor = T, **arguments: Any) -> Solution:
    """Take the same steps in some way, and compare."""
    expected = differences(form, t)
    solution = case.solve(steps=expected.steps, **arguments_for(METHODS[form], **arguments))
    assert isinstance(solution.y, Tensor)
    expected.require(solution.y, case.gradients(solution), what)
    return solution
