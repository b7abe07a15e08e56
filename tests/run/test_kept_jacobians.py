"""Newton's iteration with Jacobians of earlier steps: steps are solved for as well as with new ones."""

from __future__ import annotations

import math

import pytest
import torch
from methods import ADAPTIVE
from torch import Tensor

from stiffml import METHODS, Grid, Solution, Split, solve
from stiffml.run.kept_jacobian import EXACT, MOST_KEPT, OLDEST, PAUSE, KeptJacobian

D = torch.float64
KEEPING = [name for name in ADAPTIVE if METHODS[name].newton]
FEW = ("bdf3", "dirk-es325sal", "arkimex-3", "sdirk3")
Y0 = torch.tensor([1.0, 0.0, 0.0], dtype=D)
T = torch.tensor([0.0, 1e-2, 1.0, 10.0], dtype=D)
ATOL = torch.tensor([1e-6, 1e-10, 1e-6], dtype=D)
RTOL = 1e-4


def robertson(t: Tensor, y: Tensor, k: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    slow, fast, back = k[0] * a, k[1] * b**2, k[2] * b * c
    return torch.stack([back - slow, slow - back - fast, fast], -1)


def solved(method: str, k: Tensor, **settings) -> Solution:
    def func(t: Tensor, y: Tensor) -> Tensor:
        return robertson(t, y, k)

    whole = func if METHODS[method].whole else Split(func, lambda t, y: torch.zeros_like(y))
    start = Y0.expand(2, 3) if settings.get("batch_dims") else Y0
    return solve(whole, start, T, method=method, params=[k], **settings)


@pytest.mark.parametrize(
    "method", [name if name in FEW else pytest.param(name, marks=pytest.mark.sweep) for name in KEEPING]
)
@pytest.mark.parametrize("how", ["dense", "blocks", "sparse"])
def test_few_jacobians_and_the_same_steps(method: str, how: str) -> None:
    """The states and the gradient are those of the same steps, solved for to rounding with new Jacobians."""
    k = torch.tensor([0.04, 3e7, 1e4], dtype=D, requires_grad=True)
    settings: dict = {"blocks": {"batch_dims": 1}, "sparse": {"jacobian": "coloured"}}.get(how, {})
    atol = ATOL.expand(2, 3) if how == "blocks" else ATOL
    found = solved(method, k, rtol=RTOL, atol=atol, **settings)
    stats = found.stats
    assert stats.jacobians < 0.5 * stats.newton_iterations, f"{stats}: look at run/kept_jacobian.py"
    exact = solved(method, k, steps=found.steps, stepping="sequential", **settings)
    off = (found.y - exact.y).detach().abs() / (RTOL * exact.y.detach().abs() + ATOL)
    # Explicit first stages divide what Newton leaves by the step: a stiff component then shows more of it.
    assert float(off.max()) < 2e-3, f"{float(off.max())} of a tolerance: look at KeptJacobian.judge"
    one, other = (torch.autograd.grad(s.y[-1, ..., 1:].sum(), k)[0] * k for s in (found, exact))
    assert float(((one - other) / other).detach().abs().max()) < 1e-8


def test_known_steps_take_new_jacobians() -> None:
    k = torch.tensor([0.04, 3e7, 1e4], dtype=D)
    stats = solved("bdf3", k, steps=Grid(20), stepping="sequential").stats
    assert stats.jacobians >= stats.newton_iterations


def test_compiled_functions_take_new_jacobians() -> None:
    k = torch.tensor([0.04, 3e7, 1e4], dtype=D)
    stats = solved("bdf3", k, rtol=RTOL, atol=ATOL, compile=True).stats
    assert stats.jacobians >= 0.9 * stats.newton_iterations


@pytest.mark.parametrize("method", ["bdf3", "sdirk3", "dirk-es325sal"])
def test_a_solve_that_fails_with_an_old_jacobian(method: str) -> None:
    """The rate jumps: with an old Jacobian f is not finite; PETSc cuts the step, sdirk3 solves it again."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -(1 + 1e5 * torch.sigmoid((t - 1) / 1e-3)) * (y**1.5 - 0.1)

    y0, t = torch.tensor([1.0], dtype=D), torch.tensor([0.0, 2.0], dtype=D)
    found = solve(func, y0, t, method=method, rtol=1e-4, atol=1e-7)
    assert float(found.y[-1]) == pytest.approx(0.1 ** (2 / 3), rel=1e-4)


def test_a_singular_mass_matrix() -> None:
    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-y[..., 0] * y[..., 1], y[..., 0] + y[..., 1] ** 3 - 2], -1)

    y0, t = torch.tensor([1.0, 1.0], dtype=D), torch.tensor([0.0, 1.0, 3.0], dtype=D)
    found = solve(func, y0, t, method="bdf3", mass=torch.tensor([1.0, 0.0], dtype=D), rtol=1e-6, atol=1e-9)
    assert found.stats.jacobians < 0.3 * found.stats.newton_iterations
    assert float((found.y[:, 0] + found.y[:, 1] ** 3 - 2).abs().max()) < 1e-11


class TestUse:
    """The rules, one by one."""

    @staticmethod
    def kept() -> KeptJacobian:
        use = KeptJacobian()
        use.begins()
        use.is_renewed()
        assert use.judge(1e3, math.inf) is None, "a new Jacobian is judged by other rules"
        return use

    def test_ends_where_the_rest_is_small(self) -> None:
        use = self.kept()
        use.is_used()
        assert use.judge(1.0, 1e3) is False  # leaves 1e-3
        use.is_used()
        assert use.judge(1e-3, 1.0) is True  # leaves 1e-6
        use.has_converged()
        assert not use.wants_new

    def test_one_update_tells_nothing_of_the_rest(self) -> None:
        use = self.kept()
        use.has_converged()
        use.begins()
        use.is_used()
        assert use.judge(2 * EXACT, math.inf) is False

    def test_a_lucky_quotient(self) -> None:
        use = self.kept()
        for size, previous in ((200.0, 1e3), (1e-3, 200.0)):
            use.is_used()
            assert use.judge(size, previous) is False, "0.3 of the quotient before counts"

    def test_slow_contraction(self) -> None:
        use = self.kept()
        use.is_used()
        assert use.judge(500.0, 1e3) is False
        assert use.wants_new
        use.is_renewed()
        assert use.wants_new, "the rest of the solve takes new Jacobians"
        assert use.judge(1.0, 500.0) is None
        assert use.iterations == 2, "these do not count towards the limit of iterations"

    def test_many_iterations(self) -> None:
        use = self.kept()
        size = 1e9
        for _ in range(MOST_KEPT - 1):
            assert not use.wants_new
            use.is_used()
            use.judge(0.2 * size, size)
            size *= 0.2
        assert use.wants_new

    def test_age(self) -> None:
        use = self.kept()
        use.has_converged()
        for _ in range(OLDEST - 1):
            assert not use.wants_new
            use.begins()
            use.has_converged()
        assert use.wants_new

    def test_where_it_gains_nothing_it_is_left_for_a_while(self) -> None:
        use, exact = KeptJacobian(), []
        for _ in range(PAUSE + 10):
            use.begins()
            exact.append(use.is_exact)
            use.is_renewed()
            use.judge(1.0, math.inf)
            use.is_used()
            use.judge(0.9, 1.0)  # hardly any contraction
            use.has_converged()
        assert exact.index(True) < 10
        assert sum(exact) == PAUSE
        assert not exact[-1]

    def test_solves_that_end_where_they_begin(self) -> None:
        """No Jacobian was made, so the next solve still wants one."""
        use = KeptJacobian()
        use.begins()
        use.has_converged()
        assert use.wants_new

    def test_after_a_failure(self) -> None:
        use = self.kept()
        use.is_used()
        use.begins()
        assert use.wants_new

    def test_one_repetition_of_a_solve(self) -> None:
        use = self.kept()
        assert not use.may_repeat(), "the Jacobian was new"
        use.has_converged()
        use.begins()
        use.is_used()
        assert use.may_repeat()
        use.begins()
        use.is_used()
        assert not use.may_repeat()
        use.has_converged()
        use.begins()
        use.is_used()
        assert use.may_repeat()
