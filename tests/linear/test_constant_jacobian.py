"""A linear implicit part: its Jacobian is evaluated once; one factorisation serves all samples, both ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_problems import times
from torch import Tensor, nn

from stiffml import (
    METHODS,
    Adaptive,
    Discrete,
    Fixed,
    Grid,
    Recorded,
    Solution,
    Split,
    check_gradients,
    solve,
)
from stiffml.interface import checking
from stiffml.linear.dense import constant
from stiffml.linear.dense.lu import DenseLU
from stiffml.steps import Steps
from stiffml.system.derivatives.jacobian import NARROW
from stiffml.system.state import Layout

WIDTH, SAMPLES = NARROW + 4, 5
SPLIT = [name for name, method in METHODS.items() if method.split]
ROUNDING = 1e-10
"""Solves with one LU of 20 unknowns and with others differ by rounding times the condition, some 1e3."""


class Waves(nn.Module):
    """−y_xx − ν y_xxxx on a ring, as in the Kuramoto-Sivashinsky equation; ``rates`` (samples, 1) or ()."""

    def __init__(self, rates: Tensor | None = None) -> None:
        super().__init__()
        self.nu = nn.Parameter(torch.tensor(0.8).double() if rates is None else rates)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        curvature = 9 * (y.roll(1, -1) + y.roll(-1, -1) - 2 * y)
        return -curvature - 9 * self.nu * (curvature.roll(1, -1) + curvature.roll(-1, -1) - 2 * curvature)


class Flux(nn.Module):
    """A product of neighbours, and a network of one layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(WIDTH, WIDTH).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y * (y.roll(1, -1) - y.roll(-1, -1)) + torch.tanh(self.layer(y)) * torch.cos(t)


def start() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SAMPLES, WIDTH, generator=generator, dtype=torch.float64)


def gradients(
    split: Split, y0: Tensor, t: Tensor, method: str, steps: Steps, **arguments
) -> tuple[Solution, list[Tensor]]:
    y0 = y0.clone().requires_grad_()
    solution = solve(split, y0, t, method=method, steps=steps, **arguments)
    assert isinstance(solution.y, Tensor)
    loss = (solution.y.sin() * torch.linspace(1, 2, WIDTH).double()).sum()
    wanted = [y0, *split.parameters(), *([t] if t.requires_grad else [])]
    return solution, [solution.y.detach(), *torch.autograd.grad(loss, wanted)]


def one_by_one(split: Split, y0: Tensor, t: Tensor, method: str, steps: Steps, **arguments) -> list[Tensor]:
    """The same from a solve for each sample: states are put together, all else is summed."""
    found = [gradients(split, y, t, method, steps, **arguments)[1] for y in y0]
    columns = [list(column) for column in zip(*found, strict=True)]
    values, wrt_y0 = torch.stack(columns[0], dim=1), torch.stack(columns[1])
    return [values, wrt_y0, *(sum(column[1:], column[0]) for column in columns[2:])]


def require_equal(found: list[Tensor], expected: list[Tensor], what: str) -> None:
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        off = float((a - b).abs().max() / b.abs().max())
        assert off <= ROUNDING, f"{what}: number {number} of (y, y0, parameters, t) is off by {off:.1e}"


@pytest.mark.parametrize(("steps", "with_times"), [(Grid(2), False), (Fixed(0.07), True)], ids=["", "times"])
@pytest.mark.parametrize("method", SPLIT)
def test_values_and_gradients_are_those_of_single_samples(
    method: str, steps: Steps, with_times: bool
) -> None:
    split, t = Split(Waves(), Flux(), linear=True), times(0, 0.1, 0.25).requires_grad_(with_times)
    solution, found = gradients(split, start(), t, method, steps, batch_dims=1)
    kind = "exponential" if METHODS[method].exponential else "LU"
    assert solution.stats.linear == f"{kind} of the Jacobian of all samples, dense, {WIDTH} × {WIDTH}"
    require_equal(found, one_by_one(split, start(), t, method, steps), method)


@pytest.mark.parametrize("checkpoints", ["solutions", 2])
def test_with_fewer_checkpoints(checkpoints: str | int) -> None:
    split, t = Split(Waves(), Flux(), linear=True), times(0, 0.1, 0.25)
    kept = gradients(split, start(), t, "arkimex-3", Grid(4), batch_dims=1)[1]
    adjoint = Discrete(checkpoints)
    found = gradients(split, start(), t, "arkimex-3", Grid(4), batch_dims=1, adjoint=adjoint)[1]
    require_equal(found, kept, f"checkpoints={checkpoints!r}")


