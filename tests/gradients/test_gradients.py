"""Gradients of every method in every mode against the solve itself."""

from __future__ import annotations

import pytest
import torch
from daes import CONSISTENT, DIAGONAL, INCONSISTENT, SmallDAE
from methods import WHOLE, WITH_RODAS3
from small_problems import SmallNetwork, times
from torch import Tensor

import problems
from stiffml import METHODS, Adaptive, Fixed, Grid, check_gradients, sensitivities, solve
from stiffml.gradients import adjoint, linearized

# Output times are uneven, two of them close together. Within bounds: a BDF of order 5 whose step grows
# a hundredfold amplifies rounding until differences of its results mean nothing.


def robertson():
    problem = problems.load("robertson")
    return problem.func("k1", "k2", "k3"), problem.initial_state(), times(0, 2e-3, 5e-3, 5.8e-3, 1.2e-2)


def vanderpol():
    problem = problems.load("vanderpol", eps=0.05)
    return problem.func("eps"), problem.initial_state(), times(0, 0.2, 0.25, 0.5)


def small_network():
    # Decreasing times.
    start = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)
    return SmallNetwork(), start, times(1, 0.7, 0.6, 0.1)


CASES = {"robertson": robertson, "vanderpol": vanderpol, "network": small_network}
FIXED = {"robertson": Fixed(8e-4), "vanderpol": Fixed(0.02), "network": Fixed(0.1)}
GRID = {"robertson": Grid(4), "vanderpol": Grid(5), "network": Grid(3)}


def modes():
    for name, method in METHODS.items():
        for case in CASES:
            for steps in (Adaptive(), FIXED[case], GRID[case]):
                if method.whole and (method.adaptive or not isinstance(steps, Adaptive)):
                    kind = type(steps).__name__.lower()
                    always = name in WITH_RODAS3 and (case == "robertson" or kind == "adaptive")
                    marks = () if always else pytest.mark.sweep
                    yield pytest.param(name, case, steps, id=f"{name}-{case}-{kind}", marks=marks)


@pytest.mark.parametrize(("method", "case", "steps"), list(modes()))
def test_gradients_match_the_solve(method: str, case: str, steps) -> None:
    func, y0, t = CASES[case]()
    if method == "bdf6" and case == "robertson":
        t = times(0, 2e-3, 5e-3, 8e-3, 1.2e-2)  # order 6 stands no more growth than this
    if method == "verner8" and case == "robertson":
        t = times(0, 2e-3, 5e-3, 8e-3)  # at the other times what k3 makes is lost in the loss's rounding
    # Loose: few steps suffice to show a wrong adjoint, and every step is paid for a hundred times.
    # Robertson's second species is 4e-5: a larger atol would leave it to itself.
    atol = 1e-5 if case == "robertson" else 1e-4
    tolerances = {"rtol": 1e-2, "atol": atol} if isinstance(steps, Adaptive) else {}
    report = check_gradients(func, y0, t, method=method, steps=steps, **tolerances)
    assert report.ok, (
        f"{method} on {case} with {steps}:\n{report}\nA Taylor rate of 1 means a wrong adjoint step; look at "
        f"{type(METHODS[method]).__name__}.sweep, and for t alone at its time_gradient"
    )


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("segment_steps", [1, 4])
def test_one_step_at_a_time_gives_the_same_numbers(
    name: str, segment_steps: int, network: SmallNetwork, start: Tensor, monkeypatch
) -> None:
    whole = all_gradients(name, network, start)
    # Every step holds 3 states at each of its points, replicated 3 times for their Jacobians.
    monkeypatch.setattr(linearized, "SEGMENT_NUMBERS", segment_steps * 3 * 3 * 8)
    parts = all_gradients(name, network, start)
    # Different batch sizes round differently; nothing else may differ. The coefficients of BDF 5 multiply
    # that rounding by a few thousand. Its dL/dt is a sum of terms of size 1/h² that cancel, and the ramp
    # begins with h = 6e-4.
    shortest = 0.1 if METHODS[name].starting_order == 0 else 0.1 * 20 ** (1 - METHODS[name].order / 2) / 2
    bounds = [1e-11, max(1e-11, 2.2e-16 / shortest**2), *[1e-11] * len(list(network.parameters()))]
    for a, b, bound in zip(whole, parts, bounds, strict=True):
        assert (a - b).abs().max() <= bound * a.abs().max(), (
            f"{name}: look at what a segment takes from its neighbours, in checkpoints.py and sweep.Pending"
        )


