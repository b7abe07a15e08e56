"""Mistakes of the first minute are answered in the first second, in the user's words."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from small_problems import times
from torch import Tensor, nn

from stiffml import ODEBlock, SolveError, Split, Status, odeint

Y0, T = torch.tensor([1.0, 0.5], dtype=torch.float64), times(0, 0.5, 1)
SINGLE = nn.Linear(2, 2)
NOTES = pytest.mark.skipif(sys.version_info < (3, 11), reason="errors have notes from Python 3.11 on")


class Swapped(nn.Module):
    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        return -y * torch.linalg.vector_norm(t)


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (lambda t, y: -np.asarray(y.detach()), "not ndarray: by operations of torch on y"),
        (lambda t, y: [-y[0], y[1]], r"not list: such as torch\.stack"),
        (lambda t, y: None, "must return a tensor like y0, not NoneType"),
        (
            Swapped(),
            r"returned shape \(\), but y0 has shape \(2,\); it is called as func\(t, y\), time first",
        ),
    ],
)
def test_what_func_returns(func: Callable, message: str) -> None:
    for solve in (odeint, lambda func, y0, t: ODEBlock(func, t)(y0)):
        with pytest.raises((TypeError, ValueError), match=message):
            solve(func, Y0, T)


@NOTES
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    ("func", "error", "note"),
    [
        (nn.Linear(2, 2), TypeError, r"called as func\(t, y\), and takes \(input\)"),
        (lambda t, y: SINGLE(y), RuntimeError, "y0 is float64, and func has parameters of float32"),
        (Split(lambda t, y: -y, lambda t, y: SINGLE(y)), RuntimeError, "parameters of float32"),
        (lambda y: -y, TypeError, r"called as func\(t, y\), and takes \(y\)"),
        (lambda y, t: SINGLE.double()(y), RuntimeError, r"time first, and its parameters are \(y, t\)"),
    ],
    ids=["a layer", "float32", "a part in float32", "one argument", "swapped"],
)
def test_errors_of_func_are_its_own_with_a_note(
    func: Callable, error: type[Exception], note: str, grad: bool
) -> None:
    SINGLE.float()
    method = "arkimex-3" if isinstance(func, Split) else "bdf"
    with torch.set_grad_enabled(grad), pytest.raises(error) as caught:
        odeint(func, Y0, T, method=method)
    notes = " ".join(getattr(caught.value, "__notes__", []))
    assert re.search(note, notes), f"the notes are {notes!r}"
    SINGLE.float()


def test_a_root_of_a_negative_number_is_said_at_once() -> None:
    with pytest.raises(SolveError, match="square root, logarithm or power of a negative number") as caught:
        odeint(lambda t, y: torch.sqrt(y - 0.7), Y0, T)
    assert caught.value.status is Status.NON_FINITE
    assert caught.value.t == 0
    assert caught.value.component == (1,)


@pytest.mark.parametrize("call", [odeint, lambda func, y0, t, **more: ODEBlock(func, t, **more)])
def test_an_argument_that_does_not_exist_is_named_with_those_that_do(call: Callable) -> None:
    with pytest.raises(TypeError, match=r"no argument 'metod'; known are .*method"):
        call(lambda t, y: -y, Y0, T, metod="bdf")
