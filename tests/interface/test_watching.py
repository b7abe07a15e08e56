"""What looks on while steps are taken: ``callback``, ``max_seconds``, ``progress``; states of all steps."""

from __future__ import annotations

import math
import time

import pytest
import torch
from gradients import compare
from methods import EVERY_KIND
from pendulums import TIGHT, Y0, Pendulum
from small_problems import decay, times
from torch import Tensor

import stiffml
from stiffml import Adaptive, Discrete, Grid, KeptSteps, Solution, SolveError, Status, solve
from stiffml.interface import watching
from stiffml.petsc.compiled_run import nonstop
from stiffml.run.watching import Watch

T = times(0, 0.5, 1.3, 2)


class Listener:
    """Notes every call; ends the solve at a time."""

    def __init__(self, until: float = math.inf) -> None:
        self.until = until
        self.seen: list[tuple[float, Tensor, float]] = []

    def __call__(self, t: Tensor, y: Tensor, h: float) -> bool:
        self.seen.append((t.item(), y, h))
        return abs(t.item()) > self.until


def circle(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1], -y[..., 0]], dim=-1)


@pytest.mark.parametrize("method", [*EVERY_KIND, "sdirk3"])
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("more", [{}, {"outputs": "interpolate"}, {"breakpoints": [0.7]}, {"steps": Grid(5)}])
def test_a_callback_sees_every_step(method: str, direction: int, more: dict) -> None:
    """In order, with the states that the solution has there, and changes nothing."""
    heard, t = Listener(), direction * T
    if "breakpoints" in more:
        more = {"breakpoints": [0.7 * direction]}
    if method in ("cn", "sdirk3") and "steps" not in more:
        more = {**more, "rtol": 1e-4}
    solution = solve(circle, Y0, t, method=method, callback=heard, **more)
    at, states, sizes = zip(*heard.seen, strict=True)
    assert len(at) == solution.stats.accepted
    assert torch.equal(solution.step_times[1:], torch.tensor(at, dtype=torch.float64))
    assert torch.equal(solution.step_states()[1:], torch.stack(states))
    assert torch.allclose(solution.step_times.diff(), torch.tensor(sizes, dtype=torch.float64), atol=1e-15)
    without = solve(circle, Y0, t, method=method, **more, stepping="sequential")
    assert torch.equal(solution.y, without.y), "a callback must not change the steps"


@pytest.mark.parametrize("more", [{}, {"steps": Grid(5)}, {"compile": True}, {"breakpoints": [0.3, 0.9]}])
def test_a_callback_ends_a_solve(more: dict) -> None:
    heard, y0 = Listener(until=0.8), Y0.clone().requires_grad_()
    tight = {} if "steps" in more else {"rtol": 1e-8, "atol": 1e-10}
    solution = solve(circle, y0, T, callback=heard, **tight, **more)
    end = heard.seen[-1][0]
    assert (solution.status, solution.success) == (Status.STOPPED, True)
    assert f"t = {end:.10g}" in solution.message
    assert [earlier[0] <= 0.8 for earlier in heard.seen[:-1]] == [True] * (len(heard.seen) - 1)
    assert solution.t.tolist() == [0.0, 0.5]
    assert solution.y.shape == (2, 2)
    assert solution.step_times[-1] == end
    assert solution.stats.in_c == 0
    (gradient,) = torch.autograd.grad(solution.y[-1, 0], y0)
    assert torch.allclose(
        gradient, times(math.cos(0.5), math.sin(0.5)), atol=1e-4 if "steps" in more else 1e-6
    )


def test_a_callback_at_the_event_and_at_the_last_output() -> None:
    heard = Listener()
    solution = solve(circle, times(1, 0), T, event=lambda t, y: y[0] - 0.5, callback=heard)
    assert solution.event is not None
    assert heard.seen[-1][0] == solution.event.t.item() == solution.step_times[-1].item()
    assert torch.equal(heard.seen[-1][1], solution.event.y)
    assert torch.equal(solution.step_states()[-1], solution.event.y)
    stopped = solve(circle, Y0, T, callback=lambda t, y, h: t == T[-1])  # a tensor of one bool
    assert (stopped.status, len(stopped.t)) == (Status.STOPPED, len(T))


