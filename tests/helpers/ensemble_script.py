"""What test_ensemble.py runs on several processes: checks against a module without Ensemble, then an end.

``ensemble_script.py together NAME …`` runs checks, or all for ``all``, on every rank. With another word than
``together`` the last rank then ends by raise, exit, kill or leave, the others being busy with a solve.
"""

from __future__ import annotations

import atexit
import copy
import os
import re
import signal
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_problems import SmallNetwork, times
from torch import Tensor, nn

from stiffml import Grid, Newton, ODEBlock, SolveError, Status
from stiffml.distributed import Ensemble, EnsembleError
from stiffml.distributed.processes import processes, shares

T = times(0, 0.3, 1)
FIXED: dict[str, Any] = {"method": "cn", "steps": Grid(4), "newton": Newton(rtol=1e-14, atol=1e-16)}


def samples(count: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *(shape or (3,)), dtype=torch.float64, generator=generator).requires_grad_()


def weighted(y: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A loss that tells samples apart."""
    parts = y if isinstance(y, tuple) else (y,)
    losses = [torch.sin(part.movedim(1, -1) + torch.arange(part.shape[1])).sum() for part in parts]
    return sum(losses, torch.zeros(()))


def failure(call: Callable[[], object]) -> Exception:
    """The exception that a call raises."""
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("no error")


def raises(kind: type[Exception], pattern: str, call: Callable[[], object]) -> None:
    """On every rank; one without samples has an EnsembleError where the others have their own."""
    error = failure(call)
    assert isinstance(error, kind | EnsembleError), repr(error)
    assert re.search(pattern, str(error)), str(error)


def assert_same(module: nn.Module, y0: Tensor | tuple[Tensor, ...], orders: int = 1) -> None:
    """Values and gradients, up to those of an order, with and without Ensemble."""
    inputs = [*(y0 if isinstance(y0, tuple) else (y0,)), *(p for p in module.parameters() if p.requires_grad)]
    found = []
    for layer in (module, Ensemble(module)):
        y = layer(y0)
        values = list(y) if isinstance(y, tuple) else [y]
        total = weighted(y)
        for order in range(1, orders + 1):
            gradients = torch.autograd.grad(total, inputs, create_graph=order < orders)
            values += gradients
            total = sum((torch.cos(gradient).sum() for gradient in gradients), torch.zeros(()))
        found.append(values)
    for expected, value in zip(*found, strict=True):
        assert value.shape == expected.shape
        error = (value - expected).norm() / expected.norm()
        assert error <= 1e-12, f"off by {error:.1e}"


def check_uneven_shares() -> None:
    network = SmallNetwork()
    assert_same(ODEBlock(network, T, batch_dims=1, **FIXED), samples(5), orders=2)
    network.hidden.weight.requires_grad_(False)
    assert_same(ODEBlock(network, T, batch_dims=1, method="rk4", steps=Grid(4)), samples(4))


def check_one_sample() -> None:
    assert_same(ODEBlock(SmallNetwork(), T, batch_dims=1, **FIXED), samples(1), orders=2)


def check_tuple_state() -> None:
    network = SmallNetwork()

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            slope = network(t, torch.cat([y[0], y[1].flatten(1)], dim=1))
            return slope[:, :1], slope[:, 1:].reshape(-1, 2, 1)

    block = ODEBlock(Split(), T, batch_dims=1, jacobian="dense", **FIXED)
    y0 = samples(5)
    assert_same(block, (y0[:, :1], y0[:, 1:].reshape(5, 2, 1)))


def check_adaptive_steps() -> None:
    block = ODEBlock(SmallNetwork(), T, batch_dims=1, method="bdf", rtol=1e-4, atol=1e-6)
    y0 = samples(5)
    torch.testing.assert_close(Ensemble(block)(y0), block(y0), rtol=1e-2, atol=1e-3)


def check_without_gradients() -> None:
    network = SmallNetwork()
    unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    network.register_parameter("unused", unused)
    layer = Ensemble(ODEBlock(network, T, batch_dims=1, **FIXED))
    with torch.no_grad():
        assert not layer(samples(3)).requires_grad
    with torch.inference_mode():
        layer(samples(3))
    weighted(layer(samples(3).detach())).backward()
    assert network.out.bias.grad is not None
    assert unused.grad is None, "what nothing depends on has no gradient, and an optimiser leaves it"


def check_training() -> None:
    torch.manual_seed(processes().rank)  # rank 0's weights are taken
    network = SmallNetwork()
    with torch.no_grad():
        network.out.bias += torch.randn(3)
    layer = Ensemble(ODEBlock(network, T, batch_dims=1, method="rk4", steps=Grid(4)))
    alone = copy.deepcopy(layer.module)
    y0 = samples(5).detach()
    for module in (layer, alone):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            weighted(module(y0)).backward()
            optimizer.step()
    weights = [p.detach() for p in layer.parameters()]
    for theirs in processes().exchange(weights):
        assert all(map(torch.equal, theirs, weights)), "the ranks' weights have drifted apart"
    for a, b in zip(weights, alone.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def check_hooks_see_the_whole_gradient() -> None:
    if processes().size == 1:
        return
    network, seen = SmallNetwork(), []
    layer = Ensemble(ODEBlock(network, T, batch_dims=1, **FIXED))
    expected = torch.autograd.grad(weighted(layer.module(samples(5))), network.out.bias)[0]
    network.out.bias.register_hook(lambda g: seen.append(g) or 2 * g)
    weighted(layer(samples(5))).backward()
    assert len(seen) == 1
    torch.testing.assert_close(network.out.bias.grad, 2 * expected, rtol=1e-12, atol=0)


def check_the_graph_is_kept_and_freed() -> None:
    class Watched(ODEBlock):
        def forward(self, y0: Tensor) -> Tensor:
            y = super().forward(y0)
            self.seen = weakref.ref(y)
            return y

    block = Watched(SmallNetwork(), T, batch_dims=1, **FIXED)
    y0 = samples(4)
    loss = weighted(Ensemble(block)(y0))
    first = torch.autograd.grad(loss, y0, retain_graph=True)[0]
    assert block.seen() is not None
    assert torch.equal(torch.autograd.grad(loss, y0)[0], first)
    assert block.seen() is None or processes().size == 1
    raises(RuntimeError, "second time", lambda: torch.autograd.grad(loss, y0))


def check_other_tensors() -> None:
    network = SmallNetwork()

    class Closure(nn.Module):  # whose parameters are not those of the network
        def forward(self, y0: Tensor) -> Tensor:
            return block(y0)

    block = ODEBlock(lambda t, y: network(t, y), T, batch_dims=1, params=network.parameters(), **FIXED)
    y0 = samples(5)
    if processes().size > 1:
        raises(ValueError, "not one of its parameters", lambda: Ensemble(Closure())(y0))
    expected = torch.autograd.grad(weighted(block(y0)), [y0, *network.parameters()])
    layer = Ensemble(Closure(), params=network.parameters())
    found = torch.autograd.grad(weighted(layer(y0)), [y0, *network.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def check_times_with_gradients() -> None:
    factor = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    network, y0 = SmallNetwork(), samples(5)
    found = []
    for wrap in (lambda block: block, Ensemble):
        t = factor * T
        t.retain_grad()
        weighted(wrap(ODEBlock(network, t, batch_dims=1, **FIXED))(y0)).backward()
        found.append((t.grad, factor.grad))
        factor.grad = None
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)
    block = ODEBlock(network, factor * T, batch_dims=1, **FIXED)
    block.register_parameter("factor", nn.Parameter(factor.detach()))
    block.t = block.factor * T
    if processes().size > 1:
        raises(ValueError, "was computed from another", lambda: Ensemble(block)(y0))


def check_bad_input() -> None:
    layer = Ensemble(ODEBlock(SmallNetwork(), T, batch_dims=1, **FIXED))
    if processes().size > 1:
        raises(ValueError, "leading dimension", lambda: layer(samples(5)[:0]))
        raises(ValueError, r"Ensemble\(module, dim=", lambda: Ensemble(layer.module, dim=2)(samples(5)))
        raises(TypeError, "tensor or a tuple", lambda: layer("y0"))
    raises(TypeError, "nn.Module", lambda: Ensemble(torch.sin))


class Troubled(nn.Module):
    """A network that calls ``trouble`` on one rank whenever it is told to, forwards or backwards."""

    def __init__(self, trouble: Callable[[], object]) -> None:
        super().__init__()
        self.network, self.trouble = SmallNetwork(), trouble
        self.on = processes().rank == processes().size - 1

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        if self.on:
            self.trouble()
        return self.network(t, y)


def check_errors_reach_all() -> None:
    last = processes().size - 1
    problem = ValueError("the rate is negative")

    def trouble() -> None:
        raise problem

    func = Troubled(trouble)
    layer = Ensemble(ODEBlock(func, T, batch_dims=1, **FIXED))
    y0 = samples(5)
    for backward in (False, True):
        func.on = processes().rank == last and not backward

        def step() -> None:
            loss = weighted(layer(y0))
            func.on = processes().rank == last
            loss.backward()

        error = failure(step)
        if processes().rank == last:
            assert error is problem
        else:
            assert type(error) is EnsembleError
            assert error.ranks == (last,)
            assert f"rank {last} (samples " in str(error)
            assert "ValueError: the rate is negative" in str(error)
            assert ("backward" in str(error)) == backward
    func.on = False
    y0.grad = None
    weighted(layer(y0)).backward()  # all can go on together
    assert y0.grad is not None


def check_solve_errors_reach_all() -> None:
    """Whoever catches SolveError to try a smaller update does so on every rank."""
    layer = Ensemble(ODEBlock(lambda t, y: y.square(), times(0, 2), batch_dims=1, rtol=1e-3))
    y0 = torch.full((5, 1), 0.1, dtype=torch.float64)
    y0[-1] = 1.0  # of the last rank: infinite at t = 1
    error = failure(lambda: layer(y0))
    assert isinstance(error, SolveError), repr(error)
    assert error.status in (Status.STEP_TOO_SMALL, Status.NEWTON_FAILED, Status.NON_FINITE)
    assert 0.9 < error.t < 1.1
    elsewhere = processes().rank < processes().size - 1
    assert isinstance(error, EnsembleError) == elsewhere
    assert (error.solution is None) == elsewhere


def check_what_differs_between_ranks() -> None:
    if processes().size == 1:
        return
    rank = processes().rank
    network = SmallNetwork()
    layer = Ensemble(ODEBlock(network, T, batch_dims=1, **FIXED))
    y0 = samples(5)
    order = torch.arange(5).roll(rank)
    raises(EnsembleError, "y0 is not the same", lambda: layer(y0[order]))
    loss = (layer(y0) * (1 + rank)).sum()
    raises(EnsembleError, "gradient with respect to y is not the same", loss.backward)
    loss = weighted(layer(y0))
    raises(EnsembleError, "equally often", lambda: loss.backward() if rank else layer(y0))
    with torch.no_grad():
        network.out.bias += rank
    raises(EnsembleError, r"func\.out\.bias is not the same", lambda: layer(y0))
    network.out.bias.requires_grad_(rank == 0)
    raises(EnsembleError, r"func\.out\.bias is not the same", lambda: layer(y0))


def check_shares() -> None:
    assert shares(5, 3) == [2, 2, 1]
    assert shares(1, 3) == [1, 0, 0]


def end(how: str) -> None:
    """Solve together, the last rank ending on the way; the others must end too."""

    def trouble() -> None:
        if how == "raise":
            raise ValueError("the rate is negative")
        if how == "exit":
            sys.exit(3)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

    func = Troubled(trouble)
    layer = Ensemble(ODEBlock(func, T, batch_dims=1, **FIXED))
    if how == "leave" and func.on:
        return
    weighted(layer(samples(5))).backward()
    print("went on", flush=True)


def require_threads_have_ended() -> None:
    """At the end of the program: a thread that then lets go of a tensor may abort the process."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if names.count("pt_gloo_runloop") > 2:  # those of torch's default group, in which nothing is sent
        print(f"threads are left: {names}; look at how processes.py ends", file=sys.stderr, flush=True)
        os._exit(1)


def main() -> None:
    torch.set_num_threads(1)
    atexit.register(require_threads_have_ended)  # first, so that it is called last
    how, *names = sys.argv[1:]
    checks = [name for name in globals() if name.startswith("check_")]
    for name in checks if names == ["all"] else [f"check_{name}" for name in names]:
        globals()[name]()
        if processes().rank == 0:
            print(name, flush=True)
    print(f"done: rank {processes().rank} of {processes().size}", flush=True)
    if how != "together":
        end(how)


if __name__ == "__main__":
    main()
