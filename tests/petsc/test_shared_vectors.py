"""States on a device where PETSc has its vectors too: these are shared with torch, through DLPack.

Here that device is the host, whose vectors are shared in the same way.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fields import POINTS, Brusselator, Case, arguments_for
from methods import NEWTON_MATRIX_FREE
from petsc4py import PETSc
from torch import Tensor, nn

import stiffml.linear.choice
from stiffml import GMRES, Assembled, Discrete, Fixed, PointBlock, solve
from stiffml.petsc.sharing import can_share, shared, written
from stiffml.system.derivatives.dynamics import Dynamics

LOOK_AT = "look at evaluate_shared, at ShiftedOperator.shared_product and at what is copied in sharing.py"


def test_memory_is_shared() -> None:
    vector = PETSc.Vec().createSeq(3)
    for values, norm in (([3.0, 0.0, 4.0], 5.0), ([0.0, 1.0, 0.0], 1.0)):
        with written(vector) as tensor:
            tensor.copy_(torch.tensor(values))
        assert vector.norm() == norm, "PETSc remembers the norm of what was there: look at written"
    assert shared(vector).data_ptr() == vector.array.ctypes.data


def test_which_devices() -> None:
    assert not can_share(torch.device("cpu"))
    assert can_share(torch.device("cuda")) == PETSc.Sys.hasExternalPackage("cuda")


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Vectors are shared from here on; how often f was evaluated for one, and whether with its graph."""
    found: list[bool] = []
    evaluate = Dynamics.evaluate_shared

    def counted(self: Dynamics, s: float, u: Tensor, with_jacobian: bool = False) -> Tensor:
        found.append(with_jacobian)
        return evaluate(self, s, u, with_jacobian)

    monkeypatch.setattr(stiffml.linear.choice, "can_share", lambda device: True)
    monkeypatch.setattr(Dynamics, "evaluate_shared", counted)
    return found


def problem(method: str) -> nn.Module:
    model = Brusselator()
    return model.split() if method == "arkimex-3" else model


PRECONDITIONERS: dict[str, Any] = {"none": None, "blocks": PointBlock()}


@pytest.mark.parametrize("kind", [*PRECONDITIONERS, "ilu"])
@pytest.mark.parametrize("method", NEWTON_MATRIX_FREE)
def test_gradients(method: str, kind: str, evaluations: list[bool]) -> None:
    func = problem(method)
    diffusion = func.implicit if method == "arkimex-3" else func.diffusion
    preconditioner = Assembled(diffusion) if kind == "ilu" else PRECONDITIONERS[kind]
    arguments = arguments_for(method, linear=GMRES(preconditioner, adjoint_rtol=1e-12))
    solution = Case(func).require_gradients(LOOK_AT, Fixed(0.05), **arguments)
    assert True in evaluations
    assert solution.stats.krylov_iterations > 0


@pytest.mark.parametrize("checkpoints", ["stages", 3])
@pytest.mark.parametrize("method", NEWTON_MATRIX_FREE)
def test_as_with_copies(method: str, checkpoints: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> dict[str, Tensor]:
        case = Case(problem(method))
        linear = GMRES(Assembled(Brusselator().diffusion), rtol=1e-10, adjoint_rtol=1e-12)
        arguments = arguments_for(method, linear=linear, adjoint=Discrete(checkpoints))
        solution = case.solve(rtol=1e-2, atol=1e-3, **arguments)
        return {"y": solution.y.detach(), **case.gradients(solution)}

    expected = run()
    monkeypatch.setattr(stiffml.linear.choice, "can_share", lambda device: True)
    for name, value in run().items():
        off = float((value - expected[name]).abs().max() / expected[name].abs().max())
        assert off <= 1e-9, f"{method}: {name} is off by {off:.1e}; {LOOK_AT}"


def test_what_is_not_shared(evaluations: list[bool]) -> None:
    """Rosenbrock methods, which carry time, and mass matrices: through the host."""
    case = Case(Brusselator())
    mass = torch.linspace(1, 2, 2 * POINTS**2, dtype=torch.float64).view(2, POINTS, POINTS)
    for arguments in ({"method": "rosw-ra34pw2"}, {"method": "cn", "mass": mass}, {"method": "dopri5"}):
        linear = {} if arguments["method"] == "dopri5" else {"linear": GMRES()}
        solution = case.solve(steps=Fixed(0.02), **arguments, **linear)
        case.gradients(solution)
    assert not evaluations


class Mishap(Exception):
    pass


def test_an_exception_in_func(evaluations: list[bool]) -> None:
    model, calls = Brusselator(), []

    def func(t: Tensor, y: Tensor) -> Tensor:
        calls.append(t)
        if len(calls) == 20:
            raise Mishap
        return model(t, y)

    case = Case(model)
    with pytest.raises(Mishap):
        solve(func, case.y0, case.t, method="cn", steps=Fixed(0.02), linear=GMRES())
    solution = solve(func, case.y0, case.t, method="cn", steps=Fixed(0.02), linear=GMRES())
    assert solution.status is stiffml.Status.SUCCESS
    assert evaluations


def test_failures_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(Brusselator())

    def func(t: Tensor, y: Tensor) -> Tensor:
        slope = case.func(t, y)
        return slope if t < 0.2 else slope * torch.nan

    def message() -> str:
        with pytest.raises(stiffml.SolveError) as caught:
            solve(func, case.y0, case.t, method="cn", steps=Fixed(0.02), linear=GMRES())
        return str(caught.value)

    expected = message()
    monkeypatch.setattr(stiffml.linear.choice, "can_share", lambda device: True)
    assert message() == expected
