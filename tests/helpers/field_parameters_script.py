"""On some processes: parameters that a field's right-hand side uses, and changes that one process makes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stiffml import Grid, ReplayError, solve
from stiffml.distributed import Field


def main() -> None:
    torch.set_num_threads(1)
    field = Field(shape=(8, 8), species=1, periodic=True, width=1)
    y0 = field.create(lambda x, y: [1 + x * y]).requires_grad_()
    k, raw = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, 0.1))
    made, late = raw.exp(), torch.ones((), dtype=torch.float64)
    t = torch.tensor([0.0, 0.2, 0.5], dtype=torch.float64)

    def local(t: Tensor, ghosted: Tensor) -> Tensor:
        centre = ghosted[:, 1:-1, 1:-1]
        spread = ghosted[:, 2:, 1:-1] + ghosted[:, :-2, 1:-1] - 2 * centre
        return made * spread - k * centre**2 * (1 + t * late)

    def loss(params: tuple[Tensor, ...] = ()) -> Tensor:
        y = solve(field.rhs(local), y0, t, method="cn", steps=Grid(2), params=params).y
        assert isinstance(y, Tensor)
        return field.sum(y[-1] ** 2)

    found = torch.autograd.grad(loss(), [k, raw], retain_graph=True)  # through what was made before
    named = torch.autograd.grad(loss((k, made)), [k, raw])
    for a, b in zip(found, named, strict=True):
        assert abs(float(a - b)) <= 1e-10 * abs(float(b)), "look at find_parameters"
    value = loss()
    if field.rank == field.size - 1:
        late.mul_(2)
    with pytest.raises(ReplayError, match=r"t = 0.5, where the solve ended"):
        torch.autograd.grad(value, k)

    def uneven(t: Tensor, ghosted: Tensor) -> Tensor:
        return -ghosted[:, 1:-1, 1:-1] * (k if field.rank else 1.0)

    if field.size > 1:
        with pytest.raises(ValueError, match="in one process than in another"):
            solve(field.rhs(uneven), y0, t, method="cn", steps=Grid(2))


if __name__ == "__main__":
    main()
