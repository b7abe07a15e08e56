"""Checked arguments are used again by the next solve of a training; a function that changes is noticed."""

from __future__ import annotations

import functools
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from remembering import Y0, D, Func, T, counted_checks, fresh, gradients, run
from torch import Tensor, nn

from stiffml import Grid, Newton, ReplayError, Split, solve
from stiffml.interface.remembered import KEPT, SOLVES


@pytest.fixture
def checks() -> Iterator[list[int]]:
    with counted_checks() as found:
        yield found


@pytest.mark.parametrize("method", ["cn", "beuler", "bdf3", "dirk-es325sal", "theta"])
@pytest.mark.parametrize("compile_", [False, True])
def test_the_solves_of_a_training_are_checked_once_and_again_after_a_while(
    method: str, compile_: bool, checks: list[int]
) -> None:
    """With the values and gradients of functions of which nothing is remembered."""
    if compile_:
        pytest.importorskip("casadi")
    func, guess, full = Func(), None, []
    run(func, method=method, compile=compile_)  # without a guess: another kind
    guess = run(func, method=method, compile=compile_)
    for number in range(SOLVES + 3):
        checks.clear()
        y0 = Y0 + 0.01 * number
        solution = run(func, y0, method=method, compile=compile_, guess=guess)
        full.append(len(checks))
        found = gradients(func, solution)
        if number % 12 == 1:
            again = fresh(func)
            other = run(again, y0, method=method)
            torch.testing.assert_close(solution.y, other.y, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(found, gradients(again, other), rtol=1e-7, atol=1e-10)
            assert solution.stats.accepted == other.stats.accepted
            assert solution.stats.rhs_evals < 20 * len(T), "counts of solves before are in it"
        with torch.no_grad():
            for parameter in func.parameters():
                parameter -= 0.01 * parameter.grad
        guess = solution
    assert full == [1, *[0] * SOLVES, 1, 0], f"{full}: look at recall in interface/remembered.py"


def _factor(func: Func) -> None:
    func.factor = 2.0


def _table(func: Func) -> None:
    func.table[0] = 3.0


def _buffer(func: Func) -> None:
    func.rates = torch.tensor([3.0, 1.0], dtype=D)


def _parameter(func: Func) -> None:
    func.inner[0].weight = nn.Parameter(0.5 * func.inner[0].weight.detach())


def _added(func: Func) -> None:
    func.other = nn.Parameter(torch.tensor(0.5, dtype=D))


def _leaf(func: Func) -> None:
    func.other = torch.tensor(0.5, dtype=D, requires_grad=True)


def _frozen(func: Func) -> None:
    func.inner[0].weight.requires_grad_(False)


def _module(func: Func) -> None:
    func.inner[1] = nn.Softplus()


def _dead_module(func: Func) -> None:
    del func.inner[1]
    gc.collect()
    func.inner.insert(1, nn.Sigmoid())


def _hook(func: Func) -> None:
    func.inner[0].register_forward_hook(lambda module, inputs, value: torch.sin(value))


def _forward(func: Func) -> None:
    func.forward = lambda t, y: -y * func.rates  # type: ignore[method-assign]


CHANGES = [
    _factor,
    _table,
    _buffer,
    _parameter,
    _added,
    _leaf,
    _frozen,
    _module,
    _dead_module,
    _hook,
    _forward,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__[1:])
def test_a_function_that_changes_is_checked_in_full(change: Callable, checks: list[int]) -> None:
    func = Func()
    for _ in range(3):
        gradients(func, run(func))
    assert len(checks) == 1
    change(func)
    solution = run(func)
    assert len(checks) == 2
    # One by one nothing is remembered.
    other = solve(func, Y0, T, method="cn", steps=Grid(), stepping="sequential")
    torch.testing.assert_close(solution.y, other.y, rtol=1e-8, atol=1e-9)
    inputs = [parameter for parameter in func.parameters() if parameter.requires_grad]
    found, wanted = (
        torch.autograd.grad((one.y**2).sum(), inputs, allow_unused=True) for one in (solution, other)
    )
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)


def test_an_array_that_is_read_unseen_still_acts() -> None:
    """Its numbers are no argument, and come with the function."""
    held = SimpleNamespace(__slots__=())
    held.values = np.ones(20_000)  # more than are compared
    weight = torch.ones((), dtype=D, requires_grad=True)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -weight * float(held.values[0]) * y

    run(func), run(func)
    held.values[0] = 3.0
    torch.testing.assert_close(run(func).y[-1], Y0 * ((1 - 0.15) / (1 + 0.15)) ** 10, rtol=1e-8, atol=0)


def test_a_mode_that_changes_is_noticed() -> None:
    func = Func()
    run(func), run(func)
    func.train()
    with pytest.raises(ValueError, match="returned two values"):
        run(func)


