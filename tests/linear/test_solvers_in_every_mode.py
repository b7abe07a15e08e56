"""What else is done with solves, with Krylov methods and sparse factors: gradients agree."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from fields import (
    ERROR,
    RATE,
    Brusselator,
    Case,
    Own,
    T,
    arguments_for,
    waves,
    weighted,
)
from gradients import compare
from same_steps import LOOK_AT, METHODS, differences, preconditioner, problem, require
from small_problems import times
from solvers import PRECONDITIONERS, SOLVERS, SOLVERS_OF_BATCHES
from torch import Tensor, nn

from stiffml import (
    GMRES,
    LU,
    Assembled,
    Discrete,
    Disk,
    Fixed,
    Grid,
    Krylov,
    Solution,
    Sparsity,
    sensitivities,
    solve,
)
from stiffml.system.function import evaluation


@pytest.mark.parametrize("form", ["bdf3", "rosw", "arkimex split"])
def test_checkpoints_agree(form: str) -> None:
    """Stages of Newton's iteration are found again to rounding, and those of Rosenbrock methods, like the
    transposed systems, to adjoint_rtol: a gradient is a sum of tens of these."""
    linear = GMRES(Assembled(), adjoint_rtol=1e-11)
    found = []
    for checkpoints in ("stages", "solutions", 5, Disk(tempfile.gettempdir())):
        case = problem(form)
        arguments = arguments_for(METHODS[form], linear=linear, adjoint=Discrete(checkpoints))
        found.append(case.gradients(case.solve(steps=Grid(2), **arguments)))
    for other in found[1:]:
        for name, expected in found[0].items():
            off = float((other[name] - expected).abs().max() / expected.abs().max())
            assert off <= 100 * linear.adjoint_rtol, f"{form}: {name} is off by {off:.1e}; look at replay.py"


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_a_linear_part(name: str) -> None:
    """One iteration of Newton's has to solve it, however loosely GMRES does others."""
    case = Case(Brusselator().split(linear=True))
    linear = GMRES(preconditioner(name, case))
    solution = require(f"linear=True, {name}", "arkimex split", case, linear=linear)
    assert solution.stats.jacobians <= 3


