"""What func is called with if samples have times of their own, and what such solves refuse."""

from __future__ import annotations

import pytest
import torch
from own_times import Kinetics, starts, times
from torch import Tensor

import stiffml
from stiffml import GMRES, Adaptive, Discrete, Disk, Fixed, Grid, Recorded, SolveError, odeint, solve

D = torch.float64


def reference(t: Tensor, y: Tensor) -> Tensor:
    """By components, so that it is right however times and samples come."""
    a, b = y.unbind(-1)
    t = t.reshape(*t.shape, *(1,) * (a.dim() - t.dim())) if t.dim() else t
    return torch.stack([-2 * a + b * torch.cos(t), -b + torch.sin(t)], -1)


def one_time(t: Tensor, y: Tensor) -> Tensor:
    """For one time and many samples, whose components are the last dimension."""
    matrix = torch.tensor([[-2.0, 0.0], [0.0, -1.0]], dtype=D)
    return y @ matrix + torch.stack([y[:, 1] * torch.cos(t), torch.sin(t).expand(len(y))], 1)


def column(t: Tensor, y: Tensor) -> Tensor:
    """For one time, or a column of them."""
    return y * torch.tensor([-2.0, -1.0], dtype=D) + torch.cat(
        [y[..., 1:] * torch.cos(t), torch.sin(t) * torch.ones_like(y[..., :1])], -1
    )


def many_times(t: Tensor, y: Tensor) -> Tensor:
    """For a time of each sample, (batch,), and nothing else."""
    return torch.stack([-2 * y[:, 0] + y[:, 1] * torch.cos(t), -y[:, 1] + torch.sin(t[:, None])[:, 0]], 1)


def branching(t: Tensor, y: Tensor) -> Tensor:
    """Python looks at the time, so that only one can be given."""
    return reference(t, y) if float(t) > -1 else y


@pytest.mark.parametrize("method", ["bdf3", "dopri5"])
@pytest.mark.parametrize("func", [one_time, column, many_times, branching])
def test_forms_of_func(func, method: str) -> None:
    """However func takes times: as many samples as components are no trap."""
    y0 = starts(2).requires_grad_()
    t = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.3, 1.9]], dtype=D)
    arguments = {"method": method, "batch_dims": 1, "rtol": 1e-8, "atol": 1e-10}
    found, expected = (odeint(f, y0, t, **arguments) for f in (func, reference))
    assert float((found - expected).detach().abs().max()) <= 1e-12
    a, b = (torch.autograd.grad(y.square().sum(), y0)[0] for y in (found, expected))
    assert float((a - b).abs().max()) <= 1e-11


