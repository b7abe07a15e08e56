"""Arguments of a solve that is remembered: those that change, and wrong ones, are noticed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from remembering import Y0, D, Func, T, counted_checks, fresh, gradients, run
from torch import Tensor, nn

from stiffml import BDF, LU, Discrete, Fixed, Grid, KeptSteps, Newton, ODEBlock, solve
from stiffml.training import Run, Runs, fit


@pytest.fixture
def checks() -> Iterator[list[int]]:
    with counted_checks() as found:
        yield found


ARGUMENTS = {
    "method": {"method": "beuler"},
    "method object": {"method": BDF(3)},
    "steps": {"steps": Grid(2)},
    "step size": {"steps": Fixed(0.05)},
    "newton": {"newton": Newton(rtol=1e-6)},
    "adjoint": {"adjoint": Discrete(checkpoints="solutions")},
    "linear": {"linear": LU()},
    "jacobian": {"jacobian": "dense"},
    "stepping": {"stepping": "all-at-once"},
    "through": {"through": [0.55]},
    "bounds": {"bounds": (-10.0, 10.0)},
    "mass": {"mass": torch.tensor([2.0, 1.0], dtype=D)},
    "params": {"params": (torch.ones((), dtype=D, requires_grad=True),)},
    "times": {"t": T + 0.01},
    "direction": {"t": -T},
    "dtype": {"y0": Y0.float()},
    "shape": {"y0": torch.tensor([0.5, 0.2], dtype=D)[None]},
    "tuple": {"y0": None},
    "breakpoints": {"breakpoints": [0.5]},
    "outputs": {"outputs": "interpolate", "steps": Fixed(0.1)},
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_other_arguments_are_checked_in_full(name: str, checks: list[int]) -> None:
    class Cubic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.7, dtype=D))

        def forward(self, t: Tensor, y):
            if isinstance(y, tuple):
                return tuple(-(self.weight * (1 + t) * part**3) for part in y)
            return -(self.weight * (1 + t) * y**3).to(y.dtype)

    func, changed = Cubic(), dict(ARGUMENTS[name])
    y0, t = changed.pop("y0", Y0), changed.pop("t", T)
    y0 = (Y0[:1], Y0[1:]) if y0 is None else y0
    for _ in range(3):
        run(func)
    assert len(checks) == 1
    found = solve(func, y0, t, **{"method": "cn", "steps": Grid(), **changed})
    assert len(checks) > 1
    other = solve(Cubic(), y0, t, **{"method": "cn", "steps": Grid(), **changed})
    torch.testing.assert_close(found.y, other.y, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"method": "cn2"}, ValueError),
        ({"rtol": -1.0}, ValueError),
        ({"rtol": 1e-3}, ValueError),
        ({"atol": 1e-3}, ValueError),
        ({"batch_dims": False}, TypeError),
        ({"stepping": "at once"}, ValueError),
        ({"newton": 3}, TypeError),
        ({"adjoint": "solutions"}, TypeError),
        ({"jacobian": "none"}, ValueError),
        ({"linear": "lu"}, TypeError),
        ({"params": Y0}, TypeError),
        ({"guess": Y0}, TypeError),
        ({"make_consistent": True}, ValueError),
        ({"options": {"ts_none": 1}}, ValueError),
        ({"compile": 1}, TypeError),
        ({"throw": 0}, TypeError),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_arguments_are_errors_still(wrong: dict, error: type[Exception]) -> None:
    func = Func()
    run(func), run(func)
    with pytest.raises(error):
        run(func, **wrong)


@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_tolerances_by_component(name: str, checks: list[int]) -> None:
    """Equal numbers are the same tolerance, whichever tensor has them; another type or shape is another."""
    func, values = Func(), torch.tensor([1e-3, 1e-6], dtype=D)
    same = values.clone()

    def taken(tolerance: Tensor, func: Func = func) -> Tensor:
        tolerances: dict = {"rtol": 1e-4, "atol": 1e-5, name: tolerance}
        return solve(func, Y0, T, method="bdf3", **tolerances).y.detach()

    first = taken(values)
    for _ in range(3):
        assert torch.equal(taken(values.clone()), first)
    assert len(checks) == 1
    values.mul_(1e-2)
    finer = taken(values)
    assert len(checks) == 2
    assert not torch.equal(finer, first)
    assert torch.equal(taken(same), first), "what is remembered shares numbers with the caller's tensor"
    assert torch.equal(finer, taken(values, fresh(func)))
    before = len(checks)
    taken(values.flip(0)), taken(values.float())
    assert len(checks) == before + 2


def test_equal_times_in_another_tensor_are_the_same(checks: list[int]) -> None:
    """And what is returned shares no memory with the tensor of a solve before."""
    func, first = Func(), T.clone()
    found = run(func, t=first).y.detach()
    for _ in range(3):
        again = T.clone()
        solution = run(func, t=again)
        assert torch.equal(solution.y.detach(), found)
        again.zero_()
        first.zero_()
    assert len(checks) == 1
    run(func, t=T + 1e-3), run(func, t=1.1 * T)
    assert len(checks) == 3


def test_newtons_tolerance_by_component(checks: list[int]) -> None:
    func, atol = Func(), torch.tensor([1e-9, 1e-8], dtype=D)
    first = run(func, newton=Newton(rtol=1e-7, atol=atol)).y.detach()
    for _ in range(2):
        assert torch.equal(run(func, newton=Newton(rtol=1e-7, atol=atol.clone())).y.detach(), first)
    assert len(checks) == 1
    for other in (
        Newton(rtol=1e-7, atol=2 * atol),
        Newton(rtol=1e-8, atol=atol),
        Newton(rtol=1e-7, atol=atol, max_iterations=9),
        Newton(rtol=1e-7, atol=1e-9),
    ):
        run(func, newton=other)
    assert len(checks) == 5


def test_the_iterations_of_a_fit(checks: list[int]) -> None:
    """A fit makes times and tolerances anew in each iteration; its arguments are the same all the same."""
    data = Runs([Run("a", T.numpy(), torch.stack([torch.exp(-T), T], 1))], ["A", "B"], initial="known")
    fit(Func(), data, optimizer="adamw", method="cn", iterations=20)
    assert len(checks) <= 5, f"{len(checks)} full checks; look at _kind in interface/remembered.py"


def test_times_changed_in_place_are_noticed(checks: list[int]) -> None:
    func, t = Func(), T.clone()
    run(func, t=t), run(func, t=t)
    t.numpy()[-1] = 1.5  # unseen by torch's count of versions
    solution = run(func, t=t)
    assert len(checks) == 2
    torch.testing.assert_close(solution.y, run(fresh(func), t=t).y, rtol=0, atol=0)
    t[3] = float("nan")
    with pytest.raises(ValueError, match="t is not finite"):
        run(func, t=t)


def test_times_that_get_a_gradient_are_noticed() -> None:
    func, t = Func(), T.clone()
    run(func, t=t), run(func, t=t)
    t.requires_grad_()
    (found,) = torch.autograd.grad(run(func, t=t).y.sum(), t)
    assert found.abs().sum() > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_initial_state_that_is_not_finite_is_an_error(bad: float) -> None:
    func = Func()
    run(func), run(func)
    with pytest.raises(ValueError, match="y0 is not finite at component"):
        run(func, torch.tensor([1.0, bad], dtype=D))


def test_modes_of_torch(checks: list[int]) -> None:
    func = Func()
    run(func), run(func)
    for mode, times in ((torch.no_grad, 2), (torch.inference_mode, 4)):
        before = len(checks)
        for _ in range(4):
            with mode():
                assert not run(func).y.requires_grad
        assert len(checks) == before + times
    before = len(checks)
    assert run(func).y.requires_grad
    assert len(checks) == before


def test_kept_steps(checks: list[int]) -> None:
    func, kept = Func(), KeptSteps()
    for _ in range(5):
        solution = solve(func, Y0, T, method="bdf3", steps=kept)
        gradients(func, solution)
    assert len(checks) == 2, "one for adaptive steps, one for the kept ones"
    other = solve(fresh(func), Y0, T, method="bdf3", steps=solution.steps)
    torch.testing.assert_close(solution.y, other.y, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("arguments", [{"method": "cn", "steps": Grid()}, {"method": "bdf", "rtol": 1e-4}])
def test_a_block(arguments: dict, checks: list[int]) -> None:
    func = Func()
    block = ODEBlock(func, T, **arguments)
    values = [block(Y0) for _ in range(3)]
    assert len(checks) == 1
    torch.testing.assert_close(values[2], ODEBlock(fresh(func), T, **arguments)(Y0), rtol=1e-8, atol=1e-10)


def test_recorded_steps(checks: list[int]) -> None:
    """Their numbers are read anew, and checked."""
    func = Func()
    steps = solve(func, Y0, T, method="cn", steps=Grid(2)).steps
    checks.clear()
    for _ in range(3):
        run(func, steps=steps)
    assert len(checks) == 1
    steps.ends[0].flags.writeable = True
    steps.ends[0][0] = 0.3
    solution = run(func, steps=steps)
    torch.testing.assert_close(solution.y, run(fresh(func), steps=steps).y, rtol=1e-12, atol=0)
    steps.ends[5].flags.writeable = True
    steps.ends[5][0] = 1e-18
    with pytest.raises(ValueError, match="too short for time to move"):
        run(func, steps=steps)
