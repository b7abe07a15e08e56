"""Steady states: against long solves and closed forms, with gradients; conserved sums; what has none."""

from __future__ import annotations

import pytest
import torch
from small_problems import times
from torch import Tensor

from stiffml import SolveError, Split, Status, solve, steady_state

D = torch.float64


def closed(k: Tensor):
    """A ⇌ B by k₀ A, k₁ B C; B ⇌ C by k₂ B, k₃ C: A + B + C is conserved."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        first, second = k[..., 0] * a - k[..., 1] * b * c, k[..., 2] * b - k[..., 3] * c
        return torch.stack([-first, first - second, second], dim=-1)

    return func


def compared(of, inputs: list[Tensor], within: float = 1e-6) -> None:
    """A gradient with central differences."""
    weights = torch.linspace(0.4, 1.3, of(*inputs).numel(), dtype=D)

    def loss(*given: Tensor) -> Tensor:
        return (of(*given).flatten() * weights).sum()

    found = torch.autograd.grad(loss(*inputs), inputs)
    for i, (p, gradient) in enumerate(zip(inputs, found, strict=True)):
        e = 1e-5
        for j in range(p.numel()):
            moved = []
            for sign in (e, -e):
                other = [q.detach().clone() for q in inputs]
                other[i].view(-1)[j] += sign
                moved.append(loss(*other).item())
            right = (moved[0] - moved[1]) / (2 * e)
            assert abs(gradient.view(-1)[j].item() - right) <= within * max(1.0, abs(right)), (
                f"input {i}, {j}"
            )


def test_a_closed_network_against_a_long_solve() -> None:
    k, y0 = times(0.1, 0.1, 0.1, 0.1), times(100, 1, 1)
    found = steady_state(closed(k), y0)
    late = solve(closed(k), y0, times(0, 1e6), rtol=1e-9, atol=1e-11).y[-1]
    assert torch.allclose(found.y, late, rtol=1e-6)
    b = 103**0.5 - 1
    assert torch.allclose(found.y, times(b * b, b, b), rtol=1e-11)
    assert abs(found.y.sum().item() - 102) <= 1e-11 * 102
    assert torch.allclose(found.totals.abs(), torch.full((1, 3), 3**-0.5, dtype=D))
    assert found.residual <= 1e-10


def test_gradients_by_parameters_and_the_start() -> None:
    k, y0 = times(0.13, 0.1, 0.2, 0.07).requires_grad_(), times(5, 1, 2).requires_grad_()
    compared(lambda k, y0: steady_state(closed(k), y0).y, [k, y0])


def test_sums_whose_weights_are_parameters() -> None:
    """Two compartments of volumes v: v₀ y₀ + v₁ y₁ is conserved, and changes with v."""
    v, y0 = times(2.0, 5.0).requires_grad_(), times(3, 1).requires_grad_()

    def exchange(v: Tensor):
        return lambda t, y: (y[0] ** 2 - 2 * y[1]) * torch.stack([-1 / v[0], 1 / v[1]])

    compared(lambda v, y0: steady_state(exchange(v), y0).y, [v, y0])


def test_an_open_system_forgets_its_start() -> None:
    k, y0 = times(2.0, 3.0).requires_grad_(), times(7, 7).requires_grad_()
    func = lambda k: lambda t, y: torch.stack([k[0] - y[0] * y[1], y[0] - k[1] * y[1] ** 2])  # noqa: E731
    found = steady_state(func(k), y0)
    assert found.totals.shape == (0, 2)
    compared(lambda k: steady_state(func(k), y0.detach()).y, [k])
    (zero,) = torch.autograd.grad(found.y.sum(), y0, allow_unused=True)
    assert zero is None or not zero.any()


@pytest.mark.parametrize("start", [0.4, 0.6, 3.0, -2.0])
def test_the_one_that_the_solution_goes_to(start: float) -> None:
    """y' = −1000 y (y − 0.5) (y − 1): 0 and 1 attract."""
    found = steady_state(lambda t, y: -1000 * y * (y - 0.5) * (y - 1), times(start))
    assert found.y.item() == pytest.approx(float(start > 0.5), abs=1e-10)


def test_batches_tuples_single_precision_and_splits() -> None:
    starts = torch.tensor([[100.0, 1, 1], [1, 50, 3], [0.1, 0.1, 0.1]], dtype=D)
    k = torch.rand(3, 4, dtype=D, generator=torch.Generator().manual_seed(1)) + 0.1
    together = steady_state(closed(k), starts, batch_dims=1)
    alone = [steady_state(closed(rates), y0).y for rates, y0 in zip(k, starts, strict=True)]
    assert torch.allclose(together.y, torch.stack(alone), rtol=1e-9)
    assert together.totals.shape == (3, 1, 3)
    pair = steady_state(lambda t, y: (2 - y[0], y[0] - y[1]), (times(5), times(5)))
    assert [part.item() for part in pair.y] == pytest.approx([2, 2])
    single = steady_state(closed(k[0].float()), starts[0].float())
    assert torch.allclose(single.y.double(), alone[0], rtol=1e-3)
    halves = steady_state(Split(lambda t, y: -y, lambda t, y: 3 + 0 * y), times(0))
    assert halves.y.item() == pytest.approx(3)
    still = steady_state(lambda t, y: -y, times(0, 0))
    assert not still.y.any()


def test_robertson_is_stiff() -> None:
    k = times(0.04, 3e7, 1e4).requires_grad_()

    def func(t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        r1, r2, r3 = k[0] * a, k[1] * b**2, k[2] * b * c
        return torch.stack([-r1 + r3, r1 - r2 - r3, r2 - 1e-3 * c], dim=-1) + torch.stack(
            [1e-3 * c, 0 * a, 0 * a], -1
        )

    found = steady_state(func, times(1, 0, 0), atol=1e-16)
    late = solve(func, times(1, 0, 0), times(0, 1e9), rtol=1e-9, atol=1e-14).y[-1]
    assert torch.allclose(found.y, late, rtol=1e-5)
    assert found.y.sum().item() == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize(
    ("func", "status", "said"),
    [
        (lambda t, y: torch.stack([y[1], -y[0]]), Status.MAX_STEPS, "300 implicit Euler steps were taken"),
        (lambda t, y: 0 * y + times(1, 2), Status, "no steady state was found"),
        (lambda t, y: torch.stack([-(y[0] ** 3), -y[1]]), Status, "no steady state was found"),
    ],
    ids=["oscillation", "growth", "cube"],
)
def test_what_has_no_steady_state(func, status, said: str) -> None:
    with pytest.raises(SolveError, match=said) as found:
        steady_state(func, times(1, 0.5), max_steps=300)
    assert found.value.component is not None
    assert "changes at a rate of" in str(found.value)
    if isinstance(status, Status):
        assert found.value.status is status


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="func must be callable"):
        steady_state(1.0, times(1))
    with pytest.raises(ValueError, match="rtol must be"):
        steady_state(lambda t, y: -y, times(1), rtol=-1)
    k = times(2.0).requires_grad_()
    y = steady_state(lambda t, y: k**2 - y, times(1)).y
    (once,) = torch.autograd.grad(y.sum(), k, create_graph=True)
    assert once.item() == pytest.approx(4)
    with pytest.raises(RuntimeError, match="the gradient of steady_state"):
        torch.autograd.grad(once.sum(), k)