def test_one_call_for_all_samples() -> None:
    """The stages of all samples are evaluated together, and samples that ended are left out."""
    func, sizes = Kinetics(), []

    def counted(t: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(y))
        return func(t, y)

    y0, t = starts(), times()
    t[0, 1:] = torch.tensor([0.001, 0.002, 0.003], dtype=D)
    calls, states = [], []
    for samples in ([0, 1, 2, 3], [1], [2], [3]):
        sizes.clear()
        with torch.no_grad():
            arguments = {"batch_dims": 1, "method": "rk4", "steps": Fixed(1e-3)}
            solution = solve(counted, y0[samples], t[samples], **arguments)
        calls.append(len(sizes))
        states.append(solution.stats.rhs_evals)
    trials = 60
    assert calls[0] <= max(calls[1:]) + trials, f"{calls}: look at SideBySide and at past.attempts"
    assert states[0] <= sum(states[1:]) + 4 * 5, (
        f"{states}: the first sample takes three steps of four stages"
    )


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (lambda t, y: -y * y.mean(0), "sample.*differs.*batch statistics"),
        (lambda t, y: -torch.ones(4, 1, dtype=D) * y, "goes into the state"),
        (lambda t, y: t[:].reshape(1, -1) * torch.ones_like(y[:, :1]), r"shape \(4, 4\).*t\[:, None\]"),
        (lambda t, y: y[:3], "func returned shape"),
    ],
    ids=["coupled", "of a fixed batch", "times in the wrong dimension", "another shape"],
)
def test_wrong_functions_are_noticed(func, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        odeint(func, starts(), times(), batch_dims=1)


def test_times_broadcast_over_components() -> None:
    """With as many samples as components, t of (batch,) is broadcast over components, and noticed."""
    with pytest.raises(ValueError, match=r"t\[:, None\]"):
        odeint(lambda t, y: t[:] * torch.ones_like(y) - y, starts(2), times()[:2], batch_dims=1)


REFUSED = {
    "event": {"event": lambda t, y: y[0, 0]},
    "bounds": {"bounds": (0.0, None)},
    "breakpoints": {"breakpoints": [0.2]},
    "through": {"through": [0.2]},
    "options": {"options": {"ts_adapt_safety": 0.8}},
    "stepping": {"stepping": "all-at-once"},
    "linear": {"linear": GMRES()},
    "jacobian": {"jacobian": "coloured"},
    "adjoint": {"adjoint": Discrete(checkpoints=5)},
    "adjoint ": {"adjoint": Discrete(checkpoints=Disk("/tmp"))},
    "steps": {"steps": [Recorded([[1.0]])]},
    "steps ": {"steps": Recorded([[1.0], [1.0], [1.0]])},
    "mass": {"mass": torch.ones(4, 2, dtype=D)},
    "make_consistent": {"make_consistent": True},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    what = name.strip() if name != "jacobian" else "linear"
    with pytest.raises(ValueError, match=rf"^{what}"):
        solve(Kinetics(), starts(), times(), batch_dims=1, **REFUSED[name])


@pytest.mark.parametrize(
    ("t", "message"),
    [
        (times()[:3], r"\(4, n\)"),
        (
            torch.cat([times()[:3], -times()[3:]]),
            r"increases for sample \[0\] and decreases for sample \[3\]",
        ),
        (times()[:, [0, 2, 1, 3]], r"for sample \[0\] t\[1\] = 0.2"),
        (times() * float("nan"), r"not finite at position \[0, 0\]"),
    ],
    ids=["too few", "mixed directions", "unordered", "not a number"],
)
def test_wrong_times(t: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(Kinetics(), starts(), t, batch_dims=1)


def test_no_guess_for_shared_times() -> None:
    guess = solve(Kinetics(), starts(), times(), batch_dims=1)
    with pytest.raises(ValueError, match="guess: every sample"):
        solve(Kinetics(), starts(), times()[0], batch_dims=1, steps=Grid(3), guess=guess)


def test_without_batch_dims() -> None:
    with pytest.raises(ValueError, match="batch_dims=1"):
        solve(Kinetics(), starts(), times())


def test_a_sample_that_fails() -> None:
    """The message names the sample, the time and the step; the others reach their ends."""
    y0 = torch.tensor([[0.1], [0.2], [5.0], [0.1]], dtype=D, requires_grad=True)
    with pytest.raises(SolveError, match=r"for sample \[2\] the step size.*t = 0\.29999.*\[2, 0\]") as caught:
        odeint(lambda t, y: y**2, y0, times(), batch_dims=1)
    assert abs(caught.value.t - 0.3) < 1e-4
    solution = solve(lambda t, y: y**2, y0, times(), batch_dims=1, throw=False)
    assert solution.status is stiffml.Status.STEP_TOO_SMALL
    reached = torch.isfinite(solution.y[..., 0])
    assert reached[:, [0, 1, 3]].all()
    assert reached[:, 2].tolist() == [True, True, False, False]
    exact = y0[:, 0] / (1 - y0[:, 0] * (times() - times()[:, :1]).T)
    assert torch.allclose(solution.y[..., 0][reached], exact[reached], rtol=1e-5)
    loss = torch.where(reached, solution.y[..., 0], 0.0).sum()
    (gradient,) = torch.autograd.grad(loss, y0)
    (wanted,) = torch.autograd.grad(torch.where(reached, exact, 0.0).sum(), y0)
    assert torch.allclose(gradient, wanted, rtol=1e-4)


def test_step_limit_counts_for_each_sample() -> None:
    with pytest.raises(SolveError, match=r"for sample \[0\], and for 3 other samples the step limit"):
        solve(Kinetics(), starts(), times(), batch_dims=1, steps=Adaptive(max_steps=5))


@pytest.mark.parametrize("method", ["bdf2", "rosw-rodas3"])
def test_algebraic_equations(method: str) -> None:
    """A mass matrix for all samples; initial values are checked and made consistent one by one."""
    k = torch.tensor(0.7, dtype=D, requires_grad=True)
    mass = torch.tensor([1.0, 0.0], dtype=D)

    def func(t: Tensor, y: Tensor) -> Tensor:
        a, b = y.unbind(-1)
        return torch.stack([-k * a + b, a + b - torch.exp(-t)], -1)

    t, a = times(), starts()[:, 0]
    rough = torch.stack([a, torch.zeros_like(a)], 1).requires_grad_()
    with pytest.raises(ValueError, match=r"sample \[0\]: y0 is not consistent"):
        odeint(func, rough, t, batch_dims=1, mass=mass, method=method)
    arguments = {"mass": mass, "method": method, "make_consistent": True, "rtol": 1e-7, "atol": 1e-9}
    y = odeint(func, rough, t, batch_dims=1, **arguments)
    expected = torch.stack([odeint(func, u, own, **arguments) for u, own in zip(rough, t, strict=True)], 1)
    assert float((y - expected).detach().abs().max()) <= 1e-5
    found, wanted = (torch.autograd.grad(v.square().sum(), [k, rough]) for v in (y, expected))
    for g, w in zip(found, wanted, strict=True):
        assert float((g - w).abs().max()) <= 1e-4
