"""Functions that runs in C ask Python for: exceptions, interrupts, functions that solve themselves."""

from __future__ import annotations

import _thread
import gc
import threading
import time

import pytest
import torch
from leftovers import nothing_left_behind
from runs_in_c import both, require_library, require_same
from torch import Tensor

from stiffml import Adaptive, Grid, Split, solve
from stiffml.petsc.compiled_run.asking import Asked

D = torch.float64
T = torch.tensor([0.0, 0.5, 2.0], dtype=D)
Y0 = torch.tensor([1.0, 0.5], dtype=D)
METHODS = ["bdf", "bdf2", "cn", "rosw-ra34pw2", "arkimex-3", "dirk-es324sal"]


class OwnError(Exception):
    pass


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y * torch.tensor([1.0, 100.0], dtype=D) + torch.sin(3 * t)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("part", ["f", "g"])
def test_an_exception_at_any_call_passes_unchanged(method: str, part: str) -> None:
    require_library()
    if part == "g" and method != "arkimex-3":
        pytest.skip("has no explicit part")
    calls, last = 0, 10**9
    error = OwnError("mine")

    def failing(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls >= last:
            raise error
        return decay(t, y)

    func = failing if part == "f" else Split(decay, failing)
    whole = solve(func, Y0, T, method=method)
    assert whole.stats.in_c > 0, "the run was not one in C"
    needed, calls = calls, 0
    for share in (0.3, 0.6, 0.9):
        calls, last = 0, int(share * needed)
        with nothing_left_behind(), pytest.raises(OwnError) as caught:
            solve(func, Y0, T, method=method)
        assert caught.value is error
        assert calls == last, "func was called again after it had raised"
        assert any(entry.name == "failing" for entry in caught.traceback)


@pytest.mark.usefixtures("python_handles_ctrl_c")
@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c(method: str) -> None:
    steps = Adaptive(maximum=1e-4, max_steps=10**9)
    timer = threading.Timer(0.5, _thread.interrupt_main)
    with nothing_left_behind():
        timer.start()
        began = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            solve(decay, Y0, torch.tensor([0.0, 2000.0], dtype=D), method=method, steps=steps)
        timer.join()
    assert time.perf_counter() - began < 60


class Late(BaseException):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, Late])
@pytest.mark.parametrize("when", [1, 20])
def test_what_strikes_outside_of_func_arrives_as_itself(
    error: type[BaseException], when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals may raise at the first instruction of any function that C calls."""
    answer, count = Asked._answer, 0

    def interrupted(self: Asked) -> None:
        nonlocal count
        count += 1
        if count == when:
            raise error
        answer(self)

    monkeypatch.setattr(Asked, "_answer", interrupted)
    with nothing_left_behind(), pytest.raises(error):
        solve(decay, Y0, T)
    assert count == when, "C went on after an exception"


@pytest.mark.parametrize("method", ["cn", "rosw-ra34pw2"])
def test_a_function_that_solves_itself(method: str) -> None:
    """A run in C within a run in C."""
    require_library()
    rest, in_c = torch.tensor([0.3, -0.2], dtype=D), 0

    def func(t: Tensor, y: Tensor) -> Tensor:
        nonlocal in_c
        inner = solve(lambda t, u: 50 * (rest - u), y.detach(), T[:2], method="bdf2", rtol=1e-2)
        in_c += inner.stats.in_c
        return inner.y[-1] - y

    arguments: dict = {"method": method, "steps": Grid(2), "stepping": "sequential"}
    found, wanted = both(lambda: solve(func, Y0, T[:2], **arguments))
    require_same(found, wanted)
    assert in_c > 0
    assert found.y[-1].allclose(rest + (Y0 - rest) * torch.exp(-T[1]), rtol=0, atol=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_c_asks_for_the_same_calls(method: str) -> None:
    asked: list[tuple[float, bytes]] = []

    def func(t: Tensor, y: Tensor) -> Tensor:
        asked.append((float(t.detach().flatten()[0]), y.detach().numpy().tobytes()))
        return decay(t, y)

    def calls() -> list[tuple[float, bytes]]:
        asked.clear()
        solve(func, Y0, T, method=method)
        return list(asked)

    calls()  # whose trials are remembered
    found, wanted = both(calls)
    assert len(found) == len(wanted) > 50
    assert found == wanted, "times or states differ: look at the order in which C computes"


def test_a_run_and_its_function_go_without_the_collector() -> None:
    require_library()

    class Func:
        def __call__(self, t: Tensor, y: Tensor) -> Tensor:
            return decay(t, y)

    gc.collect()
    before = {id(one) for one in gc.get_objects() if isinstance(one, Asked)}
    gc.disable()
    try:
        assert solve(Func(), Y0, T).stats.in_c > 0
        left = [one for one in gc.get_objects() if isinstance(one, Asked) and id(one) not in before]
    finally:
        gc.enable()
    assert not left, "something that a run in C asks refers to it"


def test_jacobians_that_are_not_finite_are_mended_from_python() -> None:
    """C leaves such a run to Python, which mends the column by a difference."""

    def drag(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], 1 - torch.sqrt(y[1] ** 2 + 0 * y[0])])

    t = torch.tensor([0.0, 1.0, 30.0], dtype=D)
    found = solve(drag, torch.zeros(2, dtype=D), t, method="bdf3", rtol=1e-6)
    assert found.stats.given_up == "a derivative of f is not finite"
    assert found.y[-1, 1].item() == pytest.approx(1.0, abs=1e-5)
