"""Ctrl-C within a backward pass in C: it strikes there, and the next pass is right."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from leftovers import nothing_left_behind
from own_times import Kinetics, starts, times
from torch import Tensor

from stiffml import Discrete, Fixed, solve
from stiffml.gradients import adjoint
from stiffml.native.compiled_run import reversing
from stiffml.native.compiled_run.library import library

D = torch.float64


class Counted:
    """The library of samples, which counts the calls of a reversal; ``strike`` is called in one of them."""

    def __init__(self, at: int = -1, strike: Callable[[], None] | None = None) -> None:
        self.goes = self.ends = 0
        self._at, self._strike, self._library = at, strike, library()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def stiffml_reversal_go(self, reversal: Any, seconds: float) -> int:
        self.goes += 1
        left = self._library.stiffml_reversal_go(reversal, seconds)
        if self.goes == self._at and self._strike is not None:
            self._strike()
        return left

    def stiffml_reversal_end(self, reversal: Any) -> None:
        self.ends += 1
        self._library.stiffml_reversal_end(reversal)


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("method", ["bdf3", "rosw-rodaspr2", "sdirk3", "dopri5"])
def test_a_reversal_in_many_calls_has_the_same_bits(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    func, y0 = Kinetics(), starts().requires_grad_()
    y = solve(func, y0, times(), batch_dims=1, method=method, rtol=1e-5, atol=1e-7, compile=True).y
    wanted = torch.autograd.grad(y.square().sum(), [y0, *func.parameters()], retain_graph=True)
    monkeypatch.setattr(reversing, "INTERRUPTIBLE", 0.0)
    counted = Counted()
    monkeypatch.setattr(reversing, "library", lambda: counted)
    found = torch.autograd.grad(y.square().sum(), [y0, *func.parameters()])
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
    # One step a call.
    assert counted.goes > 50
    assert counted.ends == 1


@pytest.mark.usefixtures("python_handles_ctrl_c")
def test_ctrl_c_within_the_reversal_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    func, y0 = Kinetics(), starts().requires_grad_()

    def gradient() -> Tensor:
        y = solve(func, y0, times(), batch_dims=1, method="bdf3", rtol=1e-5, atol=1e-7, compile=True).y
        return torch.autograd.grad(y.square().sum(), y0)[0]

    wanted = gradient()
    counted = Counted(3, press_ctrl_c)
    with nothing_left_behind(), monkeypatch.context() as patch:
        patch.setattr(reversing, "INTERRUPTIBLE", 0.0)
        patch.setattr(reversing, "library", lambda: counted)
        with pytest.raises(KeyboardInterrupt):
            gradient()
    assert (counted.goes, counted.ends) == (3, 1)
    assert torch.equal(gradient(), wanted)


def forced(t: Tensor, y: Tensor) -> Tensor:
    return -50 * (y - torch.cos(t))


@pytest.mark.usefixtures("python_handles_ctrl_c")
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "in torch"])
def test_ctrl_c_between_the_segments_of_a_long_run(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long run is reversed in parts of bounded numbers, about a second's work, whoever evaluates func.

    With compiled functions C reverses it, but for gradients by times.
    """
    monkeypatch.setattr("stiffml.gradients.linearized.SEGMENT_NUMBERS", 16_000)
    y0 = torch.ones(1, dtype=D).requires_grad_()
    count, at, reverse = 0, 0, adjoint._reverse_segment

    def counted(replay: Any, segment: Any, *rest: Any) -> None:
        nonlocal count
        count += 1
        if count == at:
            press_ctrl_c()
        reverse(replay, segment, *rest)

    monkeypatch.setattr(adjoint, "_reverse_segment", counted)

    def gradient() -> float:
        nonlocal count
        t = torch.tensor([0.0, 20.0], dtype=D, requires_grad=compiled)
        arguments = {"method": "cn", "steps": Fixed(1e-3), "adjoint": Discrete("solutions")}
        y = solve(forced, y0, t, compile=compiled, **arguments).y
        count = 0
        return torch.autograd.grad(y[:, 0].square().sum(), y0)[0].item()

    wanted = gradient()
    whole = count
    assert whole == 10
    at = 3
    with nothing_left_behind(), pytest.raises(KeyboardInterrupt):
        gradient()
    assert count == 3
    at = 0
    assert (gradient(), count) == (wanted, whole)
