"""A function made anew for every solve is the same if its code and what it is made of are the same."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from remembering import Y0, D, Func, T, counted_checks, run
from torch import Tensor, nn

from stiffml import Grid, solve
from stiffml.system.function import cache


@pytest.fixture
def checks() -> Iterator[list[int]]:
    with counted_checks() as found:
        yield found


def scaled(factor: float, weight: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return -factor * weight * y


def around(net: nn.Module) -> Callable:
    return lambda t, y: net(t, y)


def with_default(net: nn.Module) -> Callable:
    def func(t: Tensor, y: Tensor, inner: nn.Module = net) -> Tensor:
        return inner(t, y)

    return func


def nested(net: nn.Module) -> Callable:
    def inner(t: Tensor, y: Tensor) -> Tensor:
        return net(t, y)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return inner(t, y)

    return func


def over_tensor(weight: Tensor) -> Callable:
    return lambda t, y: -weight * y


def partial(weight: Tensor) -> Callable:
    return functools.partial(scaled, 2.0, weight)


def named(weight: Tensor) -> Callable:
    return functools.partial(lambda t, y, weight: -weight * y, weight=weight)


OF_MODULES = (around, with_default, nested)
OF_TENSORS = (over_tensor, partial, named)


def part(make: Callable, seed: int = 0) -> nn.Module | Tensor:
    if make in OF_MODULES:
        return Func()
    return torch.tensor(1.0 + seed, dtype=D, requires_grad=True)


@pytest.mark.parametrize("stepping", ["auto", "sequential"])
@pytest.mark.parametrize("make", [*OF_MODULES, *OF_TENSORS])
def test_made_anew_of_the_same_it_is_checked_once(make: Callable, stepping: str, checks: list[int]) -> None:
    made_of = part(make)
    parameters = [made_of] if isinstance(made_of, Tensor) else list(made_of.parameters())
    values, found = [], []
    for _ in range(3):
        solution = solve(make(made_of), Y0, T, method="cn", steps=Grid(), stepping=stepping)
        values.append(solution.y.detach())
        found.append(torch.autograd.grad(solution.y.sum(), parameters))
    assert len(checks) == 1
    torch.testing.assert_close(values[1:], values[:1] * 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1:], found[:1] * 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", [*OF_MODULES, *OF_TENSORS])
def test_made_of_another_it_is_another(make: Callable, checks: list[int]) -> None:
    made_of = part(make)
    run(make(made_of)), run(make(made_of))
    other = part(make, 1)
    if isinstance(other, Func):
        other.factor = 2.0
    (one, two) = run(make(other)), run(make(made_of))
    assert len(checks) == 2
    assert not torch.allclose(one.y[1:], two.y[1:], rtol=1e-3)
    inputs = [other] if isinstance(other, Tensor) else list(other.parameters())
    assert any(g is not None for g in torch.autograd.grad(one.y.sum(), inputs, allow_unused=True))


def test_a_number_in_the_closure_is_read(checks: list[int]) -> None:
    weight = torch.ones((), dtype=D, requires_grad=True)

    def made(factor: float) -> Callable:
        return lambda t, y: -factor * weight * y

    ends = [run(made(factor)).y[-1, 0].item() for factor in (1.0, 2.0, 1.0, 2.0)]
    assert ends[0] == ends[2] != ends[1] == ends[3]
    assert len(checks) == 2


def test_a_variable_that_changes_is_read() -> None:
    """The cell stays, what is in it does not."""
    weight = torch.ones((), dtype=D, requires_grad=True)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -weight * y

    first = [run(func) for _ in range(2)]
    weight = torch.full((), 2.0, dtype=D, requires_grad=True)
    second = run(func)
    assert second.y[-1, 0] < first[-1].y[-1, 0]
    assert torch.autograd.grad(second.y.sum(), weight)[0] != 0


def test_the_code_counts() -> None:
    weight = torch.ones((), dtype=D, requires_grad=True)
    one, two = (lambda t, y: -weight * y), (lambda t, y: -2 * weight * y)
    for _ in range(2):
        assert run(two).y[-1, 0] < run(one).y[-1, 0]


def test_what_is_no_object_of_its_own_is_not_compared(checks: list[int]) -> None:
    """A list may be another one at the place of the last."""
    weight = torch.ones((), dtype=D, requires_grad=True)

    def made() -> Callable:
        held = [weight]
        return lambda t, y: -held[0] * y

    run(made()), run(made())
    assert len(checks) == 2


def test_trials_are_made_again_if_the_module_has_changed() -> None:
    func = Func()
    for _ in range(3):
        run(around(func))
    func.train()
    with pytest.raises(ValueError, match="returned two values"):
        run(around(func))


def test_nothing_is_kept_alive() -> None:
    func = Func()
    run(around(func)), run(around(func))
    there = weakref.ref(func)
    del func
    gc.collect()
    assert there() is None, "look at what cache.py holds"


def test_few_functions_without_a_module_are_kept() -> None:
    for seed in range(cache.FUNCTIONS + 3):
        run(over_tensor(part(over_tensor, seed)))
    assert len(cache._WITHOUT_MODULE) <= cache.FUNCTIONS
