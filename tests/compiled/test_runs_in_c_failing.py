"""What fails in a run in C: the same errors as from Python, interrupts, nothing left behind."""

from __future__ import annotations

import _thread
import gc
import re
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from leftovers import nothing_left_behind
from runs_in_c import both, in_python, require_library, require_same
from torch import Tensor

from stiffml import Adaptive, Fixed, Grid, Newton, SolveError, Status, solve
from stiffml.compiled.refusal import NotCompilableError
from stiffml.petsc.callbacks import Callbacks
from stiffml.petsc.compiled_run import library as glue

D = torch.float64
T = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=D)


def sinking(t: Tensor, y: Tensor) -> Tensor:
    """Reaches zero at t = 1.5, after which it is NaN."""
    return -2 * torch.sqrt(y) / 1.5


def exploding(t: Tensor, y: Tensor) -> Tensor:
    return y**2


def turning(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([1e3 * (torch.cos(3 * y[1]) - y[0] ** 3), y[0] - 0.1 * y[1]])


def forced(t: Tensor, y: Tensor) -> Tensor:
    return -50 * (y - torch.cos(t))


FAILING: dict[str, tuple[Any, list[float], dict[str, Any], Status]] = {
    "not finite": (sinking, [1.0], {"rtol": 1e-4}, Status.NON_FINITE),
    "not finite, known steps": (sinking, [1.0], {"steps": Grid(3)}, Status.NON_FINITE),
    "exploding": (exploding, [1.0], {"rtol": 1e-4}, Status.STEP_TOO_SMALL),
    "newton": (
        turning,
        [0.3, 0.2],
        {"steps": Grid(2), "newton": Newton(rtol=1e-12, atol=1e-14, max_iterations=1)},
        Status.NEWTON_FAILED,
    ),
    "too many": (forced, [0.0], {"rtol": 1e-6, "steps": Adaptive(max_steps=9)}, Status.MAX_STEPS),
    "too short": (forced, [0.0], {"rtol": 1e-8, "steps": Adaptive(minimum=0.2)}, Status.STEP_TOO_SMALL),
}


def failure(name: str, method: str, compiled: bool) -> tuple[str, SolveError]:
    func, y0, arguments, _ = FAILING[name]
    start = torch.tensor(y0, dtype=D)
    with pytest.raises(SolveError) as caught:
        solve(func, start, T, method=method, stepping="sequential", compile=compiled, **arguments)
    return str(caught.value), caught.value


@pytest.mark.parametrize("method", ["bdf3", "cn", "rosw-ra34pw2", "dirk-es213sal"])
@pytest.mark.parametrize("name", FAILING)
@pytest.mark.parametrize("compiled", [True, False])
def test_the_error_is_the_same(name: str, method: str, compiled: bool) -> None:
    _, _, arguments, status = FAILING[name]
    if "newton" in arguments and method.startswith("rosw"):
        pytest.skip("has no Newton's iteration")
    with nothing_left_behind():
        (message, error), (wanted, other) = both(lambda: failure(name, method, compiled))
    # Times where steps are adaptive follow rounding.
    assert re.sub(r"\d{4}, step", ", step", message) == re.sub(r"\d{4}, step", ", step", wanted)
    if status is not Status.STEP_TOO_SMALL:  # which is not finite in the end, for some methods
        assert error.status is status
    found, expected = error.solution, other.solution
    assert found is not None
    assert expected is not None
    assert (found.stats.given_up == "") == (name == "too many")
    assert found.stats.accepted == expected.stats.accepted
    torch.testing.assert_close(found.y, expected.y, rtol=1e-11, atol=0)


def test_a_value_that_is_not_finite_on_the_way_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newton's iterates leave the domain of the root; PETSc cuts these steps, as in Python."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -3 * torch.sqrt(y) * (1 + 200 * torch.exp(-((t - 0.3) ** 2) * 1e4)) + 1.2

    noted: list[object] = []
    note = Callbacks.note
    monkeypatch.setattr(Callbacks, "note", lambda *arguments: noted.append(note(*arguments)))
    y0, t = torch.tensor([1.0], dtype=D), torch.tensor([0.0, 0.305], dtype=D)
    steps = Adaptive(initial=0.1)
    found, wanted = both(
        lambda: solve(func, y0, t, method="dirk-es213sal", rtol=1e-4, steps=steps, compile=True)
    )
    # In the fast part rounding grows a millionfold.
    require_same(found, wanted, 1e-9, 1e-5)
    assert noted, "nothing was out of the domain of the root"


def test_an_explicit_run_that_overflows_is_taken_again() -> None:
    require_library()
    y0, steps = torch.tensor([1.0], dtype=D), Adaptive()
    messages = []
    for _ in range(2):
        with pytest.raises(SolveError) as caught:
            solve(exploding, y0, T, method="dopri5", rtol=1e-5, steps=steps, compile=True)
        messages.append(str(caught.value))
        assert caught.value.solution is not None
        assert caught.value.solution.stats.given_up
    with in_python(), pytest.raises(SolveError) as caught:
        solve(exploding, y0, T, method="dopri5", rtol=1e-5, steps=steps, compile=True)
    assert messages == [str(caught.value)] * 2


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_stiffness_is_noticed(method: str) -> None:
    """With the same message; where fewer steps are left, the run goes through in C."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -1e4 * (y - torch.cos(t))

    y0 = torch.tensor([0.5, 1.0], dtype=D)

    def stopped() -> SolveError:
        with pytest.raises(SolveError) as caught:
            solve(func, y0, torch.tensor([0.0, 50.0], dtype=D), method=method, rtol=1e-4, compile=True)
        assert caught.value.status is Status.STIFF
        assert caught.value.solution is not None
        return caught.value

    found, wanted = both(stopped)
    assert str(found) == str(wanted)
    assert found.solution is not None
    assert found.solution.stats.given_up == "the problem is stiff"
    near = torch.tensor([0.0, 1.0], dtype=D)
    require_same(*both(lambda: solve(func, y0, near, method=method, rtol=1e-4, compile=True)), 1e-8, 1e-4)


@pytest.mark.usefixtures("python_handles_ctrl_c")
@pytest.mark.parametrize("steps", [Fixed(1e-5), Adaptive(maximum=1e-5, max_steps=10**9)])
def test_ctrl_c(steps: Fixed | Adaptive) -> None:
    """A run of 20 million steps, which take minutes, ends at once."""
    t, y0 = torch.tensor([0.0, 200.0], dtype=D), torch.ones(1, dtype=D)
    solve(forced, y0, t[:1] + torch.tensor([0.0, 0.1]), method="cn", rtol=1e-3, compile=True)
    with nothing_left_behind():
        timer = threading.Timer(0.7, _thread.interrupt_main)
        timer.start()
        began = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            solve(forced, y0, t, method="beuler", steps=steps, stepping="sequential", compile=True)
        timer.join()
    assert time.perf_counter() - began < 60


def test_nothing_leaks() -> None:
    def resident() -> int:
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    def some(count: int) -> None:
        for _ in range(count):
            for method in ("bdf2", "rosw-ra34pw2"):
                solve(forced, y0, t, method=method, batch_dims=1, steps=Grid(3), **arguments)

    require_library()
    arguments: dict[str, Any] = {"stepping": "sequential", "compile": True}
    t, y0 = torch.tensor([0.0, 0.2], dtype=D), torch.ones(30, 1, dtype=D)
    assert solve(forced, y0, t, batch_dims=1, steps=Grid(3), **arguments).stats.in_c > 0
    with nothing_left_behind():
        some(30)
    before = resident()
    some(200)
    # A TS alone has some 30 kB.
    assert resident() - before < 4e6


def test_without_a_library_of_steps_python_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    why = NotCompilableError("the headers of PETSc were not found")
    monkeypatch.setattr("stiffml.petsc.compiled_run.qualifying.library", lambda: why)
    y0, t = torch.ones(2, 1, dtype=D), torch.tensor([0.0, 0.2], dtype=D)
    with pytest.warns(UserWarning, match="taken from Python"):
        found = solve(forced, y0, t, batch_dims=1, compile=True)
    assert found.stats.in_c == 0
    assert found.stats.accepted > 0


def test_headers_that_are_missing_are_said_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """To those who ask for compiled functions."""
    monkeypatch.setattr(glue, "_loaded_petsc", lambda: tmp_path / "lib" / "libpetsc.so")
    monkeypatch.setattr(glue, "folders", lambda: [str(tmp_path)])
    why = glue.library.__wrapped__()
    assert isinstance(why, NotCompilableError)
    monkeypatch.setattr("stiffml.petsc.compiled_run.qualifying.library", lambda: why)
    y0, t = torch.ones(2, 1, dtype=D), torch.tensor([0.0, 0.2], dtype=D)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        solve(forced, y0, t, batch_dims=1, compile=False)
        assert not said
        solve(forced, y0, t, batch_dims=1, compile=True)
        solve(forced, y0, t, batch_dims=1, compile=True)
    (warning,) = said
    assert "taken from Python" in str(warning.message)
    assert "the headers of PETSc were not found in" in str(warning.message)


def test_headers_lie_beside_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever folder petsc4py was built with."""
    (tmp_path / "include").mkdir()
    for name in ("petscts.h", "mpi.h"):
        (tmp_path / "include" / name).touch()
    monkeypatch.setattr(glue, "_loaded_petsc", lambda: tmp_path / "lib" / "libpetsc.so")
    monkeypatch.setattr(glue, "folders", lambda: ["/gone"])
    first, *_, library = glue.compiler_flags()
    assert first == f"-I{tmp_path.resolve() / 'include'}"
    assert library == str(tmp_path / "lib" / "libpetsc.so")


def test_the_headers_that_are_asked_for_exist() -> None:
    require_library()
    *folders, petsc = glue.compiler_flags()
    assert [Path(folder.removeprefix("-I")).is_dir() for folder in folders] == [True] * len(folders)
    assert Path(petsc).is_file()
