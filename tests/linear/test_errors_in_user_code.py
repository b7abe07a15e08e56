"""What a caller's own code does wrong while linear systems are solved: it is passed on, and nothing stays."""

from __future__ import annotations

import _thread
import math
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from fields import Brusselator, Case, Own, waves, weighted
from leftovers import nothing_left_behind
from small_problems import times
from torch import Tensor, nn
from unsolvable import T, gradients, problem, require_same

from stiffml import (
    GMRES,
    Assembled,
    Fixed,
    Grid,
    Krylov,
    LinearSolveError,
    PointBlock,
    SolveError,
    Split,
    Status,
    solve,
)
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.space import Space
from stiffml.system.state import Layout


def test_what_is_remembered_of_a_state_is_its_own() -> None:
    """f is asked for at a state, with its graph at another one, and at the first one again."""
    dynamics = Dynamics(lambda t, y: -y, Layout.of(torch.zeros(3, dtype=torch.float64), 0), 1, (), Space())
    here, there = np.ones(3), np.full(3, 2.0)
    assert np.array_equal(dynamics.evaluate(0.0, here), -here)
    assert np.array_equal(dynamics.evaluate(0.1, there, with_jacobian=True, as_graph=True), -there)
    assert np.array_equal(dynamics.evaluate(0.0, here), -here), "look at what Dynamics.evaluate remembers"


class Mishap(Exception):
    """Not one that anything else would raise."""


class RuntimeMishap(RuntimeError):
    """A relative of what torch raises."""


class Troubled(nn.Module):
    """A Brusselator in which something happens from a given evaluation, or backward pass, on."""

    def __init__(self, mishap: BaseException) -> None:
        super().__init__()
        self.model, self.mishap = Brusselator(), mishap
        self.evaluations, self.products, self.at_evaluation, self.at_product = 0, 0, math.inf, math.inf

    def arm(self, evaluation: float = math.inf, product: float = math.inf) -> None:
        self.evaluations, self.products, self.at_evaluation, self.at_product = 0, 0, evaluation, product

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.evaluations += 1
        if self.evaluations >= self.at_evaluation:
            raise self.mishap
        return self.model(t, Through.apply(y, self))


class Through(torch.autograd.Function):
    """The identity, whose derivatives can be made to fail."""

    @staticmethod
    def forward(ctx, y: Tensor, troubled: Troubled) -> Tensor:
        ctx.troubled = troubled
        return y.clone()

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor, None]:
        troubled = ctx.troubled
        troubled.products += 1
        if troubled.products >= troubled.at_product:
            raise troubled.mishap
        return Through.apply(cotangent, troubled), None


SHORT = times(0.1, 0.2)
MISHAPS = [Mishap, RuntimeMishap, KeyboardInterrupt]
LINEAR: dict[str, Callable[[Troubled], Krylov]] = {
    "none": lambda func: GMRES(),
    "blocks": lambda func: GMRES(PointBlock()),
    "ilu": lambda func: GMRES(Assembled(func.model.diffusion)),
    "own": lambda func: GMRES(Own(func.model)),
}


