"""What goes wrong in Krylov methods, in what they are given, and on the way: said clearly, and once."""

from __future__ import annotations

import _thread
import gc
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import times
from fields import TIGHT, Brusselator, Case, Own, waves, weighted
from petsc4py import PETSc
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stiffml import (
    GMRES,
    Assembled,
    Discrete,
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
from stiffml.system.graph import NotTwiceDifferentiableError

METHODS = ("cn", "bdf3", "rosw-ra34pw2", "arkimex-3", "dirk-es213sal")
T = times(0.1, 0.2, 0.3)


class Mishap(Exception):
    """Not one that anything else would raise."""


class RuntimeMishap(RuntimeError):
    """A relative of what torch raises."""


def gradients(model: nn.Module, y: Tensor, y0: Tensor, retain_graph: bool = False) -> list[Tensor]:
    return list(torch.autograd.grad(weighted(y), [y0, *model.parameters()], retain_graph=retain_graph))


def require_same(found: list[Tensor], expected: list[Tensor], bound: float = 1e-7) -> None:
    for a, b in zip(found, expected, strict=True):
        off = float((a - b).abs().max() / b.abs().max())
        assert off <= bound, f"a gradient has changed by {off:.1e}"


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """No PETSc options, once what was raised is forgotten."""
    gc.collect()
    before = PETSc.Options().getAll()
    yield
    gc.collect()
    assert PETSc.Options().getAll() == before, (
        "look at Stepper.destroy and at how _Recorded lets go of its options"
    )


# Methods that do not converge.

STALLING = GMRES(max_iterations=1, rtol=1e-10)


def problem(method: str) -> nn.Module:
    model = Brusselator()
    return model.split() if method == "arkimex-3" else model


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_stalls(method: str) -> None:
    func, steps = problem(method), Grid(2)
    with nothing_left_behind(), pytest.raises(SolveError) as caught:
        solve(func, waves(), T, method=method, steps=steps, linear=STALLING)
    error = caught.value
    assert error.status is Status.LINEAR_FAILED, f"{method}: {error}"
    assert error.t == 0.1
    assert 0 < error.h <= 0.05 * (1 + 1e-12)
    wanted = (
        r"the linear systems .* could not be solved.*: gmres stopped after 1 iterations \(too many "
        r"iterations\); last residuals: \d\.\d\de[+-]\d\d.* \(t = 0\.1, step = .*\)\. Try: .*preconditioner"
        r".*max_iterations"
    )
    assert re.search(wanted, str(error)), f"{method}: {error}"
    assert error.solution is not None
    assert len(error.solution.t) == 1

    solution = solve(func, waves(), T, method=method, steps=steps, linear=STALLING, throw=False)
    assert not solution.success
    assert solution.status is Status.LINEAR_FAILED
    assert solution.message == str(error)
    assert solution.stats.rejected > 0


@pytest.mark.parametrize("method", METHODS)
def test_adaptive_steps_do_not_go_on_with_a_method_that_stalls(method: str) -> None:
    with nothing_left_behind(), pytest.raises(SolveError, match="gmres stopped after 1 iterations") as caught:
        solve(problem(method), waves(), T, method=method, rtol=1e-4, atol=1e-6, linear=STALLING)
    assert caught.value.status is Status.LINEAR_FAILED
    assert caught.value.solution.stats.accepted < 200, "look at STALLED in forward.py"


def test_other_reasons_have_names() -> None:
    """A conjugate gradient method on a matrix that is far from symmetric."""

    def rotation(t: Tensor, y: Tensor) -> Tensor:
        return 1e4 * torch.stack([y[..., 1], -y[..., 0]], dim=-1)

    start = torch.tensor([1.0, 0.5], dtype=torch.float64)
    with pytest.raises(
        SolveError, match=r"cg stopped after \d+ iterations \((it|too|a|[a-z ]+)\); last"
    ) as caught:
        solve(
            rotation, start, T, method="cn", steps=Grid(1), linear=Krylov("cg", rtol=1e-10, max_iterations=3)
        )
    assert caught.value.status is Status.LINEAR_FAILED


LOOSE = GMRES(max_iterations=6, rtol=0.3, adjoint_rtol=1e-13)


@pytest.mark.parametrize("method", ["cn", "bdf3", "arkimex-3"])
def test_a_transposed_system_that_stalls(method: str) -> None:
    func = problem(method)
    y0 = waves().requires_grad_()
    with nothing_left_behind():
        y = solve(func, y0, T, method=method, steps=Grid(2), linear=LOOSE).y
        message = (
            r"a transposed system of the backward pass at t = 0\.\d+ could not be solved: gmres stopped "
            r"after 6 iterations \(too many iterations\); last residuals: \d.*Try: .*preconditioner"
        )
        with pytest.raises(LinearSolveError, match=message):
            y.sum().backward()
        del y
    solve(func, y0, T, method=method, steps=Grid(2), linear=GMRES()).y.sum().backward()


def test_a_recorded_system_that_stalls() -> None:
    y0 = waves().requires_grad_()
    # Newton's updates are solved more loosely than the transposed systems, and fail later.
    linear = replace(LOOSE, max_iterations=3)
    arguments = {"method": "cn", "steps": Grid(2), "linear": linear, "adjoint": Discrete(1)}
    y = solve(Brusselator(), y0, T, **arguments).y
    with pytest.raises(
        LinearSolveError, match=r"a system of a recorded step at t = 0\.\d+ could not be solved"
    ):
        y.sum().backward()


@pytest.mark.parametrize("start", [1e-9, 1.5], ids=["at the first step", "at a later one"])
def test_newtons_iteration_still_speaks_for_itself(start: float) -> None:
    def jump(t: Tensor, y: Tensor) -> Tensor:
        return -10 * torch.sign(y) - y  # once y is below 10 h, no implicit step has a solution

    y0 = start * torch.tensor([1.0, 0.7], dtype=torch.float64)
    wanted = r"Newton.* did not converge.*last updates, .*tolerance: \d"
    with pytest.raises(SolveError, match=wanted) as caught:
        solve(jump, y0, times(0, 1), method="beuler", steps=Grid(2), linear=GMRES())
    assert caught.value.status is Status.NEWTON_FAILED


def test_a_method_that_stalls_at_a_later_step() -> None:
    """There a step is cut until it ends before what makes it fail."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        spread = y.roll(1, -1) - 2 * y + y.roll(-1, -1)
        return -y if t < 0.15 else 1e12 * spread * torch.linspace(1, 2, 10, dtype=y.dtype)

    start = torch.linspace(1, 2, 10, dtype=torch.float64) ** 2
    linear = GMRES(max_iterations=2, rtol=1e-8)
    with pytest.raises(SolveError, match=r"linear systems.*gmres stopped after 2 iterations") as caught:
        solve(func, start, times(0, 0.3), method="beuler", steps=Grid(2), linear=linear)
    assert caught.value.status is Status.LINEAR_FAILED
    assert 0.1 < caught.value.t <= 0.15


@pytest.mark.parametrize("linear", [GMRES(), GMRES(Assembled()), None], ids=["gmres", "ilu", "lu"])
def test_a_solution_that_blows_up(linear: Krylov | None) -> None:
    start = torch.linspace(0.5, 1, 8, dtype=torch.float64)
    jacobian = "coloured" if linear is None else "auto"
    with pytest.raises(SolveError) as caught:
        solve(lambda t, y: y**2, start, times(0, 1.5), method="bdf", linear=linear, jacobian=jacobian)
    assert 0.99 < caught.value.t < 1.01, f"{caught.value}"


@pytest.mark.parametrize(
    "arguments",
    [{"linear": GMRES()}, {"linear": GMRES(Assembled())}, {"jacobian": "coloured"}],
    ids=["gmres", "ilu", "coloured"],
)
def test_a_start_that_is_not_finite(arguments: dict[str, Any]) -> None:
    with pytest.raises(SolveError, match="func or the state became infinite or NaN") as caught:
        solve(lambda t, y: torch.log(-y), torch.ones(8).double(), T, method="cn", steps=Grid(1), **arguments)
    assert caught.value.status is Status.NON_FINITE


# Functions that cannot be differentiated twice.


class Cubed(torch.autograd.Function):
    """With a backward that torch knows it cannot differentiate."""

    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return y**3

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return 3 * y**2 * cotangent


class SilentlyCubed(Cubed):
    """With a backward that leaves torch, and so passes for a constant."""

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.from_numpy(3 * y.detach().numpy() ** 2 * cotangent.detach().numpy())


class OpenlyCubed(Cubed):
    """With a backward that torch refuses to leave with a gradient."""

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.from_numpy(3 * y.detach().numpy() ** 2 * cotangent.numpy())


class Closure(nn.Module):
    """A Brusselator and a sink with an operation of one's own."""

    def __init__(self, operation: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.model, self.operation = Brusselator(), operation

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.model(t, y) - 0.1 * self.operation.apply(y)


@pytest.mark.parametrize("linear", [GMRES(), GMRES(PointBlock()), Krylov("bcgs", Assembled())], ids=str)
@pytest.mark.parametrize("operation", [Cubed, SilentlyCubed, OpenlyCubed], ids=lambda o: o.__name__)
@pytest.mark.parametrize("method", ["cn", "dirk-es213sal"])
def test_what_cannot_be_differentiated_twice(method: str, operation: Any, linear: Krylov) -> None:
    func = Closure(operation)
    message = (
        rf"func cannot be differentiated twice.*\b{operation.__name__}\b.*jacobian='coloured' or 'dense'"
    )
    with nothing_left_behind(), pytest.raises(NotTwiceDifferentiableError, match=f"(?s){message}"):
        solve(func, waves(), T, method=method, steps=Grid(1), linear=linear)


@pytest.mark.parametrize("operation", [Cubed, SilentlyCubed], ids=lambda o: o.__name__)
def test_what_to_do_instead(operation: Any) -> None:
    """First derivatives are enough for a Jacobian of rows."""
    found = []
    for func in (Closure(operation), Closure(torch.autograd.Function)):
        if func.operation is torch.autograd.Function:
            func.forward = lambda t, y, model=func.model: model(t, y) - 0.1 * y**3  # type: ignore[method-assign]
        for jacobian in ("coloured", "dense"):
            y0 = waves().requires_grad_()
            y = solve(func, y0, T, method="cn", steps=Grid(1), newton=TIGHT, jacobian=jacobian).y
            found.append(gradients(func, y, y0))
    for others in found[1:]:
        require_same(others, found[0])


# Exceptions on the way.


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
    solution = solve(func, y0, SHORT, **arguments)
    counted = {"evaluation": func.evaluations, "product": func.products}
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
