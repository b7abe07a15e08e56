"""Numbers of any kind, transforms of torch, and spans and steps that double precision does not resolve."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import decay, times
from torch import Tensor

from stiffml import (
    BDF,
    GMRES,
    Adaptive,
    Discrete,
    Disk,
    Fixed,
    Grid,
    Newton,
    ODEBlock,
    Recorded,
    Theta,
    solve,
)

Y0, T = times(1, 2), times(0, 0.5, 1)
CHEAP = {"method": "cn", "steps": Grid(1)}


@pytest.mark.parametrize(
    "numbers",
    [
        lambda x: np.float64(x) if isinstance(x, float) else np.int64(x),
        lambda x: np.float32(x) if isinstance(x, float) else np.uint8(x),
        lambda x: torch.tensor(x, dtype=torch.float64 if isinstance(x, float) else torch.int64),
        lambda x: np.array(x),
    ],
    ids=["numpy", "numpy, short", "torch", "0-d array"],
)
def test_numbers_of_any_kind(numbers: Callable[[Any], Any]) -> None:
    """What has one number is one, and becomes Python's."""
    n = numbers
    assert Fixed(n(0.25)) == Fixed(0.25)
    assert Grid(n(3)) == Grid(3)
    assert BDF(n(2)) == BDF(2)
    assert Theta(n(0.5)) == Theta(0.5)
    assert Discrete(n(4)) == Discrete(4)
    assert Newton(rtol=n(0.5), max_iterations=n(7)) == Newton(rtol=0.5, max_iterations=7)
    assert Adaptive(n(0.5), maximum=n(1.0), max_steps=n(9)) == Adaptive(0.5, maximum=1.0, max_steps=9)
    assert GMRES(rtol=n(0.5), restart=n(5)) == GMRES(rtol=0.5, restart=5)
    assert type(Fixed(n(0.25)).h) is float
    assert type(Grid(n(3)).substeps) is int
    batch = Y0[:, None]
    y = solve(decay, batch, T, rtol=n(0.25), atol=n(0.25), batch_dims=n(1)).y
    assert torch.equal(y, solve(decay, batch, T, rtol=0.25, atol=0.25, batch_dims=1).y)


@pytest.mark.parametrize(
    ("t", "atol"),
    [
        ([0, 0.1, 0.3], [1e-6, 1e-7]),
        ((0.0, 0.1, 0.3), (1e-6, 1e-7)),
        (np.array([0, 0.1, 0.3]), np.array([1e-6, 1e-7])),
    ],
    ids=["list", "tuple", "array"],
)
def test_numbers_in_sequences_are_taken_in_double_precision(t: Any, atol: Any) -> None:
    """torch would make single precision of a list, and 0.1 another time."""
    y = solve(decay, Y0, times(0, 0.1, 0.3), atol=times(1e-6, 1e-7)).y
    found = solve(decay, Y0, t, atol=atol)
    assert torch.equal(found.y, y)
    assert torch.equal(ODEBlock(decay, t, atol=atol)(Y0), y)
    assert found.t.dtype is torch.float64
    assert torch.equal(found.interpolate([0.1, 0.2]), found.interpolate(times(0.1, 0.2)))