def test_statistics_in_training_mode_are_noticed() -> None:
    norm = nn.BatchNorm1d(2, dtype=D)
    norm.eval()
    func = nn.Sequential(norm, nn.Linear(2, 2, dtype=D))

    def on_samples(t: Tensor, y: Tensor) -> Tensor:
        return func(y)

    y0 = torch.rand(3, 2, dtype=D, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        solve(on_samples, y0, T, method="cn", steps=Grid())
    norm.train()
    with pytest.raises(ValueError, match="running mean"):
        solve(on_samples, y0, T, method="cn", steps=Grid())


def test_a_gradient_by_the_initial_state() -> None:
    func = Func()
    run(func), run(func)
    y0 = Y0.clone().requires_grad_()
    (found,) = torch.autograd.grad((run(func, y0).y ** 2).sum(), y0)
    (wanted,) = torch.autograd.grad((run(fresh(func), y0).y ** 2).sum(), y0)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_parameters_that_are_named_and_used_later_get_gradients() -> None:
    """Also one that begins to require a gradient between two solves."""
    late = torch.tensor(0.5, dtype=D)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -y * scale - torch.where(t > 0.5, late, torch.zeros_like(late)) * y

    scale = torch.tensor(1.0, dtype=D, requires_grad=True)
    run(func, params=(late,)), run(func, params=(late,))
    late.requires_grad_()
    (found,) = torch.autograd.grad(run(func, params=(late,)).y.sum(), late)
    assert found.abs() > 0


def test_two_solves_before_one_backward_pass() -> None:
    func = Func()
    run(func)
    alone = [gradients(func, run(func, y0)) for y0 in (Y0, 2 * Y0)]
    one, two = run(func), run(func, 2 * Y0)
    assert one.pieces[0].tape.replay.system is not two.pieces[0].tape.replay.system
    for parameter in func.parameters():
        parameter.grad = None
    ((one.y**2).sum() + (two.y**2).sum()).backward()
    for parameter, a, b in zip(func.parameters(), *alone, strict=True):
        torch.testing.assert_close(parameter.grad, a + b, rtol=1e-12, atol=1e-14)
    counts = [solution.stats.rhs_evals for solution in (one, two)]
    assert max(counts) < 2 * min(counts)


def test_a_function_changed_before_the_backward_pass_is_an_error() -> None:
    func = Func()
    for number in range(3):
        solution = run(func)
        if number:
            func.factor *= 1.001
            with pytest.raises(ReplayError, match="func changed between"):
                solution.y.sum().backward()


def test_solves_within_func() -> None:
    inner = Func()

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            end = solve(self.inner, y, T[:5], method="cn", steps=Grid())
            return end.y[-1] - y

    outer = Outer()
    found = [solve(outer, Y0, T[:5], method="cn", steps=Grid(), stepping="all-at-once").y for _ in range(3)]
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[2], found[0], rtol=1e-12, atol=1e-12)


def test_threads() -> None:
    func, found = Func(), {}
    wanted = [run(fresh(func), (1 + k) * Y0).y for k in range(4)]
    run(func)

    def work(k: int) -> None:
        for _ in range(12):
            solution = run(func, (1 + k) * Y0)
            torch.autograd.grad(solution.y.sum(), list(func.parameters()))
            found[k] = solution.y.detach()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, value in enumerate(wanted):
        torch.testing.assert_close(found[k], value.detach(), rtol=1e-12, atol=1e-13)


def test_equal_functions_are_not_taken_for_one(checks: list[int]) -> None:
    class Equal:
        def __init__(self, rate: float) -> None:
            self.rate = [rate]
            self.weight = torch.ones((), dtype=D, requires_grad=True)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        def __hash__(self) -> int:
            return 1

        def __call__(self, t: Tensor, y: Tensor) -> Tensor:
            return -self.rate[0] * self.weight * y

    one, two = Equal(1.0), Equal(2.0)
    run(one), run(one), run(two)
    assert len(checks) == 2
    assert run(two).y[-1, 0] < run(one).y[-1, 0]


def test_functions_and_partials_and_methods(checks: list[int]) -> None:
    func = Func()
    weight = torch.ones((), dtype=D, requires_grad=True)

    def scaled(factor: float, t: Tensor, y: Tensor) -> Tensor:
        return -factor * weight * y

    for one in (func.forward, functools.partial(scaled, 2.0), lambda t, y: scaled(1.0, t, y)):
        checks.clear()
        values = [run(one).y for _ in range(3)]
        assert len(checks) == 1
        torch.testing.assert_close(values[2], values[0], rtol=0, atol=0)


def test_a_split_that_becomes_linear() -> None:
    def implicit(t: Tensor, y: Tensor) -> Tensor:
        return -weight * y**2

    weight = torch.ones((), dtype=D, requires_grad=True)
    split = Split(implicit, lambda t, y: 0.1 * y)
    arguments = {"method": "arkimex-3", "steps": Grid(), "stepping": "all-at-once"}
    for _ in range(3):
        solve(split, Y0, T, **arguments)
    split.linear = True
    with pytest.raises(ValueError, match="linear=True"):
        solve(split, Y0, T, **arguments)


def test_a_function_is_not_kept_alive() -> None:
    func = Func()
    gradients(func, run(func))
    run(func)
    there = weakref.ref(func)
    del func
    gc.collect()
    assert there() is None, "interface/remembered.py keeps a function alive"


def test_few_kinds_are_kept(checks: list[int]) -> None:
    func = Func()
    for _ in range(2):
        for number in range(KEPT + 1):
            run(func, newton=Newton(rtol=1e-10 / (1 + number)))
    assert len(checks) == 2 * (KEPT + 1)
