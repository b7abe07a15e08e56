"""What fails in a run: the caller's exceptions, values that are not finite, steps that lead nowhere."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from small_problems import decay, times
from torch import Tensor

from stiffml import (
    Adaptive,
    Fixed,
    Grid,
    SolveError,
    Split,
    Status,
    solve,
)

Y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
T = times(0, 1)


pytestmark = pytest.mark.usefixtures("next_solve_works")


class OwnError(Exception):
    pass


@pytest.mark.parametrize("method", ["bdf", "cn", "dopri5"])
@pytest.mark.parametrize("calls", [1, 7, 30])
def test_the_users_exception_is_unchanged(method: str, calls: int) -> None:
    """Raised in a residual, a Jacobian or a stage: the same object, with the frame it came from."""
    count = 0
    error = OwnError("mine")

    def failing(t: Tensor, y: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if count >= calls:
            raise error
        return -y * torch.tensor([1.0, 100.0], dtype=y.dtype)

    with pytest.raises(OwnError) as caught:
        solve(failing, Y0, T, method=method, rtol=1e-7)
    assert caught.value is error
    assert any(entry.name == "failing" for entry in caught.traceback)


def test_the_users_exception_keeps_its_context() -> None:
    def failing(t: Tensor, y: Tensor) -> Tensor:
        if t > 0.1:
            try:
                1 / 0  # noqa: B018
            except ZeroDivisionError:
                raise OwnError("mine")  # noqa: B904
        return -y

    with pytest.raises(OwnError) as caught:
        solve(failing, Y0, T)
    assert isinstance(caught.value.__context__, ZeroDivisionError)
    assert not caught.value.__suppress_context__


def test_an_interrupt_anywhere_in_the_solver_arrives_as_itself(monkeypatch) -> None:
    """Ctrl-C may strike in Python code that PETSc calls, outside of func; a callback keeps the run from C."""
    from stiffml.petsc.convergence import SNESTest

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SNESTest, "_judge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            solve(decay, Y0, T, callback=lambda t, y, h: None)


def test_no_options_are_left_behind() -> None:
    from petsc4py import PETSc

    for arguments in ({"options": {"ts_nonsense": 1}}, {"rtol": 1e-8}):
        with pytest.raises((ValueError, OwnError)):
            solve(raises_after_the_start, Y0, T, **arguments)
    assert not [name for name in PETSc.Options().getAll() if name.startswith("stiffml")]


def raises_after_the_start(t: Tensor, y: Tensor) -> Tensor:
    if t > 0:
        raise OwnError
    return -y


def test_exception_in_the_backward_pass() -> None:
    broken = False

    def func(t: Tensor, y: Tensor) -> Tensor:
        if broken:
            raise OwnError("backward")
        return -y

    y0 = Y0.clone().requires_grad_()
    y = solve(func, y0, T, method="cn", steps=Grid(3)).y
    broken = True
    with pytest.raises(OwnError, match="backward"):
        y.sum().backward()


@pytest.mark.parametrize("method", ["bdf", "cn", "dopri5"])
def test_nan_from_func_at_the_start(method: str) -> None:
    with pytest.raises(SolveError, match=r"infinite or NaN.*t = 0.*component \[1\].*call func") as caught:
        solve(lambda t, y: torch.stack([-y[0], torch.log(-y[1])]), Y0, T, method=method)
    assert caught.value.status is Status.NON_FINITE
    assert caught.value.component == (1,)


def test_nan_from_func_at_the_start_leaves_the_start() -> None:
    """With its gradient, which needs nothing of func; and whether it is linear cannot be asked."""
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def undefined(t: Tensor, y: Tensor) -> Tensor:
        return torch.log(-y)

    solution = solve(undefined, y0, times(0, 1), method="cn", steps=Grid(2), throw=False)
    assert solution.status is Status.NON_FINITE
    (gradient,) = torch.autograd.grad(solution.y.sum(), y0)
    assert torch.equal(gradient, torch.ones_like(y0)), "look at start_slopes of a failed run"
    split = Split(undefined, lambda t, y: -y, linear=True)
    solution = solve(split, y0, times(0, 1), method="arkimex-3", steps=Grid(2), throw=False)
    assert solution.status is Status.NON_FINITE


@pytest.mark.parametrize("method", ["bdf", "cn", "dopri5"])
def test_nan_from_func_on_the_way(method: str) -> None:
    """The square root of a quantity that reaches zero at t = 1: cut steps do not help, time is named."""
    with pytest.raises(SolveError) as caught:
        solve(
            lambda t, y: torch.stack([-torch.ones_like(y[0]) / torch.sqrt(y[0]), -y[1]]),
            Y0,
            times(0, 5),
            method=method,
        )
    assert 0.6 < caught.value.t < 0.7, "y0² of y' = -1/sqrt(y) vanishes at t = 2/3"
    assert caught.value.solution is not None
    assert len(caught.value.solution.t) == 1
    assert "Try:" in str(caught.value)


def test_explicit_blow_up_names_an_implicit_method() -> None:
    with pytest.raises(SolveError, match="bdf"):
        solve(lambda t, y: -1e6 * y**3, Y0, times(0, 10), method="rk4", steps=Fixed(0.5))


def test_an_explicit_step_far_too_long_is_cut() -> None:
    """Its stages overflow; the error norm must reject the step, not end the run."""
    solution = solve(
        lambda t, y: -1e3 * y**5, 10 * Y0, times(0, 1e-6), method="dopri5", steps=Adaptive(initial=1e-6)
    )
    exact = ((10 * Y0) ** -4 + 4e3 * 1e-6) ** -0.25
    torch.testing.assert_close(solution.y[-1], exact, rtol=1e-5, atol=0)
    assert solution.stats.rejected > 0


def test_step_limit() -> None:
    with pytest.raises(SolveError, match=r"step limit.*max_steps") as caught:
        solve(decay, Y0, times(0, 1e3), method="bdf", steps=Adaptive(max_steps=5))
    assert caught.value.status is Status.MAX_STEPS
    assert caught.value.t > 0


def test_smallest_step() -> None:
    with pytest.raises(SolveError, match="too small") as caught:
        solve(lambda t, y: y**2, Y0, times(0, 2), rtol=1e-6)
    assert abs(caught.value.t - 0.5) < 1e-3, "y' = y² from 2 blows up at t = 1/2"
    with pytest.raises(SolveError, match="too small"):
        solve(decay, Y0, T, steps=Adaptive(minimum=0.5), rtol=1e-10)


def test_bounds_on_the_step_size() -> None:
    slow = solve(lambda t, y: -1e-3 * y, Y0, T, method="dopri5", steps=Adaptive(initial=1.0, maximum=0.01))
    assert max(ends[0] for ends in slow.steps.ends) <= 0.01 * (1 + 1e-9)
    # 0.075 is below the minimum only because it lands on an output: nothing asked for it.
    landed = solve(
        decay, Y0, times(0, 0.15), rtol=1e-2, steps=Adaptive(initial=0.1, minimum=0.09, maximum=0.1)
    )
    assert landed.stats.accepted == 2
    torch.testing.assert_close(landed.y[-1], Y0 * math.exp(-0.15), rtol=1e-2, atol=0)


def test_partial_solution() -> None:
    y0 = Y0.clone().requires_grad_()
    t = times(0, 0.1, 0.2, 10)
    solution = solve(lambda t, y: y**2, y0, t, throw=False)
    assert not solution.success
    assert solution.status is Status.STEP_TOO_SMALL
    assert solution.t.tolist() == [0, 0.1, 0.2]
    assert solution.y.shape == (3, 2)
    (gradient,) = torch.autograd.grad(solution.y[-1].sum(), y0)
    # y(t) = y0/(1 − t y0), so dy/dy0 = 1/(1 − t y0)².
    torch.testing.assert_close(gradient, 1 / (1 - 0.2 * Y0) ** 2, rtol=1e-4, atol=0)


def test_an_error_comes_back_from_another_process() -> None:
    """Pools of workers pickle what they raise; the solution, which has a graph, is not taken along."""
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(SolveError) as caught:
        solve(lambda t, y: y**2, y0, times(0, 0.5, 2), steps=Adaptive(max_steps=300))
    error = caught.value
    assert error.solution is not None
    returned = pickle.loads(pickle.dumps(error))
    assert str(returned) == str(error)
    assert returned.solution is None
    for name in ("status", "t", "h", "component", "hint"):
        assert getattr(returned, name) == getattr(error, name), (
            f"{name} is lost; look at SolveError.__reduce__"
        )


def test_newton_failure_names_the_component() -> None:
    def rough(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-y[0], -10 * torch.sign(y[1])])

    with pytest.raises(SolveError, match=r"Newton's iteration.*component \[1\].*scale the state") as caught:
        # So close to the jump no step is short enough.
        solve(rough, torch.tensor([1.0, 1e-9], dtype=torch.float64), T, method="cn", steps=Grid(2))
    assert caught.value.status is Status.NEWTON_FAILED


def test_times_that_differ_by_rounding_only() -> None:
    """As a time of a grid does from the same time written out."""
    grid = torch.linspace(0, 1e-3, 11, dtype=torch.float64)
    t = torch.cat([grid, torch.tensor([3e-4], dtype=torch.float64)]).unique()
    assert 0 < (t[4] - t[3]).item() < 1e-18
    with pytest.raises(ValueError, match=r"t\[3\] = 0\.0002999.* and t\[4\] = 0\.0003.* rounding only"):
        solve(decay, Y0, t)