@pytest.mark.parametrize("kind", MISHAPS)
@pytest.mark.parametrize(
    ("method", "name"),
    [*(("cn", name) for name in LINEAR), ("rosw-ra34pw2", "none"), ("rosw-ra34pw2", "own")],
)
def test_func_fails_in_the_middle(method: str, name: str, kind: type[BaseException]) -> None:
    """In an evaluation or in a product of its Jacobian, forwards or backwards: the caller gets just that."""
    mishap = kind("on the way")
    func = Troubled(mishap)
    y0 = waves().requires_grad_()
    arguments = {"method": method, "steps": Grid(1), "linear": LINEAR[name](func)}
    solve(func, y0, SHORT, **arguments)  # finds out how func can be batched, which is remembered
    func.arm()
    solution = solve(func, y0, SHORT, **arguments)
    # The last evaluation is kept to compare with later: the solve goes well without it.
    counted = {"evaluation": func.evaluations - 1, "product": func.products}
    # The first one also tries out whether func can be batched.
    expected = gradients(func, solution.y, y0, retain_graph=True)
    func.arm()
    gradients(func, solution.y, y0)
    counted_back = {"evaluation": func.evaluations, "product": func.products}

    for what, count in counted.items():
        for at in {count // 2, count}:
            func.arm(**{what: at})
            with nothing_left_behind(), pytest.raises(kind) as caught:
                solve(func, y0, SHORT, **arguments)
            assert caught.value is mishap, f"forwards, {what} {at}: the exception is not the caller's own"
            del caught
    func.arm()
    y = solve(func, y0, SHORT, **arguments).y
    gradients(func, y, y0, retain_graph=True)
    for what, count in counted_back.items():
        for at in {2, count // 2}:
            func.arm(**{what: at})
            with pytest.raises(kind) as caught:
                gradients(func, y, y0, retain_graph=True)
            assert caught.value is mishap, f"backwards, {what} {at}: the exception is not the caller's own"
            del caught
            func.arm()
            require_same(gradients(func, y, y0, retain_graph=True), expected)
    require_same(gradients(func, solve(func, y0, SHORT, **arguments).y, y0), expected)


class TroubledOwn(Own):
    """Something happens in one of its methods, from a given call on."""

    def __init__(self, func: Callable, mishap: BaseException) -> None:
        super().__init__(func)
        self._mishap, self._calls, self._where, self._at = mishap, 0, "", math.inf

    def arm(self, where: str, at: float) -> None:
        self._calls, self._where, self._at = 0, where, at

    def _call(self, where: str) -> None:
        if where == self._where:
            self._calls += 1
            if self._calls >= self._at:
                raise self._mishap

    def update(self, t: Tensor, y: Tensor, shift: float) -> None:
        self._call("update")
        super().update(t, y, shift)

    def apply(self, residual: Tensor) -> Tensor:
        self._call("apply")
        return super().apply(residual)

    def apply_transpose(self, residual: Tensor) -> Tensor:
        self._call("apply_transpose")
        return super().apply_transpose(residual)


@pytest.mark.parametrize("kind", MISHAPS)
@pytest.mark.parametrize("method", ["cn", "rosw-ra34pw2", "arkimex-3"])
def test_an_own_preconditioner_fails(method: str, kind: type[BaseException]) -> None:
    func, mishap = problem(method), kind("on the way")
    own = TroubledOwn(func.implicit if isinstance(func, Split) else func, mishap)
    y0 = waves().requires_grad_()
    arguments = {"method": method, "steps": Grid(1), "linear": GMRES(own)}
    expected = gradients(func, solve(func, y0, SHORT, **arguments).y, y0)
    for where, at in (("update", 1), ("apply", 1), ("apply", 2)):
        own.arm(where, at)
        with nothing_left_behind(), pytest.raises(kind) as caught:
            solve(func, y0, SHORT, **arguments)
        assert caught.value is mishap, f"in {where}: the exception is not the caller's own"
        del caught
    own.arm("", math.inf)
    y = solve(func, y0, SHORT, **arguments).y
    for where, at in (("update", 1), ("apply_transpose", 1), ("apply_transpose", 2)):
        own.arm(where, at)
        with pytest.raises(kind) as caught:
            gradients(func, y, y0, retain_graph=True)
        assert caught.value is mishap, f"in {where}, backwards: the exception is not the caller's own"
        del caught
        own.arm("", math.inf)
        require_same(gradients(func, y, y0, retain_graph=True), expected)


def for_ever(job: Callable[[], object]) -> None:
    """A machine that has become faster must not come to an end before the interrupt."""
    while True:
        job()


@pytest.mark.usefixtures("python_handles_ctrl_c")
@pytest.mark.parametrize("name", ["ilu", "own"])
def test_ctrl_c_at_any_time(name: str) -> None:
    """Wherever it strikes, in func, torch or PETSc: the interrupt arrives, and the next solve is right."""
    func = Troubled(Mishap())
    y0 = waves().requires_grad_()
    arguments = {"method": "cn", "steps": Grid(5), "linear": LINEAR[name](func)}

    def once() -> list[Tensor]:
        return gradients(func, solve(func, y0, T, **arguments).y, y0)

    began = time.perf_counter()
    expected = once()
    duration = time.perf_counter() - began
    for fraction in (0.2, 0.45, 0.7, 0.95):
        timer = threading.Timer(fraction * duration, _thread.interrupt_main)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            for_ever(once)
        timer.join()
    require_same(once(), expected)


# Preconditioners that return something else.


class Returning:
    """A preconditioner that returns a ``value`` of the residual, forwards, backwards or both."""

    def __init__(self, value: Callable[[Tensor], Any], forwards: bool = True, backwards: bool = True) -> None:
        self._value, self._forwards, self._backwards = value, forwards, backwards

    def apply(self, residual: Tensor) -> Any:
        return self._value(residual) if self._forwards else 0.01 * residual

    def apply_transpose(self, residual: Tensor) -> Any:
        return self._value(residual) if self._backwards else 0.01 * residual


WRONG: dict[str, Callable[[Tensor], Any]] = {
    "a part": lambda r: r[0],
    "more": lambda r: torch.cat([r, r]),
    "one number": lambda r: r.sum(),
    "an array": lambda r: r.numpy(),
    "nothing": lambda r: None,
    "a tuple": lambda r: (r, r),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_preconditioner_of_wrong_shape(what: str) -> None:
    y0 = waves().requires_grad_()
    with nothing_left_behind(), pytest.raises((ValueError, TypeError), match="preconditioner"):
        solve(Brusselator(), y0, T, method="cn", steps=Grid(1), linear=GMRES(Returning(WRONG[what])))
    backwards = GMRES(Returning(WRONG[what], forwards=False))
    y = solve(Brusselator(), y0, T, method="cn", steps=Grid(1), linear=backwards).y
    with pytest.raises((ValueError, TypeError), match="preconditioner"):
        y.sum().backward()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-ra34pw2"])
def test_a_preconditioner_that_is_not_finite(method: str, value: float) -> None:
    y0 = waves().requires_grad_()
    linear = GMRES(Returning(lambda r: value * r))
    with nothing_left_behind(), pytest.raises(SolveError, match="a residual is infinite or NaN") as caught:
        solve(Brusselator(), y0, T, method=method, steps=Fixed(0.05), linear=linear)
    assert caught.value.status is Status.LINEAR_FAILED
    y = solve(
        Brusselator(),
        y0,
        T,
        method=method,
        steps=Fixed(0.05),
        linear=GMRES(Returning(lambda r: value * r, False)),
    ).y
    with pytest.raises(LinearSolveError, match="a residual is infinite or NaN"):
        y.sum().backward()


def test_a_preconditioner_that_is_singular() -> None:
    """Zeros on the diagonal of algebraic equations: what ILU makes of them must not go unnoticed."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        a, b, x, z = y.unbind(-1)
        return torch.stack([-a + x, -b + z, z - a, x - b], dim=-1)

    mass, start = torch.tensor([1.0, 1.0, 0.0, 0.0]).double(), torch.tensor([1.0, 2.0, 2.0, 1.0]).double()
    arguments = {"method": "beuler", "steps": Grid(1), "mass": mass}
    found = solve(func, start, T, linear=GMRES(Assembled()), **arguments).y
    assert torch.allclose(found, solve(func, start, T, **arguments).y, rtol=0, atol=1e-9)


# One backward pass after another.


@pytest.mark.parametrize("before", [1e12, math.nan, math.inf])
@pytest.mark.parametrize("linear", [GMRES(), GMRES(Assembled())], ids=["none", "ilu"])
@pytest.mark.parametrize("method", ["cn", "rosw-ra34pw2"])
def test_a_backward_pass_does_not_depend_on_those_before(method: str, linear: Krylov, before: float) -> None:
    """Neither on their size, nor on their being of any use."""
    case = Case(Brusselator(), t=T)
    y = case.solve(method=method, steps=Grid(2), linear=linear).y
    inputs = list(case.inputs.values())
    expected = list(torch.autograd.grad(weighted(y), inputs, retain_graph=True))
    with nullcontext() if math.isfinite(before) else pytest.raises(LinearSolveError):
        torch.autograd.grad(before * weighted(y), inputs, retain_graph=True)
    found = torch.autograd.grad(1e-12 * weighted(y), inputs, retain_graph=True)
    require_same([1e12 * g for g in found], expected)
