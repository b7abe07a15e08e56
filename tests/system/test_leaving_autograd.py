"""Functions that leave autograd on the way: noticed before the run, and no false alarms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from methods import as_taken
from small_problems import times
from torch import Tensor, nn

import problems
from stiffml import (
    METHODS,
    Grid,
    ODEBlock,
    Split,
    check_gradients,
    odeint,
    sensitivities,
    solve,
)
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.function.span import Span
from stiffml.system.state import Layout
from stiffml.system.trials import try_out

D = torch.float64
T = times(0, 0.5, 1)


def _without_gradients(t: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return -3 * y


LEAVES = {
    "data": lambda t, y: -3 * y.data,
    "detach": lambda t, y: -3 * y.detach(),
    "numpy": lambda t, y: torch.from_numpy(-3 * y.detach().numpy()),
    "no_grad": _without_gradients,
    "numbers": lambda t, y: torch.tensor([-3 * float(v) for v in y.detach()], dtype=y.dtype),
}

LEAVES_IN_PART = {
    "half": lambda t, y: -3 * y.detach() - y,
    "factor": lambda t, y: -y * y.detach().square(),
    "one component": lambda t, y: torch.stack([-y[0], -y[1] * float(y[0].detach())]),
    "small": lambda t, y: -1e3 * y + 0.9 * y.detach().flip(-1),
    "switched": lambda t, y: -y * torch.as_tensor(np.exp(y.detach().numpy())),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["data", "half"])
def test_a_function_that_leaves_autograd(name: str, kind: str) -> None:
    func = as_taken(name, {**LEAVES, **LEAVES_IN_PART}[kind])
    y0 = torch.ones(2, dtype=D, requires_grad=True)
    with pytest.raises(ValueError, match=r"func: its value changes with y.*leaves autograd.*torch\.stack"):
        solve(func, y0, T, method=name, steps=Grid(2))


@pytest.mark.parametrize("kind", [*LEAVES, *LEAVES_IN_PART])
@pytest.mark.parametrize("start", [[1.0, 1.0], [0.3, 0.7], [1e-9, 2e5]])
def test_every_way_out_of_autograd_is_seen(kind: str, start: list[float]) -> None:
    func = {**LEAVES, **LEAVES_IN_PART}[kind]
    for dtype in (D, torch.float32):
        y0 = torch.tensor(start, dtype=dtype, requires_grad=True)
        if kind == "switched" and start[1] > 1e4:
            continue  # the exponential overflows
        if kind == "small" and dtype is torch.float32:
            continue  # not resolved
        for method in ("cn", "dopri5"):
            with pytest.raises(ValueError, match="leaves autograd"):
                solve(func, y0, T.to(dtype), method=method, steps=Grid(2))


def test_leaving_autograd_from_parameters_and_in_other_entries() -> None:
    k = torch.tensor([2.0, 3.0], dtype=D, requires_grad=True)
    y0 = torch.ones(2, dtype=D)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -k * y.detach()

    arguments = {"params": [k], "method": "cn", "steps": Grid(2)}
    for call in (
        lambda: solve(func, y0, T, **arguments),
        lambda: odeint(func, y0, T, **arguments),
        lambda: ODEBlock(func, T, **arguments)(y0),
        lambda: sensitivities(func, y0, T, **arguments),
        lambda: check_gradients(func, y0, T, **arguments),
        lambda: solve(func, y0, T, breakpoints=[0.3], **arguments),
        lambda: solve(Split(lambda t, y: -y, func), y0, T, params=[k], method="arkimex-3", steps=Grid(2)),
        lambda: solve(Split(func, lambda t, y: -y), y0, T, params=[k], method="arkimex-3", steps=Grid(2)),
    ):
        with pytest.raises(ValueError, match="leaves autograd"):
            call()


@pytest.mark.parametrize("kind", LEAVES)
def test_without_gradients(kind: str) -> None:
    """Explicit methods need no derivatives, implicit ones always do."""
    y0 = torch.ones(2, dtype=D)
    y = odeint(LEAVES[kind], y0, T, method="dopri5")
    torch.testing.assert_close(y[-1], y0 * np.exp(-3), rtol=1e-4, atol=0)
    for method in ("bdf", "rosw-ra34pw2"):
        with pytest.raises(ValueError, match="for torch it does not depend on y at all"):
            odeint(LEAVES[kind], y0, T, method=method)


@pytest.mark.parametrize("kind", LEAVES_IN_PART)
def test_half_a_jacobian_without_gradients(kind: str) -> None:
    """Newton's iteration converges with one, if slowly; a Rosenbrock step has it in its formula."""
    if kind in ("small", "switched"):
        return  # it does not converge
    y0 = torch.tensor([0.5, 0.8], dtype=D)
    right = odeint(LEAVES_IN_PART[kind], y0, T, method="dopri5", rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(odeint(LEAVES_IN_PART[kind], y0, T, method="bdf3"), right, rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="torch sees only part"):
        odeint(LEAVES_IN_PART[kind], y0, T, method="rosw-rodas3")


def test_the_message_names_a_component() -> None:
    y0 = torch.tensor([1.0, 2.0], dtype=D, requires_grad=True)
    with pytest.raises(ValueError, match=r"only part of how it depends on y.*component \[1\]"):
        solve(LEAVES_IN_PART["one component"], y0, T)


def _table(t: Tensor, y: Tensor) -> Tensor:
    values = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0], dtype=y.dtype)
    return -values[(y.detach() * 3).long().clamp(0, 4)] * y


