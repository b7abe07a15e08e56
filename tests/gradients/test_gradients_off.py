"""Where the caller has switched gradients off, what needs them inside works and leaves no graph."""

from __future__ import annotations

import pytest
import torch
from daes import DIAGONAL, INCONSISTENT, SmallDAE
from small_problems import SmallNetwork, times
from torch import Tensor

from stiffml import Grid, sensitivities, solve


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_differentiates_inside_where_gradients_are_switched_off(mode, network: SmallNetwork) -> None:
    """Events, consistent values and sensitivities are the same as elsewhere, and nothing has a graph."""
    dae, mass = SmallDAE(), torch.diag(DIAGONAL)

    def results() -> list[Tensor]:
        y0, t = INCONSISTENT.clone(), times(0, 0.7, 2)
        event = solve(network, y0, t, event=lambda t, y: y[1].sin() - 0.3).event
        assert event is not None
        rounded = solve(network, y0, t, steps=Grid(4), event=lambda t, y: torch.round(20 * y[1]) - 5).event
        assert rounded is not None
        consistent = solve(dae, y0, t, mass=mass, make_consistent=True, method="cn", steps=Grid(3))
        plain = sensitivities(lambda t, y: -2 * y, y0, t, ["y0"], method="cn", steps=Grid(9))
        found = sensitivities(network, y0, t, ["y0", "out.bias"], method="cn", steps=Grid(3))
        u0 = consistent.pieces[0].inputs[1]
        return [event.t, event.y, rounded.t, consistent.y, u0, plain.wrt["y0"], *found.wrt.values()]

    expected = results()
    with mode():
        values = results()
    for value, wanted in zip(values, expected, strict=True):
        assert torch.equal(value, wanted.detach())
        assert not value.requires_grad, "a graph was kept: look for what switches gradients on"