def test_adaptive_steps_are_right() -> None:
    split, t = Split(Waves(), Flux(), linear=True), times(0, 0.3)
    solution, found = gradients(
        split, start(), t, "arkimex-4", Adaptive(), batch_dims=1, rtol=1e-3, atol=1e-5
    )
    assert solution.stats.accepted > 5
    plain = Split(split.implicit, split.explicit)
    recorded = solution.steps
    assert isinstance(recorded, Recorded)
    expected = gradients(plain, start(), t, "arkimex-4", recorded, batch_dims=1)[1]
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        # With linear=False Newton's iteration leaves 1e-9 or so.
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-8), number


def test_samples_with_jacobians_of_their_own() -> None:
    """Nothing in linear=True says that samples are alike: it is found out."""
    rates = torch.linspace(0.5, 1.5, SAMPLES).double()[:, None]
    split, t = Split(Waves(rates), Flux(), linear=True), times(0, 0.1, 0.25)
    solution, found = gradients(split, start(), t, "arkimex-3", Grid(2), batch_dims=1)
    assert solution.stats.linear.startswith(f"LU of {SAMPLES} blocks")
    values, wrt_y0, wrt_rates, *wrt_others = found
    for k, rate in enumerate(rates):
        alone = Split(Waves(rate.clone()), split.explicit, linear=True)
        single = gradients(alone, start()[k], t, "arkimex-3", Grid(2))[1]
        require_equal([values[:, k], wrt_y0[k], wrt_rates[k]], single[:3], f"sample {k}")
        wrt_others = [whole - part for whole, part in zip(wrt_others, single[3:], strict=True)]
    for rest in wrt_others:
        assert float(rest.abs().max()) < 1e-9


def test_taylor_rates() -> None:
    split = Split(Waves(), Flux(), linear=True)
    report = check_gradients(split, start(), times(0, 0.1), method="arkimex-3", steps=Grid(2), batch_dims=1)
    assert report.ok, report


def test_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One Jacobian a solve, and one factorisation for each step size, both ways, of one matrix."""
    made: list[np.ndarray] = []
    original = constant._OneLU.__init__

    def counted(self: constant._OneLU, matrix: np.ndarray) -> None:
        made.append(matrix)
        original(self, matrix)

    monkeypatch.setattr(constant._OneLU, "__init__", counted)
    split, t = Split(Waves(), Flux(), linear=True), times(0, 0.1, 0.2, 0.3)
    solution, _ = gradients(split, start(), t, "arkimex-3", Grid(4), batch_dims=1)
    assert solution.stats.jacobians == 1
    # PETSc solves for the first slope besides, with a shift of its own.
    assert len({f"{m[0, 0]:.10e}" for m in made}) == len(made) <= 2
    assert all(m.shape == (WIDTH, WIDTH) for m in made)


class Hidden(nn.Module):
    """Linear as long as ``strength`` is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.waves, self.strength = Waves(), nn.Parameter(torch.zeros(()).double())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.waves(t, y) - self.strength * y**3


def test_a_part_that_is_linear_no_longer_is_noticed() -> None:
    """The trials of a solve serve for a few more: these compare f at their ends with its Jacobian."""
    split, t = Split(Hidden(), Flux(), linear=True), times(0, 0.1)
    y0 = start().requires_grad_()

    def run() -> Solution:
        return solve(split, y0, t, method="arkimex-3", steps=grid, batch_dims=1)

    grid = Grid(2)
    run()
    run()
    with torch.no_grad():
        split.implicit.strength += 0.5
    with pytest.raises(ValueError, match="not linear in y"):
        run()


def test_wide_systems_make_their_trials_in_one_of_five_solves(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = checking.try_out

    def counted(*given, **named) -> bool:
        made[-1] += 1
        return original(*given, **named)

    monkeypatch.setattr(checking, "try_out", counted)
    split, t = Split(Waves(), Flux(), linear=True), times(0, 0.1)
    y0, grid = start().requires_grad_(), Grid(1)
    for _ in range(11):
        made.append(0)
        solve(split, y0, t, method="arkimex-3", steps=grid, batch_dims=1)
    assert made == [2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2]


def test_narrow_systems_keep_their_blocks() -> None:
    """Whose steps are reversed all at once."""
    layout = Layout.of(torch.zeros(3, NARROW).double(), 1)
    assert DenseLU(layout, constant=True).uses_blocks


class Keeping(nn.Module):
    """Computes its matrix once, and keeps it with its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(0.1 * torch.eye(WIDTH, dtype=torch.float64))
        self.kept: Tensor | None = None

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.exp(self.raw)
        return torch.sin(y @ self.kept)


def test_an_explicit_part_may_keep_its_graph() -> None:
    func = Keeping()
    y0 = start().requires_grad_()
    solution = solve(func, y0, times(0, 0.1), method="rk4", steps=Grid(2), batch_dims=1)
    assert isinstance(solution.y, Tensor)
    (found,) = torch.autograd.grad(solution.y[-1].sum(), func.raw)
    assert float(found.abs().max()) > 0