class Pair(nn.Module):
    """A Brusselator of (u, v)."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = Brusselator()

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        u, v = self.whole(t, torch.stack(y, dim=-3)).unbind(-3)
        return u, v


class OwnOfPair(Own):
    def update(self, t: Tensor, y: Any, shift: float) -> None:
        super().update(t, torch.stack(y), shift)

    def _solve(self, residual: Any, transpose: bool) -> Any:
        return tuple(super()._solve(torch.stack(residual), transpose))


@pytest.mark.parametrize("jacobian", ["auto", "coloured"])
@pytest.mark.parametrize("form", ["cn", "rosw"])
def test_tuples(form: str, jacobian: str) -> None:
    pair = Pair()
    linears: list[Any] = [GMRES(), GMRES(Assembled()), GMRES(OwnOfPair(pair.whole))]
    if jacobian == "coloured":
        linears.append("auto")
    for linear in linears:
        y0, t = waves().requires_grad_(), T.clone().requires_grad_()
        arguments = arguments_for(METHODS[form], linear=linear, jacobian=jacobian)
        found = solve(pair, (y0[0], y0[1]), t, steps=differences(form).steps, **arguments).y
        y = torch.stack(found, dim=1)
        inputs = {"y0": y0, "t": t, **dict(pair.whole.named_parameters())}
        gradients = torch.autograd.grad(weighted(y), list(inputs.values()))
        expected = dict(zip(inputs, gradients, strict=True))
        differences(form).require(y, expected, f"{form}, a tuple, {linear}")


SINGLE = "look for tolerances below what single precision resolves"


@pytest.mark.parametrize("name", ["none", "ilu"])
@pytest.mark.parametrize("restart", [30, 5])
@pytest.mark.parametrize("form", ["bdf3", "rosw"])
def test_single_precision(form: str, restart: int, name: str) -> None:
    """Products in single precision are known to 1e-7, which is as far as any residual falls."""
    double, single = problem(form), Case(Brusselator().float(), waves().float(), T.float())
    linear = GMRES(preconditioner(name, single), restart=restart)
    solution = single.solve(method=METHODS[form], steps=Grid(1), linear=linear)
    assert solution.stats.rejected == 0, f"{form}: GMRES has stalled; {SINGLE}"
    found = single.gradients(solution)
    expected = double.gradients(double.solve(method=METHODS[form], steps=Grid(1)))
    for key, gradient in found.items():
        assert gradient.dtype == torch.float32
        off = float((gradient - expected[key]).abs().max() / expected[key].abs().max())
        assert off <= 1e-3, f"{form}, {key}: off by {off:.1e}; {SINGLE}"


SAMPLES = torch.stack([waves(), 0.8 * waves()])


@lru_cache
def alone(form: str) -> list[dict[str, Tensor]]:
    """The gradients of each sample."""
    cases = [Case(Brusselator(), y0) for y0 in SAMPLES]
    return [
        case.gradients(case.solve(steps=Grid(1), **arguments_for(METHODS[form], linear=GMRES(Assembled()))))
        for case in cases
    ]


@pytest.mark.parametrize("solver", SOLVERS_OF_BATCHES)
@pytest.mark.parametrize("form", ["dirk", "rosw"])
def test_batches(form: str, solver: str) -> None:
    """The samples of a batch have the gradients that they have alone."""
    case = Case(Brusselator(), SAMPLES)
    arguments = arguments_for(METHODS[form], **SOLVERS_OF_BATCHES[solver])
    batch = case.solve(batch_dims=1, steps=Grid(1), **arguments)
    assert isinstance(batch.y, Tensor)
    loss = weighted(batch.y[:, 0]) - weighted(batch.y[:, 1])
    gradients = torch.autograd.grad(loss, list(case.inputs.values()))
    first, second = alone(form)
    for name, gradient in zip(case.inputs, gradients, strict=True):
        expected = first[name] - second[name] if name != "y0" else torch.stack([first[name], -second[name]])
        off = float((gradient - expected).abs().max() / expected.abs().max())
        assert off <= 1e-7, (
            f"{form}, {solver}, {name}: off by {off:.1e}; look at Structure._given and ShiftedOperator._parts"
        )


@pytest.mark.parametrize("solver", ["gmres ilu", "coloured lu"])
@pytest.mark.parametrize("method", ["bdf3", "rosw-ra34pw2"])
def test_events(method: str, solver: str) -> None:
    case = Case(Brusselator(), t=times(0, 0.4))
    del case.inputs["t"]

    def loss(steps: Any) -> tuple[Tensor, Solution]:
        solution = case.solve(
            event=lambda t, y: y[0].mean() - 0.95, steps=steps, **arguments_for(method, **SOLVERS[solver])
        )
        assert solution.event is not None, "the case is meant to have an event; choose another mean"
        assert isinstance(solution.event.y, Tensor)
        return solution.event.t + weighted(solution.event.y[None]), solution

    value, _ = loss(Fixed(0.05))
    inputs = list(case.inputs.values())
    gradients = torch.autograd.grad(value, inputs)
    error, rate = compare(lambda: loss(Fixed(0.05))[0], inputs, gradients, 1e-3)
    assert error <= ERROR, f"{method}, {solver}: off by {error:.1e}; look at events.py"
    assert rate >= RATE, f"{method}, {solver}: Taylor rate {rate:.2f}; look at events.py"


@pytest.mark.parametrize("method", ["bdf3", "rosw-ra34pw2"])
def test_outputs_between_steps(method: str) -> None:
    case = Case(Brusselator(), t=times(0, 0.11, 0.17, 0.3))
    arguments = arguments_for(method, linear=GMRES(Assembled()), outputs="interpolate")
    case.require_gradients(f"{LOOK_AT}, and at dense_output.py", Fixed(0.1), **arguments)


@pytest.mark.parametrize("solver", ["gmres ilu", "coloured lu"])
@pytest.mark.parametrize("form", ["bdf3", "rosw", "arkimex split"])
def test_sensitivities(form: str, solver: str) -> None:
    case = problem(form)
    name = "implicit.coefficients" if form == "arkimex split" else "diffusion.coefficients"
    arguments = arguments_for(METHODS[form], steps=Grid(1))
    forwards = sensitivities(case.func, waves(), T, ["y0", name], **arguments, **SOLVERS[solver]).wrt
    y = case.solve(**arguments).y
    assert isinstance(y, Tensor)
    for row, component in ((1, 3), (2, 40)):
        inputs = [case.y0, case.inputs[name]]
        output = y[row].reshape(-1)[component]
        for key, expected in zip(
            ("y0", name), torch.autograd.grad(output, inputs, retain_graph=True), strict=True
        ):
            found = forwards[key]
            assert isinstance(found, Tensor)
            found = found[row].reshape(50, *expected.shape)[component]
            off = float((found - expected).abs().max() / expected.abs().max())
            assert off <= 1e-7, f"{form}, {solver}, {key}: off by {off:.1e}; look at tangent.py"


@pytest.mark.parametrize("solver", ["gmres ilu", "coloured lu"])
@pytest.mark.parametrize("form", ["bdf3", "rosw", "arkimex split", "dirk"])
def test_second_derivatives(form: str, solver: str) -> None:
    case = problem(form, times(0.1, 0.2))
    del case.inputs["t"]
    case.t.requires_grad_(False)
    inputs = list(case.inputs.values())
    generator = torch.Generator().manual_seed(1)
    vector = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in inputs]

    def slope() -> Tensor:
        """Of the loss, along the vector."""
        solution = case.solve(steps=Grid(1), **arguments_for(METHODS[form], **SOLVERS[solver]))
        with torch.enable_grad():
            gradients = torch.autograd.grad(case.loss(solution), inputs, create_graph=True)
            return sum(((g * v).sum() for g, v in zip(gradients, vector, strict=True)), torch.zeros(()))

    def along() -> Tensor:
        with torch.enable_grad():
            return slope().detach()

    product = torch.autograd.grad(slope(), inputs)
    error, rate = compare(along, inputs, product, 1e-3)
    assert error <= ERROR, f"{form}, {solver}: off by {error:.1e}; look at second.py"
    assert rate >= RATE, f"{form}, {solver}: Taylor rate {rate:.2f}; look at second.py"


@pytest.mark.parametrize("method", ["arkimex-4", "rosw-ra34pw2", "bdf3"])
def test_guesses_that_point_nowhere(method: str) -> None:
    """The right-hand sides of a stage change by orders of magnitude where steps do."""
    model, y0 = Brusselator(), waves().requires_grad_()
    inputs = [y0, *model.parameters()]
    found = []
    for linear in (GMRES(Assembled(model.diffusion, constant=True)), LU()):
        y = solve(model, y0, T, method=method, rtol=1e-7, atol=1e-9, linear=linear).y
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(weighted(y), inputs)]))
    off = float((found[0] - found[1]).abs().max() / found[1].abs().max())
    assert off <= 1e-6, f"{method}: off by {off:.1e}; look at _Recorded.solve_next in solver.py"


class Exchange(nn.Module):
    """Two slopes and an algebraic equation, whose rows differ by the length of a step."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor([0.7, 30.0], dtype=dtype))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b, z = y
        exchange, decay = self.k
        left = z + z**3 / 3 - exchange * a * b
        return torch.stack([-exchange * a + z * b, torch.sin(3 * t) - decay * b * z, left])


