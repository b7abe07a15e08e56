"""Compiled functions between breakpoints: each section is compiled once, not in every solve."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import stiffml
from stiffml import Split
from stiffml.system.derivatives import compilation

pytest.importorskip("casadi")

D = torch.float64
JUMPS = torch.tensor([2.0, 24.0, 26.0], dtype=D)


class Doses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(1.5, dtype=D))

    def forward(self, t, y):
        return torch.where(t % 24 < 2, 50.0, 0.0) - self.k * y


def dose(t, y):
    return torch.where(t % 24 < 2, 50.0, 0.0) + 0 * y


def solved(func, jumps=JUMPS, **more):
    t = torch.tensor([0.0, 25.0], dtype=D)
    return stiffml.solve(func, torch.ones(1, dtype=D), t, breakpoints=jumps, compile=True, **more)


@pytest.mark.parametrize("split", [False, True])
def test_each_section_is_compiled_once(split: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    compile_anew = compilation._compile
    monkeypatch.setattr(compilation, "_compile", lambda *given: made.append(0) or compile_anew(*given))
    decay = Doses()
    func = Split(lambda t, y: -decay.k * y, dose) if split else decay
    more = {"method": "arkimex-3", "params": [decay.k]} if split else {}
    values = []
    for number in range(3):
        values.append(solved(func, **more).y[-1].item())
        if number == 0:
            first = len(made)
    assert first > 0
    assert len(made) == first, "look at kept_with in stiffml/interface/breakpoints.py"
    assert values == [values[0]] * 3
    solved(func, JUMPS + 0.5, **more)
    assert len(made) > first, "other jumps clamp times otherwise"


def test_states_of_some_form_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary of tensors, of which each solve makes a function of tuples."""
    made = []
    compile_anew = compilation._compile
    monkeypatch.setattr(compilation, "_compile", lambda *given: made.append(0) or compile_anew(*given))
    k = nn.Parameter(torch.tensor(1.5, dtype=D))

    def func(t, y):
        return {"a": -k * y["a"], "b": k * y["a"] - y["b"]}

    y0 = {"a": torch.ones(1, dtype=D), "b": torch.zeros(2, dtype=D)}
    for _ in range(2):
        stiffml.solve(func, y0, torch.tensor([0.0, 1.0], dtype=D), compile=True, params=[k])
    assert len(made) == 1, "look at kept_with in stiffml/interface/forms/reformed.py"


def test_nothing_keeps_the_function_alive() -> None:
    func = Doses()
    solved(func)
    left = weakref.ref(func)
    del func
    gc.collect()
    assert left() is None