def test_callbacks_that_are_wrong_or_fail() -> None:
    def fail(t: Tensor, y: Tensor, h: float) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        solve(circle, Y0, T, callback=fail)
    with pytest.raises(TypeError, match=r"callback must return True to end the solve, .* not 1"):
        solve(circle, Y0, T, callback=lambda t, y, h: 1)
    with pytest.raises(TypeError, match="callback must be callable as callback"):
        solve(circle, Y0, T, callback=3)
    with pytest.raises(ValueError, match="'all-at-once' does not go with a callback"):
        solve(circle, Y0, T, steps=Grid(3), stepping="all-at-once", callback=Listener())
    with pytest.raises(ValueError, match="callback: KeptSteps"):
        solve(circle, Y0, T, steps=KeptSteps(), callback=Listener())
    for name, value in {"callback": Listener(), "max_seconds": 1.0, "progress": True}.items():
        with pytest.raises(ValueError, match=f"^{name}: .*times of its own"):
            solve(circle, Y0.expand(2, 2), T.expand(2, -1), batch_dims=1, **{name: value})
    assert solve(circle, Y0, T).success, "the next solve works"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"method": "dopri5"},
        {"method": "sdirk3"},
        {"method": "cn", "steps": Grid(20000)},
        {"method": "cn", "steps": Grid(200), "stepping": "sequential"},
        {"compile": True, "steps": Adaptive(max_steps=10**9)},
        {"breakpoints": [2.5]},
    ],
    ids=str,
)
def test_a_limit_on_seconds(more: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that passes the limit when the solve has come to t = 2, so that no machine is too slow."""
    limited = {"max_seconds": 5.0, **more}
    reached: list[float] = []
    plain = Watch.passed

    def passed(self: Watch, system, s: float, size: float, count: int) -> None:
        reached.append(s)
        plain(self, system, s, size, count)

    monkeypatch.setattr(Watch, "passed", passed)
    monkeypatch.setattr(
        Watch, "left", property(lambda self: 1e-4 if not reached or reached[-1] < 2 else -1.0)
    )
    with pytest.raises(
        SolveError, match=r"time limit was reached: 5 s, in which \d+ steps .*max_seconds"
    ) as found:
        solve(circle, Y0, times(0, 1, 2, 3, 1e9), **limited)
    error = found.value
    assert error.status is Status.MAX_SECONDS
    assert error.t >= 2
    assert error.h > 0
    assert error.solution.t.tolist()[:3] == [0, 1, 2]
    assert f"{error.solution.stats.accepted} steps" in str(error)
    near = 1e-3 * torch.ones(2, dtype=torch.float64)
    assert (error.solution.y[2] - circle_at(2.0)).abs().le(near).all()
    del reached[:]
    partial = solve(circle, Y0, times(0, 1, 2, 3, 1e9), throw=False, **limited)
    assert (partial.status, partial.success) == (Status.MAX_SECONDS, False)


def circle_at(t: float) -> Tensor:
    turn = times(math.cos(t), math.sin(t), -math.sin(t), math.cos(t)).view(2, 2)
    return turn @ Y0


def test_a_limit_that_is_not_reached_and_wrong_ones() -> None:
    began = time.monotonic()
    limited = solve(circle, Y0, T, max_seconds=3600)
    assert torch.equal(limited.y, solve(circle, Y0, T).y)
    assert time.monotonic() - began < 3600
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="max_seconds must be"):
            solve(circle, Y0, T, max_seconds=wrong)


def test_progress_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines where there is no terminal; intervals between outputs count alike."""
    monkeypatch.setattr(watching, "LINES", -1.0)
    monkeypatch.setattr(nonstop, "INTERRUPTIBLE", 0.0)  # C comes back after every step
    solution = solve(circle, Y0, times(0, 1e-3, 1.0), progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == solution.stats.accepted
    assert lines[-1].startswith("stiffml: 100.0%, t = 1, step = ")
    assert lines[-1].endswith(f"{solution.stats.accepted} steps")
    assert any(line.startswith("stiffml: 50.0%, t = 0.001,") for line in lines)
    solve(circle, Y0, T)
    assert not capsys.readouterr().err


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(watching, "SHOWN", -1.0)
    solution = solve(circle, Y0, T, progress=True)
    assert f"{solution.stats.accepted} steps" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-ra34pw2", "dopri5"])
@pytest.mark.parametrize("checkpoints", ["stages", "solutions", 4])
@pytest.mark.parametrize("ends", ["outputs", "event"])
def test_gradients_of_the_states_of_all_steps(method: str, checkpoints, ends: str) -> None:
    func, y0, t = Pendulum(), Y0.clone().requires_grad_(), times(0, 0.4, 3.0).requires_grad_()
    event = {} if ends == "outputs" else {"event": lambda t, y: y[0] - 0.1 * torch.cos(t)}

    def solved() -> Solution:
        newton = None if method in ("dopri5", "rosw-ra34pw2") else TIGHT
        adjoint = Discrete(checkpoints)
        return solve(func, y0, t, method=method, steps=Grid(4), newton=newton, adjoint=adjoint, **event)

    def loss() -> Tensor:
        states = solved().step_states()
        return (states * torch.linspace(0.3, 1.7, states.numel(), dtype=torch.float64).view_as(states)).sum()

    groups = {"y0": [y0], "t": [t], "parameters": [func.k]}
    gradients = torch.autograd.grad(loss(), [y0, t, func.k])
    for (name, group), gradient in zip(groups.items(), gradients, strict=True):
        error, rate = compare(lambda: loss().detach(), group, [gradient], 1e-4)
        assert error <= 1e-6, f"{name} off by {error:.1e}; look at step_states in interface/interpolation.py"
        assert rate >= 1.9, f"{name} has Taylor rate {rate:.2f}"


def test_steps_of_samples_with_times_of_their_own() -> None:
    solution = solve(decay, times(1, 2).view(2, 1), T.expand(2, -1), batch_dims=1)
    for read in (lambda: solution.step_times, solution.step_states):
        with pytest.raises(ValueError, match="every sample has times of its own"):
            read()


def test_steps_of_a_tuple_and_of_a_solve_without_steps() -> None:
    solution = stiffml.solve(lambda t, y: (-y[0], -y[1]), (times(1, 2), times(3)), T)
    states = solution.step_states()
    assert isinstance(states, tuple)
    assert [part.shape[1:] for part in states] == [(2,), (1,)]
    assert len(states[0]) == len(solution.step_times) == solution.stats.accepted + 1
    alone = solve(circle, Y0, times(0.5))
    assert torch.equal(alone.step_states(), Y0[None])
    assert alone.step_times.tolist() == [0.5]
