"""What goes wrong on the way: errors and interrupts in the middle, functions that change, full disks."""

from __future__ import annotations

import _thread
import gc
import math
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from leftovers import nothing_left_behind
from methods import STIFFLY_ACCURATE_KINDS
from small_problems import times
from torch import Tensor, nn

from stiffml import (
    Discrete,
    Disk,
    Fixed,
    Grid,
    ReplayError,
    SolveError,
    Split,
    Status,
    sensitivities,
    solve,
)

pytestmark = pytest.mark.usefixtures("python_handles_ctrl_c")

SPLIT = "arkimex-3"

T = times(0, 0.3, 1)
STEPS = Grid(6)
CHECKPOINTS = ("stages", "solutions", 6)


class Mishap(Exception):
    """Not one that anything else would raise."""


class Oscillator(nn.Module):
    """A damped nonlinear oscillator that does ``mishap`` at a given call from now on."""

    def __init__(self) -> None:
        super().__init__()
        self.damping = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        self.calls, self.at, self.mishap = 0, math.inf, lambda: None

    def arm(self, mishap: Callable[[], object], at: int) -> None:
        self.calls, self.at, self.mishap = 0, at, mishap

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        if self.calls >= self.at:
            self.mishap()
        x, v = y[..., :1], y[..., 1:]
        return torch.cat([v, torch.cos(t) - self.damping * v - 4 * x - x**3], dim=-1)


def problem(method: str) -> tuple[Oscillator, Callable]:
    func = Oscillator()
    return func, Split(func, lambda t, y: -0.1 * y) if method == SPLIT else func


def start() -> Tensor:
    return torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)


def gradients(func: Callable, y: Tensor, y0: Tensor) -> list[Tensor]:
    module = func.implicit if isinstance(func, Split) else func
    assert isinstance(module, Oscillator)
    return list(torch.autograd.grad(y.sum(), [y0, module.damping]))