def test_views_with_a_sign_to_apply() -> None:
    """Imaginary parts of conjugates are lazily negated: as a state, in func, as a gradient."""

    def lazy(x: Tensor) -> Tensor:
        found = torch.complex(torch.zeros_like(x), -x).conj().imag
        assert found.is_neg()
        return found

    def negated(t: Tensor, y: Tensor) -> Tensor:
        return lazy(decay(t, y))

    plain, signed = Y0.clone().requires_grad_(), Y0.clone().requires_grad_()
    expected = solve(decay, plain, T, mass=times(1, 2), method="cn", steps=Grid(2)).y
    found = solve(negated, lazy(signed), lazy(T), mass=lazy(times(1, 2)), method="cn", steps=Grid(2)).y
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    (wanted,) = torch.autograd.grad(expected, plain, torch.ones_like(expected))
    (gradient,) = torch.autograd.grad(found, signed, lazy(torch.ones_like(found)))
    torch.testing.assert_close(gradient, wanted, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ((0.0, 1e-300), r"span .* 1e-300 long.*unit of time"),
        ((0.0, 1e300), r"span .* 1e\+300 long.*unit of time"),
        ((-1e308, 1e308), "span .* inf long"),
        ((1e15, 1e15 + 1), r"has only 8 times in a span of 1.*count time from t\[0\]"),
        ((-1e17, -1e17 + 100), "has only"),
    ],
)
@pytest.mark.parametrize("arguments", [{}, {"method": "dopri5"}, CHEAP, {"breakpoints": [0.5]}], ids=str)
def test_spans_that_mean_nothing(span: tuple[float, float], message: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^t: .*{message}"):
        solve(decay, Y0, times(*span), **arguments)


@pytest.mark.parametrize("span", [(0.0, 1e-30), (0.0, 1e30), (1e12, 1e12 + 1), (-1e-20, 0.0)])
@pytest.mark.parametrize("method", ["bdf", "bdf6", "dopri5", "rosw-ra34pw2", "cn"])
def test_spans_that_do(span: tuple[float, float], method: str) -> None:
    """Far from ordinary, in either direction: y' = -y/span, of which e⁻¹ is left."""
    length = span[1] - span[0]
    steps = {} if method == "dopri5" else {"steps": Grid(50)}
    y0 = Y0.clone().requires_grad_()
    y = solve(lambda t, y: -y / length, y0, times(*span), method=method, **steps).y
    torch.testing.assert_close(y[-1].detach(), Y0 * math.exp(-1), rtol=1e-3, atol=0)
    (gradient,) = torch.autograd.grad(y[-1].sum(), y0)
    torch.testing.assert_close(gradient, torch.full_like(Y0, math.exp(-1)), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (Fixed(1e-12), r"Fixed\(1e-12\) makes 1e\+12 steps.*GiB are free.*longer steps"),
        (Fixed(1e-320), r"Fixed\(.*makes inf steps"),
        (Grid(10**14), r"Grid\(100000000000000\) makes 1e\+14 steps"),
        (Grid(2**62), "steps, which take at least"),
    ],
)
def test_more_steps_than_memory_holds(steps: Any, message: str) -> None:
    """Before anything is allocated, whatever is kept of them."""
    for kept in ("stages", "solutions", 20, Disk("/tmp")):
        wanted = message if isinstance(kept, str) else message.split(".*longer")[0]
        with pytest.raises(ValueError, match=rf"^steps: .*{wanted}"):
            solve(decay, Y0, times(0, 1), method="cn", steps=steps, adjoint=Discrete(kept))


def test_states_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stiffml.interface.feasibility.SMALL", 0)
    monkeypatch.setattr("stiffml.interface.feasibility.free_bytes", lambda: 1e5)
    y0 = torch.ones(1000, dtype=torch.float64)
    arguments = {"method": "dopri5", "steps": Grid(50)}
    with pytest.raises(ValueError, match=r"50 steps.*fewer states kept \(adjoint=Discrete"):
        solve(decay, y0, times(0, 1), **arguments)
    y = solve(decay, y0, times(0, 1), **arguments, adjoint=Discrete(3)).y
    torch.testing.assert_close(y[-1], y0 * math.exp(-1), rtol=1e-8, atol=0)


def test_steps_too_short_for_time_to_move() -> None:
    with pytest.raises(ValueError, match=r"^steps: Grid\(100000\).*near t = 1e\+09.*longer steps"):
        solve(decay, Y0, times(1e9, 1e9 + 1e-3), method="cn", steps=Grid(100_000))
    tiny = Recorded(([0.5, 0.5 + 1e-15, 1.0],))
    with pytest.raises(ValueError, match=r"^steps: Recorded, interval 0, entry 1: .*too short for time"):
        solve(decay, Y0, times(1e3, 1e3 + 1), method="cn", steps=tiny)


def test_ramps_are_steps_that_time_resolves() -> None:
    """The first step of BDF of order 5 would be 1e-13 of a day that lies a million days from zero."""
    y = solve(decay, Y0, times(1e6, 1e6 + 1), method="bdf5", steps=Grid(2000)).y
    torch.testing.assert_close(y[-1], Y0 * math.exp(-1), rtol=1e-8, atol=0)
