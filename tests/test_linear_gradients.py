"""Gradients by every way of solving linear systems, against differences."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import pytest
import torch
from conftest import times
from fields import (
    ERROR,
    PRECONDITIONERS,
    RATE,
    Brusselator,
    Case,
    Own,
    T,
    arguments_for,
    jacobian_of,
    waves,
    weighted,
)
from gradients import compare
from torch import Tensor, nn

from stiffml import (
    GMRES,
    LU,
    Adaptive,
    Assembled,
    Discrete,
    Disk,
    Fixed,
    Grid,
    Krylov,
    PointBlock,
    Solution,
    Sparsity,
    sensitivities,
    solve,
)
from stiffml.system import dynamics

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
BACKWARDS = times(0.12, 0.115, 0.1)
"""Diffusion grows backwards in time: not for long."""

LOOK_AT = "look at krylov.py and shell.py, then at gradients/sweep.py"


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


@pytest.mark.parametrize("name", PRECONDITIONERS)
@pytest.mark.parametrize("form", METHODS)
def test_every_preconditioner_with_every_method(form: str, name: str) -> None:
    case = problem(form)
    solution = require(f"{form}, {name}", form, case, linear=GMRES(preconditioner(name, case)))
    assert solution.stats.krylov_iterations > 0
    assert solution.stats.adjoint is not None
    assert solution.stats.adjoint.krylov_iterations > 0


@pytest.mark.parametrize("name", PRECONDITIONERS)
@pytest.mark.parametrize("form", ["cn", "rosw"])
def test_every_preconditioner_backwards_in_time(form: str, name: str) -> None:
    case = problem(form, BACKWARDS)
    linear = GMRES(preconditioner(name, case))
    solution = require(f"{form}, {name}, backwards", form, case, BACKWARDS, linear=linear)
    if name not in ("none", "jacobi", "blocks"):
        steps, arguments = solution.steps, arguments_for(METHODS[form], linear=GMRES())
        without = problem(form, BACKWARDS).solve(steps=steps, **arguments).stats.krylov_iterations
        found = solution.stats.krylov_iterations
        assert found < without, (
            f"{found} iterations, and {without} without a preconditioner: look for a wrong sign of time in it"
        )


OWN_SOLVES = [("cn", "none"), ("rosw", "jacobi"), ("arkimex split", "a matrix"), ("dirk", "blocks")]


@pytest.mark.parametrize(("form", "name"), OWN_SOLVES)
def test_differences_of_its_own_solves(form: str, name: str) -> None:
    case = problem(form)
    arguments = arguments_for(METHODS[form], linear=GMRES(preconditioner(name, case)))
    case.require_gradients(LOOK_AT, differences(form).steps, **arguments)


def pattern() -> Sparsity:
    return Sparsity(jacobian_of(Brusselator(), waves()) != 0)


SPARSE = [None, LU(), GMRES(Assembled()), Krylov("bcgs", PointBlock())]
WITHOUT = [None, GMRES(PointBlock(), restart=5), Krylov("bcgs", Assembled())]
OTHERS = [
    *[("coloured", linear) for linear in SPARSE],
    *[(pattern(), linear) for linear in SPARSE],
    *[("matrix-free", linear) for linear in WITHOUT],
    ("auto", Krylov("tfqmr")),
    ("dense", LU()),
]


@pytest.mark.parametrize(("jacobian", "linear"), OTHERS, ids=str)
@pytest.mark.parametrize("form", ["rosw", "arkimex split"])
def test_other_jacobians(form: str, jacobian: str | Sparsity, linear: LU | Krylov | None) -> None:
    require(f"{form}, {jacobian}, {linear}", form, problem(form), linear=linear, jacobian=jacobian)


@pytest.mark.parametrize("source", ["the jacobian", "the diffusion", "a sparsity"])
@pytest.mark.parametrize("form", ["cn", "rosw"])
def test_fields_on_one_process(form: str, source: str) -> None:
    model = Brusselator()
    func, diffusion = model.on_field()
    assembled = {
        "the jacobian": Assembled(),
        "the diffusion": Assembled(diffusion, "gamg"),
        "a sparsity": Assembled(diffusion, sparsity=pattern()),
    }
    case = Case(func)
    solution = case.solve(
        steps=differences(form).steps, **arguments_for(METHODS[form], linear=GMRES(assembled[source]))
    )
    gradients = {name.removeprefix("local.whole."): g for name, g in case.gradients(solution).items()}
    differences(form).require(solution.y, gradients, f"{form}, {source} of a field")


ADAPTIVE = [
    ("bdf3", GMRES(Assembled())),
    ("arkimex split", GMRES(PointBlock())),
    ("dirk", Krylov("bcgs")),
    # What is left of a Rosenbrock method's systems is left in its solution.
    ("rosw", GMRES(Assembled(), rtol=1e-11)),
]


@pytest.mark.parametrize(("form", "linear"), ADAPTIVE)
def test_adaptive_and_fixed_steps(form: str, linear: Krylov) -> None:
    case = problem(form)
    arguments = arguments_for(METHODS[form], linear=linear)
    loose = {"rtol": 1e-2, "atol": 1e-3}
    case.require_gradients(f"{form}, adaptive: {LOOK_AT}", Adaptive(), **arguments, **loose)
    if form != "bdf3":  # which is tried with given steps above, and takes many
        case.require_gradients(f"{form}, fixed: {LOOK_AT}", Fixed(0.08), **arguments)


# Mass matrices.

MASS = torch.linspace(0.5, 1.5, 50, dtype=torch.float64)
COUPLED = torch.diag(MASS) + 0.002 * torch.sin(torch.arange(2500.0).double()).reshape(50, 50)
SOLVERS: dict[str, dict[str, Any]] = {
    "gmres": {"linear": GMRES()},
    "gmres ilu": {"linear": GMRES(Assembled())},
    "gmres blocks": {"linear": GMRES(PointBlock())},
    "gmres own": {"linear": GMRES(Own(Brusselator()))},
    "coloured lu": {"jacobian": "coloured"},
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("method", "mass"),
    [("rosw-ra34pw2", MASS.reshape(2, 5, 5)), ("cn", COUPLED)],
    ids=["rosw", "cn, dense"],
)
def test_mass_matrices(method: str, mass: Tensor, solver: str) -> None:
    mass = mass.clone().requires_grad_()
    case = Case(Brusselator(), mass=mass)
    arguments = arguments_for(method, mass=mass, **SOLVERS[solver])
    case.require_gradients(f"{LOOK_AT}, and at Mass", Grid(1), **arguments)


class Screened(nn.Module):
    """A Brusselator with a field w between its species: 0 = κ Δw - w - w³/9 + u v."""

    def __init__(self) -> None:
        super().__init__()
        self.brusselator = Brusselator(4)
        self.kappa = nn.Parameter(torch.tensor(0.02, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        u, v, w = y.unbind(-3)
        around = sum(w.roll(shift, axis) for shift in (1, -1) for axis in (-1, -2))
        algebraic = 16 * self.kappa * (around - 4 * w) - w - w**3 / 9 + u * v
        moved = torch.stack([-w, 0.5 * w], dim=-3)
        return torch.cat([self.brusselator(t, y[..., :2, :, :]) + moved, algebraic[..., None, :, :]], dim=-3)


@pytest.mark.parametrize("solver", ["gmres", "gmres ilu", "coloured lu"])
@pytest.mark.parametrize("method", ["beuler", "rosw-ra34pw2", "arkimex-3"])
def test_algebraic_equations(method: str, solver: str) -> None:
    mass = torch.ones(3, 4, 4, dtype=torch.float64)
    mass[2] = 0
    start = torch.cat([waves(4), torch.ones(1, 4, 4, dtype=torch.float64)])
    case = Case(Screened(), start, times(0.1, 0.15))
    arguments = arguments_for(method, mass=mass, make_consistent=True, **SOLVERS[solver])
    case.require_gradients(f"{LOOK_AT}, and at initialization.py", Grid(1), **arguments)


# What else is done with solves.


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
    linears = [GMRES(), GMRES(Assembled()), GMRES(OwnOfPair(pair.whole))]
    if jacobian == "coloured":
        linears.append(None)
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


BATCHED: dict[str, dict[str, Any]] = SOLVERS | {
    "gmres diffusion": {"linear": GMRES(Assembled(Brusselator().diffusion))},
    "gmres blocks": {"linear": GMRES(PointBlock(axis=-3))},
    "gmres coloured": {"linear": GMRES(Assembled()), "jacobian": "coloured"},
    "gmres own": {"linear": GMRES(Own(Brusselator()))},
    "sparsity": {"jacobian": pattern()},
}


SAMPLES = torch.stack([waves(), 0.8 * waves()])


@lru_cache
def alone(form: str) -> list[dict[str, Tensor]]:
    """The gradients of each sample."""
    cases = [Case(Brusselator(), y0) for y0 in SAMPLES]
    return [
        case.gradients(case.solve(steps=Grid(1), **arguments_for(METHODS[form], linear=GMRES(Assembled()))))
        for case in cases
    ]


@pytest.mark.parametrize("solver", BATCHED)
@pytest.mark.parametrize("form", ["dirk", "rosw"])
def test_batches(form: str, solver: str) -> None:
    """The samples of a batch have the gradients that they have alone."""
    case = Case(Brusselator(), SAMPLES)
    arguments = arguments_for(METHODS[form], **BATCHED[solver])
    batch = case.solve(batch_dims=1, steps=Grid(1), **arguments)
    assert isinstance(batch.y, Tensor)
    loss = weighted(batch.y[:, 0]) - weighted(batch.y[:, 1])
    gradients = torch.autograd.grad(loss, list(case.inputs.values()))
    first, second = alone(form)
    for name, gradient in zip(case.inputs, gradients, strict=True):
        expected = first[name] - second[name] if name != "y0" else torch.stack([first[name], -second[name]])
        off = float((gradient - expected).abs().max() / expected.abs().max())
        assert off <= 1e-7, f"{form}, {solver}, {name}: off by {off:.1e}; look at _expanded and Shell._parts"


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
    case.require_gradients(f"{LOOK_AT}, and at between.py", Fixed(0.1), **arguments)


@pytest.mark.parametrize("solver", ["gmres ilu", "coloured lu"])
@pytest.mark.parametrize("form", ["bdf3", "arkimex split"])
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
@pytest.mark.parametrize("form", ["bdf3", "arkimex split", "dirk"])
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
    assert off <= 1e-6, f"{method}: off by {off:.1e}; look at _Recorded.solve_next in krylov.py"


@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-ra34pw2"])
def test_large_states_have_the_same_gradient(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of these less is remembered, and graphs are let go earlier."""
    model, y0 = Brusselator(), waves().requires_grad_()
    inputs = [y0, *model.parameters()]
    found = []
    for large in (dynamics.LARGE, 1):
        monkeypatch.setattr(dynamics, "LARGE", large)
        y = solve(model, y0, T, method=method, steps=Grid(3), linear=GMRES(), adjoint=Discrete(2)).y
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(weighted(y), inputs)]))
    off = float((found[0] - found[1]).abs().max() / found[0].abs().max())
    assert off <= 1e-7, f"{method}: off by {off:.1e}; look at what Dynamics.is_large changes"