def all_equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def all_close(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Up to what solving for stages again changes."""
    return all(
        bool((a - b).abs().max() <= 1e-9 * b.abs().max()) for a, b in zip(found, expected, strict=True)
    )


# Errors and interrupts.


def raise_mishap() -> None:
    raise Mishap


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


MISHAPS = {"error": (raise_mishap, Mishap), "ctrl-c": (press_ctrl_c, KeyboardInterrupt)}


@pytest.mark.parametrize("what", MISHAPS)
@pytest.mark.parametrize("method", STIFFLY_ACCURATE_KINDS)
def test_in_the_middle_of_a_solve(method: str, what: str) -> None:
    mishap, error = MISHAPS[what]
    func, right = problem(method)
    y0 = start()
    expected = gradients(right, solve(right, y0, T, method=method, steps=STEPS).y, y0)
    calls = func.calls
    with nothing_left_behind():
        for at in (2, calls // 4, calls // 3):
            func.arm(mishap, at)
            with pytest.raises(error):
                solve(right, y0, T, method=method, steps=STEPS)
    func.arm(mishap, sys.maxsize)
    again = gradients(right, solve(right, y0, T, method=method, steps=STEPS).y, y0)
    assert all_equal(again, expected), "a solve after a broken one differs"


@pytest.mark.parametrize("what", MISHAPS)
@pytest.mark.parametrize("checkpoints", CHECKPOINTS)
@pytest.mark.parametrize("method", STIFFLY_ACCURATE_KINDS)
def test_in_the_middle_of_the_backward_pass(method: str, checkpoints, what: str) -> None:
    mishap, error = MISHAPS[what]
    func, right = problem(method)
    y0 = start()
    arguments = {"method": method, "steps": STEPS, "adjoint": Discrete(checkpoints)}
    y = solve(right, y0, T, **arguments).y
    func.arm(mishap, sys.maxsize)
    expected = gradients(right, y, y0)
    calls = func.calls
    with nothing_left_behind():
        for at in (1, calls // 2, calls):
            solution = solve(right, y0, T, **arguments)
            func.arm(mishap, at)
            with pytest.raises(error):
                gradients(right, solution.y, y0)
            func.arm(mishap, sys.maxsize)
        kept = weakref.ref(solution.pieces[0].tape.run)
        del solution
        gc.collect()
        assert kept() is None, "the graph outlives its output"
    again = gradients(right, solve(right, y0, T, **arguments).y, y0)
    assert all_equal(again, expected), "a backward pass after a broken one differs"


def for_ever(begun: threading.Event, job: Callable[[], object]) -> None:
    """A machine that has become faster must not come to an end before the interrupt."""
    begun.set()
    while True:
        job()


def interrupt(begun: threading.Event, after: float, arrived: threading.Event) -> None:
    """Until it arrives: Python drops one that strikes in a callback of its garbage collector."""
    begun.wait()
    while not arrived.wait(after):
        _thread.interrupt_main()
        after = 5.0


@pytest.mark.parametrize("method", STIFFLY_ACCURATE_KINDS)
def test_ctrl_c_at_any_time(method: str) -> None:
    """Wherever it strikes, in func, in torch, or between: the interrupt arrives, the next solve is right."""
    _, right = problem(method)
    y0 = start()
    arguments = {"method": method, "steps": Fixed(5e-3), "adjoint": Discrete("solutions")}
    began = time.perf_counter()
    expected = gradients(right, solve(right, y0, T, **arguments).y, y0)
    duration = time.perf_counter() - began
    for fraction in (0.1, 0.35, 0.6, 0.85):
        begun, arrived = threading.Event(), threading.Event()
        user = threading.Thread(target=interrupt, args=(begun, fraction * duration, arrived))
        user.start()
        with pytest.raises(KeyboardInterrupt):
            for_ever(begun, lambda: gradients(right, solve(right, y0, T, **arguments).y, y0))
        arrived.set()
        user.join()
    assert all_equal(gradients(right, solve(right, y0, T, **arguments).y, y0), expected)


# Functions that are not functions.


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.dropout = nn.Linear(2, 2, dtype=torch.float64), nn.Dropout(0.5)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.inner(self.dropout(y + 1))


@pytest.mark.parametrize("checkpoints", CHECKPOINTS)
@pytest.mark.parametrize("method", ["dopri5", "rosw-ra34pw2"])
def test_a_random_function_is_noticed(method: str, checkpoints) -> None:
    """Before the run, or where it has become one since the run, backwards."""
    torch.manual_seed(0)
    func = Noisy()
    arguments = {"method": method, "steps": Fixed(0.01), "adjoint": Discrete(checkpoints)}
    with pytest.raises(ValueError, match=r"func: called twice.*t = 0.*component \[.\].*module.eval\(\)"):
        solve(func, start(), T, **arguments)
    y = solve(func.eval(), start(), T, **arguments).y
    func.train()
    with pytest.raises(ReplayError, match=r"func changed between.*t = 0.*component \[.\].*module.eval\(\)"):
        y.sum().backward()
    func.eval()
    solve(func, start(), T, **arguments).y.sum().backward()


def test_a_function_that_has_changed_is_noticed() -> None:
    func = Oscillator()
    y = solve(func, start(), T, method="cn", steps=STEPS).y
    func.damping.data *= 1.01  # torch does not count changes of .data
    with pytest.raises(ReplayError, match="func changed between the forward and the backward pass"):
        y.sum().backward()


def test_a_function_that_has_changed_at_the_start_of_nothing() -> None:
    """From an equilibrium f is rounding, and rounding may change."""
    y0 = torch.tensor([1.0, 1.0 / 3], dtype=torch.float64, requires_grad=True)
    flips = iter(range(10**6))

    def func(t: Tensor, y: Tensor) -> Tensor:
        rounding = 1e-15 * (-1) ** next(flips)
        return torch.stack([y[..., 0] - 3 * y[..., 1], 3 * y[..., 1] - y[..., 0]], dim=-1) + rounding

    solve(func, y0, T, method="cn", steps=STEPS).y.sum().backward()


# Disks.


@pytest.mark.parametrize(
    ("folder", "error"),
    [("missing", FileNotFoundError), ("a_file", NotADirectoryError), ("/proc/self", OSError)],
)
def test_a_folder_that_takes_no_file(folder: str, error: type[OSError], tmp_path: Path) -> None:
    (tmp_path / "a_file").touch()
    path = tmp_path / folder
    with pytest.raises(error) as caught:
        solve(Oscillator(), start(), T, adjoint=Discrete(Disk(path)))
    assert f"adjoint=Discrete(checkpoints=Disk({str(path)!r}))" in str(caught.value)
    assert caught.value.filename == str(path)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Like a disk that is full after ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("method", STIFFLY_ACCURATE_KINDS)
def test_a_full_disk_keeps_what_was_reached(method: str, tmp_path: Path) -> None:
    _, right = problem(method)
    y0 = start()
    # The second interval's steps come to lie beyond the limit, and one of them across it.
    steps, adjoint = Grid(40), Discrete(Disk(tmp_path))
    whole = solve(right, y0, T, method=method, steps=steps)
    states = len(whole.steps.ends[0]) + 12
    with largest_file(states * 16 + 8):
        broken = solve(right, y0, T, method=method, steps=steps, adjoint=adjoint, throw=False)
        with pytest.raises(SolveError, match=r"checkpoint could not be written.*folder with more room") as e:
            solve(right, y0, T, method=method, steps=steps, adjoint=adjoint)
    assert e.value.status is Status.NO_ROOM
    assert e.value.solution is not None
    assert len(e.value.solution.t) == 2
    assert 0.3 < e.value.t < 1
    assert broken.status is Status.NO_ROOM
    assert broken.stats.accepted == states - 1
    assert torch.equal(broken.y, whole.y[:2])
    found, expected = (gradients(right, y, y0) for y in (broken.y, whole.y[:2]))
    assert all_close(found, expected), "look at OnDisk after a partial write"


def test_files_go_with_the_solution(tmp_path: Path) -> None:
    func = Oscillator()
    with nothing_left_behind():
        solution = solve(func, start(), T, adjoint=Discrete(Disk(tmp_path)))
        assert not list(tmp_path.iterdir()), "the file has a name, which would outlive a kill"
        solution.y.sum().backward()
        del solution


def test_nothing_is_left_after_a_kill(tmp_path: Path) -> None:
    code = """
        import os, signal, sys, torch
        from stiffml import Discrete, Disk, Fixed, solve

        def func(t, y):
            if t > 0.5:
                os.kill(os.getpid(), signal.SIGKILL)
            return -y

        y0 = torch.ones(1000, dtype=torch.float64)
        t = torch.tensor([0.0, 1.0], dtype=torch.float64)
        solve(func, y0, t, method="dopri5", steps=Fixed(0.01), adjoint=Discrete(Disk(sys.argv[1])))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


def test_a_forked_process_reads_its_parents_checkpoints(tmp_path: Path) -> None:
    func, _ = problem("cn")
    y0 = start()
    arguments = {"method": "cn", "steps": Grid(20)}
    expected = gradients(func, solve(func, y0, T, **arguments).y, y0)
    y = solve(func, y0, T, adjoint=Discrete(Disk(tmp_path)), **arguments).y
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if all_close(gradients(func, y, y0), expected) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert all_close(gradients(func, y, y0), expected)


def test_sensitivities_survive_too() -> None:
    func = Oscillator()
    arguments = {"method": "cn", "steps": STEPS, "stepping": "sequential"}
    expected = sensitivities(func, start(), T, **arguments)
    func.arm(raise_mishap, 20)
    with pytest.raises(Mishap):
        sensitivities(func, start(), T, **arguments)
    func.arm(raise_mishap, sys.maxsize)
    again = sensitivities(func, start(), T, **arguments)
    assert torch.equal(again.wrt["damping"], expected.wrt["damping"])
