"""How fast adaptive steps may grow: stable on all steps that are allowed, and no slower than that needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stiffml import BDF, METHODS, solve

D = torch.float64
ORDERS = (3, 4, 5)


def derivatives(times: np.ndarray) -> np.ndarray:
    """(k + 1,) the derivatives at times[0] of the Lagrange basis on (k + 1,) times, from the definition."""
    found = np.empty(len(times))
    for i in range(len(times)):
        basis = np.polynomial.Polynomial([1.0])
        for j in range(len(times)):
            if j != i:
                # times are taken relative to times[0]
                basis *= np.polynomial.Polynomial([-(times[j] - times[0]), 1.0]) / (times[i] - times[j])
        found[i] = basis.deriv()(0.0)
    return found


def amplification(times: np.ndarray, order: int) -> float:
    """The largest factor by which BDF for y' = 0 amplifies an error of one state, on these step ends."""
    states = [times[0], (times[0] + times[1]) / 2]
    responses = list(np.eye(len(times) + 1)[:2])  # of each state, to errors of itself and all others
    for n, end in enumerate(times[1:], 2):
        back = states[::-1][:order]
        scale = end - back[-1]
        alpha = derivatives(np.array([0.0, *((s - end) / scale for s in back)]))
        new = -sum(a * r for a, r in zip(alpha[1:], responses[::-1], strict=False)) / alpha[0]
        new[n] += 1.0
        states.append(end)
        responses.append(new)
    return float(np.abs(responses).max())


def step_ends(t: Tensor, ends: tuple) -> np.ndarray:
    times = t.numpy()
    inner = [a + np.asarray(part) * (b - a) for a, b, part in zip(times[:-1], times[1:], ends, strict=True)]
    return np.concatenate([times[:1], *inner])


def robertson(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    first, second, third = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack([second - first, first - second - third, third], -1)


def oscillator(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1], 100 * (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0]], -1)


OUTPUTS = {
    "end only": [0.0, 100.0],
    "even": [2.5 * i for i in range(41)],
    "by decades": [0.0, *(10.0 ** (i / 5 - 5) for i in range(36))],
    "in pairs": [0.0, *(s for i in range(1, 9) for s in (10.0 * i, 10.0 * i + 1e-3))],
}


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("func", [robertson, oscillator])
@pytest.mark.parametrize("order", ORDERS)
def test_errors_of_states_are_not_amplified(order: int, func, outputs: str) -> None:
    t = torch.tensor(OUTPUTS[outputs], dtype=D)
    y0 = torch.tensor([1.0, 0, 0] if func is robertson else [2.0, 0], dtype=D)
    solution = solve(func, y0, t, method=f"bdf{order}", rtol=1e-6, atol=1e-9)
    assert solution.success
    # Three of sixteen digits at most. Steps that double one after the other cost many more, see below.
    assert amplification(step_ends(t, solution.steps.ends), order) < 1000


@pytest.mark.parametrize("order", ORDERS)
def test_growth_without_a_limit_amplifies(order: int) -> None:
    times = np.concatenate([[0.0], np.cumsum(2.0 ** np.arange(30))])
    assert amplification(times, order) > (1e2, 1e5, 1e7)[order - 3]


@pytest.mark.parametrize("order", ORDERS)
def test_a_step_may_be_as_long_as_before_a_short_one(order: int) -> None:
    limit = BDF(order).growth_limit()
    for _ in range(order):
        limit.next_size(1.0, 1.0)
    assert limit.next_size(0.5, 1.0) == 1.0, "the step before the short one counts"
    assert limit.next_size(0.01, 1.0) == pytest.approx(0.01 * BDF(order).jump), "not by any ratio"


@pytest.mark.parametrize("order", ORDERS)
def test_after_a_cut_steps_grow_slowly(order: int) -> None:
    limit = BDF(order).growth_limit()
    for _ in range(order):
        limit.next_size(1.0, 1.0)
    assert limit.next_size(0.5, 1.0, cut=True) == pytest.approx(0.5 * BDF(order).growth)


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].adaptive])
def test_growth_that_goes_on(name: str) -> None:
    method = METHODS[name]
    limit, size = method.growth_limit(), 1.0
    sizes = [size]
    for _ in range(20):
        sizes.append(size := limit.next_size(size, 1.9 * size))
    wanted = min(1.9, method.growth)
    np.testing.assert_allclose(np.array(sizes[1:]) / sizes[:-1], wanted, rtol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_runs_side_by_side_are_limited_each_by_itself(order: int) -> None:
    random = np.random.default_rng(order)
    together, alone = BDF(order).growth_limit(3), [BDF(order).growth_limit() for _ in range(3)]
    for _ in range(30):
        runs = np.flatnonzero(random.random(3) < 0.7)
        sizes, wanted = random.random(len(runs)), 3 * random.random(len(runs))
        cut = random.random(len(runs)) < 0.2
        each = [alone[i].next_size(h, w, c) for i, h, w, c in zip(runs, sizes, wanted, cut, strict=True)]
        np.testing.assert_array_equal(together.after(runs, sizes, wanted, cut), each)


def test_outputs_do_not_keep_steps_short() -> None:
    """Landing on 40 outputs shortens steps; growing by 1.12 only after each took 287 steps, not about 200."""
    t = torch.cat([torch.zeros(1, dtype=D), torch.logspace(-5, 2, 40, dtype=D)])
    atol = torch.tensor([1e-8, 1e-12, 1e-8], dtype=D)
    y0 = torch.tensor([1.0, 0, 0], dtype=D)
    solution = solve(robertson, y0, t, method="bdf5", rtol=1e-6, atol=atol)
    assert solution.stats.accepted < 220