def all_gradients(method: str, func: SmallNetwork, start: Tensor) -> tuple[Tensor, ...]:
    y0, t = start.clone().requires_grad_(), times(0, 0.5, 0.6, 2).requires_grad_()
    y = solve(func, y0, t, method=method, steps=Fixed(0.1)).y
    return torch.autograd.grad(y.sum(), [y0, t, *func.parameters()])


def test_a_wrong_gradient_is_noticed(network: SmallNetwork, start: Tensor, monkeypatch) -> None:
    """The check must fail for the mistake it is there to find: f_θ taken at one end for both halves."""
    right = adjoint.sweep_at_once

    def wrong(equations, *others):
        swept = right(equations, *others)
        h = equations.segment.trajectory.sizes[:, None]
        w = swept.multipliers[0][0]
        swept.f[:-1] += h / 2 * w
        swept.f[1:] -= h / 2 * w
        return swept

    assert check_gradients(network, start, times(0, 1), method="cn", steps=Grid(5)).ok
    monkeypatch.setattr(adjoint, "sweep_at_once", wrong)
    report = check_gradients(network, start, times(0, 1), method="cn", steps=Grid(5))
    assert report["hidden.weight"].rate < 1.5
    assert report["hidden.weight"].error > 1e-3
    assert "wrong" in str(report)


@pytest.mark.parametrize("method", ["bdf2", "bdf", "rosw-ra34pw2"])
def test_steps_far_shorter_than_rounding(method: str) -> None:
    """With tolerances for components of 1e-15 the first step is 2.5e-14: states 1 apart there differ by less
    than their rounding, and quotients of their differences mean nothing."""
    problem = problems.load("robertson")
    report = check_gradients(
        problem.func("k1"),
        problem.initial_state(),
        times(0, 0.5, 1),
        method=method,
        rtol=1e-5,
        atol=problem.atol(1e-5),
    )
    assert report.ok, (
        f"{report}\nlook at what α multiplies in gradients/times.py, and at the scale of its row"
    )


def test_hooks_see_the_whole_gradient_once() -> None:
    rate = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    y0, t = torch.ones(1, dtype=torch.float64), torch.linspace(0, 1, 3, dtype=torch.float64)

    def gradient() -> float:
        y = solve(lambda t, y: -rate * y, y0, t, method="cn", steps=Grid(2), params=[rate]).y
        return torch.autograd.grad(y.sum(), rate)[0].item()

    plain = gradient()
    rate.register_hook(lambda g: 2 * g)
    assert gradient() == 2 * plain, "a hook was called within the backward pass: look at hooks.py"


@pytest.mark.parametrize("what", ["make_consistent", "sensitivities"])
def test_hooks_see_nothing_from_within(what: str) -> None:
    """Of consistent values the whole gradient once; of sensitivities, which are none, nothing at all."""

    def result() -> Tensor:
        func, seen = SmallDAE(), []
        if hooked:
            func.algebraic.register_hook(lambda g: seen.append(g) or 2 * g)
        arguments = {"method": "cn", "steps": Grid(2)}
        if what == "sensitivities":
            found = sensitivities(func, CONSISTENT, times(0, 1), ["algebraic"], **arguments)
            assert not seen
            return found.wrt["algebraic"]
        y = solve(func, INCONSISTENT, times(0, 1), mass=DIAGONAL, make_consistent=True, **arguments).y
        (gradient,) = torch.autograd.grad(y.sum(), func.algebraic)
        assert len(seen) == hooked
        return gradient / 2 if hooked else gradient

    hooked = False
    plain = result()
    hooked = True
    assert torch.equal(result(), plain), "a hook was called within: look at who calls without_hooks"