@pytest.mark.parametrize("method", ["cn", "beuler", "bdf3", "dirk-es325sal", "rosw-ra34pw2"])
def test_guesses_are_judged_in_every_component(method: str) -> None:
    """In single precision, where a guess may be taken for a solution that is known no better."""

    def gradient(linear: LU | Krylov) -> Tensor:
        model = Exchange(torch.float32)
        y0 = torch.tensor([0.9, 0.6, 0.3], requires_grad=True)
        mass = torch.tensor([1.0, 2.0, 0.0])
        t = torch.linspace(0, 2, 4)
        y = solve(
            model, y0, t, method=method, mass=mass, steps=Grid(60), make_consistent=True, linear=linear
        ).y
        return torch.cat([g.flatten() for g in torch.autograd.grad((y**2).sum(), [y0, model.k])])

    full = Assembled(solver="lu", sparsity=Sparsity(np.ones((3, 3), dtype=bool)))
    expected = gradient(LU())
    for linear in (Krylov("bcgs", preconditioner=full), GMRES(full)):
        off = float((gradient(linear) - expected).abs().max() / expected.abs().max())
        # Each system is solved to 1e-5.
        assert off <= 1e-4, f"{method}, {linear.method}: off by {off:.1e}; look at _Recorded.solve_next"


@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-ra34pw2"])
def test_large_states_have_the_same_gradient(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of these less is remembered, and graphs are let go earlier."""
    model, y0 = Brusselator(), waves().requires_grad_()
    inputs = [y0, *model.parameters()]
    found = []
    for large in (evaluation.LARGE, 1):
        monkeypatch.setattr(evaluation, "LARGE", large)
        y = solve(model, y0, T, method=method, steps=Grid(3), linear=GMRES(), adjoint=Discrete(2)).y
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(weighted(y), inputs)]))
    off = float((found[0] - found[1]).abs().max() / found[0].abs().max())
    assert off <= 1e-7, f"{method}: off by {off:.1e}; look at what Dynamics.is_large changes"
