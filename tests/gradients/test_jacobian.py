"""Solution.jacobian: all derivatives of all outputs, against one gradient for each number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from daes import DENSE, DIAGONAL, INCONSISTENT, SmallDAE
from forms import Case, forms
from methods import EVERY_KIND, as_taken
from small_problems import SmallNetwork, times
from torch import Tensor, nn

from stiffml import (
    GMRES,
    METHODS,
    Adaptive,
    Discrete,
    Grid,
    Newton,
    NonFiniteDerivativeError,
    Solution,
    solve,
)
from stiffml.gradients import jacobian as by

T = times(0, 0.3, 0.35, 0.9)
MANY = torch.linspace(0, 0.9, 12, dtype=torch.float64)
"""More outputs than the network has parameters, so that it is differentiated forwards."""


def require_gradients(
    solution: Solution,
    inputs: Sequence[Tensor],
    what: str,
    rtol: float = 1e-10,
    reference: Solution | None = None,
) -> None:
    """That the Jacobian has the gradients of the solution's numbers, or of another's with the same outputs.

    Of many numbers every fifth, which among three components meets each.
    """
    found = solution.jacobian(inputs)
    y = solution.y if reference is None else reference.y
    parts = y if isinstance(y, tuple) else (y,)
    for number, part in enumerate(parts):
        jacobians = [one if isinstance(one, Tensor) else one[number] for one in found]
        for one, p in zip(jacobians, inputs, strict=True):
            assert one.shape == (*part.shape, *p.shape), f"{what}: the shape is {tuple(one.shape)}"
            assert one.dtype == part.dtype
        sizes = [float(one.abs().max()) for one in jacobians]
        for i in range(0, part.numel(), 5 if part.numel() > 20 else 1):
            value = part.flatten()[i]
            gradients = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
            for one, p, expected, size in zip(jacobians, inputs, gradients, sizes, strict=True):
                expected = torch.zeros_like(p) if expected is None else expected
                off = float((one.reshape(-1, *p.shape)[i] - expected).abs().max())
                assert off <= rtol * max(size, 1e-3), (
                    f"{what}: number {i}, by an input of shape {tuple(p.shape)}: off by {off:.1e}; look at "
                    "gradients/jacobian.py, then at tangents_at_once.py or adjoints_at_once.py"
                )


@pytest.mark.parametrize("outputs", [T, MANY], ids=["backwards", "forwards"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str, outputs: Tensor, network: SmallNetwork, start: Tensor) -> None:
    y0 = start.requires_grad_()
    inputs = [y0, network.out.weight, network.hidden.bias]
    solution = solve(as_taken(method, network), y0, outputs, method=method, steps=Grid(2))
    require_gradients(solution, inputs, method)
    assert torch.equal(solution.jacobian(y0), solution.jacobian([y0])[0])


@pytest.mark.parametrize("method", EVERY_KIND)
def test_forwards_and_backwards_in_every_form(method: str) -> None:
    """Parts that share a parameter, algebraic equations, from consistent values."""
    for form in forms(method):
        case = Case(form, T)
        case.t.requires_grad_(False)
        solution = case.solve(method, Grid(3))
        inputs = [case.y0, *case.func.parameters(), *case.mass]
        require_gradients(solution, inputs, f"{method}, {form}")
        if not case.mass:  # tangents of a mass matrix there are not
            tape = solution.pieces[0].tape
            tape = tape.with_readings(tape.run.readings)
            columns = by.Columns(True, tuple(range(len(solution.pieces[0].inputs) - 2)))
            with torch.no_grad():
                start = torch.eye(sum(columns.numbers(tape)), case.y0.numel(), dtype=torch.float64).numpy()
                forwards = by.by_tangents(tape, by.units_of(tape, columns), start)
                backwards = by.by_adjoints(tape, columns, False)
            assert torch.allclose(forwards, backwards, rtol=1e-10, atol=1e-12), f"{method}, {form}"


MODES: dict[str, dict] = {
    "adaptive": {"steps": Adaptive()},
    "solutions": {"adjoint": Discrete("solutions")},
    "two checkpoints": {"adjoint": Discrete(2)},
    "breakpoints": {"breakpoints": [0.2, 0.5]},
    "interpolate": {"outputs": "interpolate"},
    "through": {"through": [0.17]},
    "dense mass": {"mass": torch.eye(3, dtype=torch.float64) + 0.1},
    "gmres": {"linear": GMRES(rtol=1e-13)},
}


@pytest.mark.parametrize("outputs", [T, MANY], ids=["backwards", "forwards"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["bdf3", "rosw-ra34pw2", "dirk-es213sal"])
def test_modes(method: str, mode: str, outputs: Tensor, network: SmallNetwork, start: Tensor) -> None:
    arguments = {"steps": Grid(2), **MODES[mode]}
    y0 = start.requires_grad_()
    solution = solve(network, y0, outputs, method=method, **arguments)
    arguments |= {"adjoint": None, "linear": "auto"}  # gradients one by one take long otherwise
    reference = solve(network, y0, outputs, method=method, **arguments)
    tight = 1e-8 if mode == "gmres" else 1e-10
    require_gradients(solution, [y0, network.out.bias], f"{method}, {mode}", tight, reference)


@pytest.mark.parametrize("mass", [DIAGONAL, DENSE], ids=["diagonal", "dense"])
@pytest.mark.parametrize("method", ["cn", "rosw-rodas3"])
def test_consistent_values_before_and_after_a_breakpoint(method: str, mass: Tensor) -> None:
    func, y0 = SmallDAE(), INCONSISTENT.clone().requires_grad_()
    newton = {"newton": Newton(rtol=1e-13, atol=1e-16)} if METHODS[method].newton else {}
    arguments = {"mass": mass, "make_consistent": True, "breakpoints": [0.4], **newton}
    solution = solve(func, y0, T, method=method, steps=Grid(2), **arguments)
    require_gradients(solution, [y0, *func.parameters()], method)


def test_what_parameters_may_be(network: SmallNetwork, start: Tensor) -> None:
    """In closures, in a module that occurs twice, computed from others; and what torch.func does not take."""
    k, latent = times(2.0, 0.7).requires_grad_(), times(0.3, 0.1).requires_grad_()
    shared = nn.ModuleList([network, nn.Sequential(network.hidden, nn.Tanh(), network.out)])
    unused = times(1.0).requires_grad_()

    def branching(t: Tensor, y: Tensor) -> Tensor:
        return -k[0] * y**3 if float(y.detach().abs().max()) > 0.2 else -k[1] * y

    everything: dict[str, tuple[Callable, Tensor, list[Tensor]]] = {
        "a closure": (lambda t, y: -k[0] * y**3 + k[1] * torch.cos(t), start, [k, unused]),
        "a module in a closure": (lambda t, y: network(t, y) - k[0] * y, start, [network.out.bias, k]),
        "a module that occurs twice": (
            lambda t, y: shared[1](torch.cat([y, y[..., :1]], -1)) + shared[0](t, y),
            start,
            [network.hidden.weight, network.out.bias],
        ),
        "branches": (branching, start, [k]),
        "computed before": (
            lambda t, y: -(k.exp() @ latent) * y,
            torch.stack([latent.sum(), latent.prod(), k[0]]),
            [latent, k],
        ),
    }
    scaled = latent * k
    everything["a tensor and what it is made of"] = (
        lambda t, y: -scaled[0] * y**3 + scaled[1],
        torch.cat([scaled, k[:1]]),
        [scaled, latent, k],
    )
    for name, (func, y0, inputs) in everything.items():
        for outputs in (T, MANY):
            solution = solve(
                func, y0, outputs, method="cn", steps=Grid(1), params=[scaled] * ("made" in name)
            )
            require_gradients(solution, inputs, name)
    before = list(network.parameters())
    assert all(isinstance(p, nn.Parameter) for p in before), "modules must have their parameters back"


def test_times_breakpoints_and_events(network: SmallNetwork, start: Tensor) -> None:
    t, jump, y0 = T.clone().requires_grad_(), times(0.5).requires_grad_(), start.requires_grad_()
    bias = network.out.bias
    solution = solve(network, y0, t, method="cn", steps=Grid(2))
    require_gradients(solution, [t, y0, bias], "by times")
    require_gradients(
        solve(network, y0, T, method="cn", steps=Grid(2), breakpoints=jump), [jump, bias], "jump"
    )
    event = solve(network, y0, T, method="bdf3", steps=Grid(2), event=lambda t, y: y[0] - 0.4)
    assert event.event is not None
    require_gradients(event, [y0, bias], "after an event")


@pytest.mark.parametrize("method", ["bdf3", "rosw-ra34pw2"])
def test_batches_tuples_and_single_precision(method: str) -> None:
    k = torch.tensor([0.5, 2.0], requires_grad=True)
    a = torch.linspace(0.2, 1.0, 10).view(10, 1).requires_grad_()
    b = torch.linspace(0.5, 0.9, 20).view(10, 2).requires_grad_()

    def func(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return -k[0] * y[0] ** 2, k[1] * y[0] * y[1].cos()

    t = torch.linspace(1, 0, 3)
    solution = solve(func, (a, b), t, method=method, steps=Grid(2), batch_dims=1)
    require_gradients(solution, [a, b, k], method, 1e-5)


def test_as_few_calls_as_a_gradient(start: Tensor) -> None:
    """However many parameters there are: the network is called for all steps together."""
    calls = []
    for width in (4, 40):
        network = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 3)).double()
        count = [0]
        network.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        solution = solve(lambda t, y, network=network: network(y), start, MANY, method="cn", steps=Grid(4))
        count[0] = 0
        jacobians = solution.jacobian(list(network.parameters()))
        assert jacobians[0].shape == (12, 3, width, 3)
        calls.append(count[0])
    assert max(calls) <= 8, f"{calls} calls; look at by_parameters.py"


def test_what_has_no_jacobian_says_so(network: SmallNetwork, start: Tensor) -> None:
    solution = solve(network, start, T, method="cn", steps=Grid(1))
    with pytest.raises(ValueError, match=r"inputs\[1\] is a tensor that requires no gradient"):
        solution.jacobian([network.out.bias, start])
    with torch.no_grad():
        without = solve(network, start, T, method="cn", steps=Grid(1))
    with pytest.raises(ValueError, match="no graph"):
        without.jacobian(network.out.bias)
    root = times(0.0).requires_grad_()
    kinked = solve(lambda t, y: -y + root.sqrt(), start, T, method="cn", steps=Grid(1))
    with pytest.raises(NonFiniteDerivativeError):
        kinked.jacobian(root)