class Exact(torch.autograd.Function):
    """What leaves torch with a backward of its own."""

    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return torch.as_tensor(np.sin(y.detach().numpy()))

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> Tensor:
        return cotangent * torch.cos(ctx.saved_tensors[0])


HONEST = {
    "relu": lambda t, y: 1 - torch.relu(y),
    "abs": lambda t, y: -y.abs() + 1,
    "clamp": lambda t, y: 1 - y.clamp(0, 1),
    "root": lambda t, y: 1 - torch.sqrt(y),
    "logarithm": lambda t, y: -torch.log(y + 1e-3),
    "logarithm below": lambda t, y: torch.log1p(-y) - y,
    "where": lambda t, y: torch.where(y > 0.5, -y, 1 - y),
    "sign": lambda t, y: -torch.sign(y - 0.1),
    "table": _table,
    "steep": lambda t, y: -torch.tanh(1e6 * (y - 0.37)) - y,
    "fast": lambda t, y: torch.sin(1e9 * y) - y,
    "arrhenius": lambda t, y: -y * torch.exp(-60 / (y + 0.2)),
    "cancelling": lambda t, y: (y + 1e3) - 1e3 - 2 * y,
    "offset": lambda t, y: torch.exp((y + 300) / 300) - torch.exp(torch.ones_like(y)) - y / 100,
    "stiff": lambda t, y: -1e12 * (y - y.mean(-1, keepdim=True)) - 1e-6 * y,
    "single inside": lambda t, y: (-(y.float() * 1.5)).to(y.dtype),
    "half inside": lambda t, y: -(y.to(torch.bfloat16) * 1.5).to(y.dtype),
    "constant": lambda t, y: torch.ones_like(y),
    "integers": lambda t, y: torch.ones(y.shape, dtype=torch.int64),
    "own backward": lambda t, y: -Exact.apply(y),
    "zero": lambda t, y: 0 * y,
    "conserved": lambda t, y: y.flip(-1) - y,
}


@pytest.mark.parametrize("kind", HONEST)
def test_no_false_alarm(kind: str) -> None:
    """Kinks, jumps, rounding, and functions that are not defined everywhere near the start."""
    starts = ([0.0, 0.0], [1.0, 1.0], [0.0, 0.5], [1 / 3, 0.9], [1e-12, 1e-3], [1.0, 0.0])
    for start, dtype in [(start, dtype) for start in starts for dtype in (D, torch.float32)]:
        if dtype is torch.float32 and kind == "own backward":
            continue
        u = torch.tensor(start, dtype=dtype)
        f = Dynamics(HONEST[kind], Layout.of(u, 0))
        f.span = Span(0.0, 1.0)
        for blocks in (False, True):
            try_out(f, 0.0, u.double().numpy(), exact=True, blocks=blocks)


@pytest.mark.parametrize("seed", range(5))
def test_no_false_alarm_for_networks(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for activation in (nn.ReLU(), nn.LeakyReLU(), nn.GELU(), nn.Hardtanh()):
        net = nn.Sequential(nn.Linear(4, 200), activation, nn.Linear(200, 200), activation, nn.Linear(200, 4))
        for dtype in (D, torch.float32):
            net = net.to(dtype)
            u = torch.randn(3, 4, generator=generator, dtype=D).to(dtype)
            for y0 in (u, torch.zeros_like(u), u.round()):
                f = Dynamics(lambda t, y, net=net: net(y), Layout.of(y0, 1))
                try_out(f, 0.0, y0.double().reshape(-1).numpy(), exact=True, blocks=True)


@pytest.mark.parametrize("name", problems.names())
def test_no_false_alarm_in_the_library(name: str) -> None:
    problem = problems.load(name)
    funcs = [problem.func()]
    if problem.parts is not None:
        split = problem.split()
        funcs += [split.implicit, split.explicit]
    u = problem.initial_state()
    for func in funcs:
        f = Dynamics(func, Layout.of(u, 0))
        f.span = Span(*problem.t_span)
        try_out(f, problem.t_span[0], u.reshape(-1).numpy(), exact=True, blocks=u.numel() <= 256)
