"""Gradients of ``scipy_solver`` by the adjoint equation, against those of the steps of an explicit method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_problems import times
from torch import Tensor, nn

from stiffml.compat.torchdiffeq import odeint, odeint_adjoint


class Field(nn.Module):
    """A forced oscillator with nonlinear damping; real parameters also where the state is complex."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.tensor([[-0.3, 2.0], [-2.0, -0.1]], dtype=dtype))
        self.damping = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.A - self.damping * y * y.abs() ** 2 / 50 + torch.sin(2 * t)


class OfTuples(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.field = Field()

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.field(t, y[0]), -y[1] * y[0].sum()


STATES = {
    "real": (Field(), (times(1.0, -0.5),)),
    "complex": (Field(torch.complex128), (torch.complex(times(1.0, -0.5), times(-0.5, 1.0)),)),
    "tuple": (OfTuples(), (times(1.0, -0.5), torch.ones(2, 1, dtype=torch.float64))),
}
TIMES = {"forwards": times(0, 0.3, 0.5, 1.0), "backwards": times(1.0, 0.62, 0.0)}


def gradients(interface: Any, state: str, t: Tensor, **arguments: Any) -> tuple[Tensor, ...]:
    func, y0 = STATES[state]
    starts, t = tuple(part.clone().requires_grad_() for part in y0), t.clone().requires_grad_()
    y = interface(func, starts if state == "tuple" else starts[0], t, **arguments)
    parts = y if isinstance(y, tuple) else (y,)
    loss = sum((part.abs() ** 2 * torch.arange(1, part.numel() + 1).view_as(part)).sum() for part in parts)
    wanted = [*starts, t, *(p for name, p in func.named_parameters() if "unused" not in name)]
    return torch.autograd.grad(loss, wanted)


SETTINGS: dict[str, dict[str, Any]] = {
    "of the solve": {},
    "of another method": {"adjoint_method": "dopri5", "adjoint_options": {"norm": "seminorm"}},
    "of their own": {"adjoint_rtol": 1e-10, "adjoint_atol": 1e-11, "adjoint_options": {"solver": "RK45"}},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("state", STATES)
def test_gradients_are_those_of_the_solution(state: str, settings: str) -> None:
    solver = {"real": "LSODA", "complex": "DOP853", "tuple": "Radau"}[state]
    given = {"method": "scipy_solver", "options": {"solver": solver}, "rtol": 1e-8, "atol": 1e-9}
    for t in TIMES.values():
        wanted = gradients(odeint, state, t, rtol=1e-10, atol=1e-11)
        found = gradients(odeint_adjoint, state, t, **given, **SETTINGS[settings])
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_norm_sees_the_parts_of_the_adjoint_state() -> None:
    shapes = set()

    def norm(parts: tuple[Tensor, ...]) -> Tensor:
        shapes.add(tuple(part.shape for part in parts))
        return torch.stack([part.abs().max() for part in parts]).max()

    func, (y0,) = Field(), STATES["real"][1]
    arguments: dict[str, Any] = {"adjoint_method": "bosh3", "adjoint_options": {"norm": norm}}
    odeint_adjoint(func, y0, times(0, 1), method="scipy_solver", **arguments).sum().backward()
    # The time, y, its adjoint, and the gradients of A, the damping and what is unused.
    assert shapes == {((), (2,), (2,), (2, 2), (), (3,))}
    assert torch.equal(func.unused.grad, torch.zeros(3, dtype=torch.float64))


def test_callbacks_of_the_adjoint_see_its_steps() -> None:
    class Watched(Field):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[float, float, int]] = []

        def callback_accept_step_adjoint(self, t: Tensor, y: tuple[Tensor, ...], size: Tensor) -> None:
            self.seen.append((float(t), float(size), len(y)))

    func, (y0,) = Watched(), STATES["real"][1]
    odeint_adjoint(func, y0, times(0, 1), method="scipy_solver", adjoint_method="dopri5").sum().backward()
    ends = [t - size for t, size, _ in func.seen]
    assert func.seen[0][0] == 1.0
    assert ends[-1] == pytest.approx(0)
    assert [t for t, _, _ in func.seen[1:]] == pytest.approx(ends[:-1])
    assert {count for _, _, count in func.seen} == {6}
    with pytest.warns(UserWarning, match="func: scipy_solver does not call callback_accept_step"):
        odeint_adjoint(func, y0, times(0, 1), method="scipy_solver").sum().backward()


def test_what_has_no_gradient_says_so() -> None:
    y0 = times(1.0).requires_grad_()
    with pytest.raises(ValueError, match="adjoint_params: scipy_solver has gradients for y0, t and these"):
        odeint_adjoint(lambda t, y: -y, y0, times(0, 1), method="scipy_solver")
    y = odeint_adjoint(lambda t, y: -y, y0, times(0, 1), method="scipy_solver", adjoint_params=())
    (first,) = torch.autograd.grad((y[-1] ** 2).sum(), y0, create_graph=True)
    assert first.item() == pytest.approx(2 * 0.36788**2, rel=1e-4)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
    constant = odeint_adjoint(
        lambda t, y: torch.ones_like(y), y0, times(0, 2), method="scipy_solver", adjoint_params=()
    )
    assert torch.autograd.grad(constant[-1].sum(), y0)[0].item() == 1.0


def test_callbacks_and_norms_take_parts_of_several_types() -> None:
    """A norm hands steps to torchdiffeq's choice, where each part keeps its type."""

    def func(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        assert y[0].dtype == torch.float64
        assert y[1].dtype == torch.complex128
        return -y[0], 1j * y[1]

    def norm(parts: tuple[Tensor, Tensor]) -> Tensor:
        assert not parts[0].is_complex()
        return torch.maximum(parts[0].abs().max(), parts[1].abs().max())

    y0 = times(1.0), torch.ones(2, dtype=torch.complex128)
    for arguments in ({"options": {"norm": norm}}, {"method": "scipy_solver", "options": {"solver": "RK45"}}):
        a, b = odeint(func, y0, times(0, 1), rtol=1e-8, **arguments)
        assert a[-1].item() == pytest.approx(0.36787944, rel=1e-5)
        wanted = torch.exp(torch.tensor(1j, dtype=torch.complex128)).expand(2)
        torch.testing.assert_close(b[-1], wanted, rtol=1e-5, atol=1e-5)
