"""The reverse sweep of explicit methods: each stage once, and the gradients of plain torch."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from methods import EXPLICIT
from small_problems import times
from torch import Tensor, nn

from stiffml import METHODS, Discrete, Disk, Grid, ReplayError, RungeKutta, Solution, solve
from stiffml.methods.tableaux import Butcher


class Counted(nn.Module):
    """A network that depends on time, and counts its calls and the states that they are for."""

    def __init__(self, width: int, size: int, dtype: torch.dtype = torch.float64, branches: bool = False):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.hidden, self.out = nn.Linear(width, 8, dtype=dtype), nn.Linear(8, width, dtype=dtype)
        self.unused = nn.Parameter(torch.ones(2, dtype=dtype))
        for parameter in (*self.hidden.parameters(), *self.out.parameters()):
            nn.init.normal_(parameter, 0.0, 0.5, generator=generator)
        self.size, self.branches, self.calls, self.states = size, branches, 0, 0.0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        self.states += y.numel() / self.size
        if self.branches and float(y.detach().sum()) == 1e99:
            return y
        return self.out(torch.tanh(self.hidden(y) + torch.sin(3 * t)[..., None].to(y.dtype)))


SHAPES = {
    "small": ((3,), 0, False),
    "small in a batch": ((5, 3), 1, False),
    "small with branches": ((3,), 0, True),
    "many": ((500, 3), 1, False),
    "wide": ((4, 20), 0, False),
}


def start_of(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def evaluated(name: str) -> int:
    """The number of stages of a step whose f enters it; the last of some is that of the next step."""
    tableau = tableau_of(name)
    return tableau.stages - int(tableau.stiffly_accurate)


def tableau_of(name: str) -> Butcher:
    method = METHODS[name]
    assert isinstance(method, RungeKutta)
    assert method.tableau.explicit is not None
    return method.tableau.explicit


def by_torch(func: nn.Module, name: str, y: Tensor, t: Tensor, substeps: int) -> Tensor:
    """The steps of a tableau in plain torch, as the oracle."""
    tableau, outputs = tableau_of(name), [y]
    for begin, end in pairwise(t):
        h = (end - begin) / substeps
        for k in range(substeps):
            slopes: list[Tensor] = []
            for a, c in zip(tableau.a.tolist(), tableau.c.tolist(), strict=True):
                stage = y + h * sum((w * f for w, f in zip(a, slopes, strict=False)), torch.zeros_like(y))
                slopes.append(func(begin + h * (k + c), stage))
            y = y + h * sum(w * f for w, f in zip(tableau.b.tolist(), slopes, strict=True))
        outputs.append(y)
    return torch.stack(outputs)


def require_close(found, expected, rtol: float) -> None:
    for a, b in zip(found, expected, strict=True):
        off, size = float((a - b).detach().abs().max()), float(b.detach().abs().max())
        assert off <= rtol * size, f"off by {off / size:.1e}; look at gradients/explicit.py"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", EXPLICIT)
def test_gradients_of_plain_torch(name: str, shape: str) -> None:
    """By y0, parameters and t, on given steps; several outputs, of which one has no part in the loss."""
    dims, batch_dims, branches = SHAPES[shape]
    func, y0 = Counted(dims[-1], start_of(dims).numel(), branches=branches), start_of(dims).requires_grad_()
    t = times(0, 0.3, 0.5, 1.1).requires_grad_()
    inputs = [y0, *func.hidden.parameters(), *func.out.parameters(), t]
    weights = torch.cos(torch.arange(4 * y0.numel(), dtype=torch.float64)).view(4, *dims)
    weights[2] = 0

    def gradients(y: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((weights * y.square()).sum(), inputs)

    found = solve(func, y0, t, method=name, steps=Grid(3), batch_dims=batch_dims)
    expected = by_torch(func, name, y0, t, 3)
    require_close([found.y], [expected], 1e-12)
    require_close(gradients(found.y), gradients(expected), 1e-11)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kept", [Discrete(), Discrete(graphs=0), Discrete("solutions")], ids=str)
@pytest.mark.parametrize("name", EXPLICIT)
def test_how_often_stages_are_evaluated(name: str, kept: Discrete, shape: str) -> None:
    """Forwards once. Backwards once more at most, and never where graphs were kept."""
    dims, batch_dims, branches = SHAPES[shape]
    func, y0 = Counted(dims[-1], start_of(dims).numel(), branches=branches), start_of(dims).requires_grad_()

    def solution() -> Solution:
        t = times(0, 0.3, 0.5)
        return solve(func, y0, t, method=name, steps=Grid(4), batch_dims=batch_dims, adjoint=kept)

    solution().y.sum().backward()  # how func takes several states is found out once
    found = solution()
    # The end of the run besides, for a comparison; where the graph is kept, the start again.
    assert found.stats.rhs_evals <= 8 * evaluated(name) + 2
    func.calls, func.states = 0, 0.0
    found.y.sum().backward()
    adjoint = found.stats.adjoint
    assert adjoint is not None
    needed, width = 8 * evaluated(name), dims[-1]
    if shape not in ("small", "small in a batch"):
        needed = 0 if kept == Discrete() else needed
        assert func.calls == func.states == adjoint.rhs_evals <= needed
    elif kept.checkpoints == "stages":
        # All in one call: the Jacobian of each by as many rows as it has.
        assert func.calls <= 4, "one, one at either end for a comparison, one to see if samples are mixed"
        assert adjoint.rhs_evals <= needed + 3
        assert func.states <= width * needed + 3


class Held:
    """What torch keeps for one operation of a call; counts how many there are at a time."""

    alive = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        Held.alive += 1
        Held.most = max(Held.most, Held.alive)

    def __del__(self) -> None:
        Held.alive -= 1

    def there(self) -> Tensor:
        return self.tensor


@pytest.mark.parametrize("name", EXPLICIT)
def test_no_more_graphs_at_a_time_than_a_step_has_stages(name: str) -> None:
    """That of a state goes with the step that starts there, unless the step before evaluates f there too."""

    def func(t: Tensor, y: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(Held, Held.there):
            return torch.sin(y)  # keeps y

    y0 = start_of((500, 3)).requires_grad_()
    kept = Discrete(checkpoints="solutions")
    y = solve(func, y0, times(0, 1), method=name, steps=Grid(4), batch_dims=1, adjoint=kept).y
    assert Held.alive == 0
    Held.most = 0
    y[-1].sum().backward()
    assert 0 < Held.most <= evaluated(name)  # some stages serve the error estimate alone


def test_graphs_are_kept_as_far_as_there_is_room() -> None:
    func, y0, t = Counted(20, 80), start_of((4, 20)).requires_grad_(), times(0, 1)
    gradients = []
    for room, least, most in ((0, 40, 40), (120e3, 8, 32), (math.inf, 0, 0)):
        y = solve(func, y0, t, method="rk4", steps=Grid(10), adjoint=Discrete(graphs=room)).y
        func.calls = 0
        gradients.append(torch.autograd.grad(y.square().sum(), [y0, func.out.weight]))
        assert least <= func.calls <= most, f"{func.calls} calls with room for {room:g} bytes"
    for found in gradients[1:]:
        require_close(found, gradients[0], 1e-13)


def test_graphs_of_which_something_was_changed_in_place_are_not_used() -> None:
    """Torch notices. Then func is evaluated again, and compared."""
    scale = torch.ones(80, dtype=torch.float64)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -y * scale

    for factor in (1.0, 1.1):
        y0 = torch.ones(80, dtype=torch.float64, requires_grad=True)
        y = solve(func, y0, times(0, 1), method="rk4", steps=Grid(4)).y[-1]
        scale.mul_(factor)
        if factor != 1:
            with pytest.raises(ReplayError, match="func changed"):
                y.sum().backward()
        else:
            y.sum().backward()
            require_close([y0.grad], [y.detach()], 1e-12)


@pytest.mark.parametrize("checkpoints", ["solutions", 3, "disk"])
@pytest.mark.parametrize("outputs", ["steps", "interpolate"])
@pytest.mark.parametrize("name", EXPLICIT)
def test_all_that_is_kept_gives_the_same(name: str, outputs: str, checkpoints, tmp_path: Path) -> None:
    """Also with outputs within steps, and backwards in time."""
    func, y0, t = Counted(20, 80), start_of((4, 20)).requires_grad_(), times(1, 0.71, 0.64, 0.6, 0.1)
    t.requires_grad_()
    inputs = [y0, *func.hidden.parameters(), t]

    def gradients(kept) -> tuple[Tensor, ...]:
        y = solve(func, y0, t, method=name, steps=Grid(2), outputs=outputs, adjoint=Discrete(kept)).y
        return torch.autograd.grad((y * y).sum(), inputs)

    kept = Disk(tmp_path) if checkpoints == "disk" else checkpoints
    require_close(gradients(kept), gradients("stages"), 1e-12)


@pytest.mark.parametrize("name", EXPLICIT)
def test_outputs_within_steps(name: str) -> None:
    """Stage by stage as with whole Jacobians of a small state, which are another way."""
    t = times(0, 0.2, 0.3, 0.55, 0.9).requires_grad_()
    found = []
    for branches in (False, True):
        func, y0 = Counted(3, 3, branches=branches), start_of((3,)).requires_grad_()
        solution = solve(func, y0, t, method=name, steps=Grid(3), outputs="interpolate")
        inputs = [y0, *func.hidden.parameters(), t]
        found.append(torch.autograd.grad(solution.y.pow(3).sum(), inputs))
    require_close(*found, 1e-12)


@pytest.mark.parametrize("name", EXPLICIT)
def test_float32(name: str) -> None:
    func, y0 = Counted(20, 80, torch.float32), start_of((4, 20), torch.float32).requires_grad_()
    t = times(0, 0.5, 1)
    inputs = [y0, *func.hidden.parameters()]
    found = torch.autograd.grad(solve(func, y0, t.float(), method=name, steps=Grid(3)).y.sum(), inputs)
    expected = torch.autograd.grad(by_torch(func, name, y0, t.float(), 3).sum(), inputs)
    require_close(found, expected, 1e-5)


def test_what_needs_no_gradient_gets_none() -> None:
    func, y0 = Counted(20, 80), start_of((4, 20))
    for parameter in func.out.parameters():
        parameter.requires_grad_(False)
    solve(func, y0, times(0, 1), method="rk4", steps=Grid(2)).y.sum().backward()
    assert y0.grad is None
    assert func.out.weight.grad is None
    assert func.unused.grad is None
    assert func.hidden.weight.grad is not None


def test_a_tensor_that_turns_up_late_is_named() -> None:
    """Not used at the start, so it could not be found there."""
    late = torch.ones(80, dtype=torch.float64, requires_grad=True)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -y * late if float(t) > 0.5 else -y

    y0 = torch.ones(80, dtype=torch.float64, requires_grad=True)
    for kept in (Discrete(), Discrete(graphs=0)):
        with pytest.raises(ValueError, match=r"did not use it at the start.*params=\[tensor\]"):
            solve(func, y0, times(0, 1), method="rk4", steps=Grid(4), adjoint=kept).y.sum().backward()


def test_backwards_twice() -> None:
    """The first time by the graphs of the forward pass, which are then used up."""
    func, y0 = Counted(20, 80), start_of((4, 20)).requires_grad_()
    y = solve(func, y0, times(0, 1), method="dopri5", rtol=1e-5).y
    first = torch.autograd.grad(y.sum(), [y0, func.out.weight], retain_graph=True)
    again = torch.autograd.grad(y.sum(), [y0, func.out.weight])
    require_close(again, first, 1e-13)


class Shared(Counted):
    """A network of which all calls share a part of their graphs: weights that are made once."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.logarithm = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.kept: Tensor | None = None

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.exp(self.logarithm)
        return self.kept * super().forward(t, y)


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("graphs", [0.0, math.inf])
def test_what_a_graph_holds_is_freed_as_it_is_used(
    shares: bool, graphs: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what other calls share, whose gradients would be lost with it."""
    func, y0, t = Shared() if shares else Counted(3, 3), start_of((500, 3)), times(0, 0.5, 1)
    arguments: dict = {"method": "rk4", "batch_dims": 1, "adjoint": Discrete(graphs=graphs)}
    retained, grad = list[bool](), torch.autograd.grad

    def noted(outputs, *arguments, **options):
        retained.append(bool(options.get("retain_graph")))
        return grad(outputs, *arguments, **options)

    def differentiated(steps: Grid) -> list[Tensor]:
        if shares:
            func.kept = torch.exp(func.logarithm)
        y = solve(func, y0, t, steps=steps, **arguments).y
        func.zero_grad()
        monkeypatch.setattr(torch.autograd, "grad", noted)
        y.square().sum().backward()
        monkeypatch.undo()
        return [p.grad for p in func.parameters() if p.grad is not None]

    found = differentiated(Grid(4))
    assert len(retained) >= 32, f"{len(retained)} products: look at Graphed.products"
    assert any(retained) == shares, "look at what Graphed._keep is told"

    def plain() -> Tensor:
        y, total = y0, y0.square().sum()
        for begin, end in pairwise(t.tolist()):
            h = (end - begin) / 4
            for n in range(4):
                s = torch.tensor(begin + n * h, dtype=torch.float64)
                k1 = func(s, y)
                k2 = func(s + h / 2, y + h / 2 * k1)
                k3 = func(s + h / 2, y + h / 2 * k2)
                y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + func(s + h, y + h * k3))
            total = total + y.square().sum()
        return total

    func.zero_grad()
    if shares:
        func.kept = None
    plain().backward()
    expected = [p.grad for p in func.parameters() if p.grad is not None]
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
