"""What is recorded of a function: as make_fx of torch would have it, without torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import stiffml
from stiffml.compiled.recorder import Recorder, ValueReadError

Y0 = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
T = torch.tensor([0.0, 0.3], dtype=torch.float64)


def test_nothing_of_torchs_compiler_is_imported():
    code = (
        "import sys, torch, stiffml\n"
        "y0 = torch.ones(2, dtype=torch.float64)\n"
        "network = torch.nn.Linear(2, 2).double()\n"
        "compiled = stiffml.compile(lambda t, y: torch.tanh(network(y)), y0)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", (
        "something imports torch._dynamo, which takes longer than compiling"
    )


def test_functions_of_torchs_compiler_are_recorded_as_they_are_written():
    inner = torch.compile(lambda y: torch.sin(y) * 2, backend="eager")
    plain = stiffml.solve(lambda t, y: -2 * torch.sin(y), Y0, T, rtol=1e-8, compile=True)
    found = stiffml.solve(stiffml.compile(lambda t, y: -inner(y), Y0), Y0, T, rtol=1e-8, compile=True)
    torch.testing.assert_close(found.y, plain.y, rtol=1e-12, atol=1e-14)


def _recorded(function) -> Recorder:
    recorder = Recorder()
    t, u = T[0], Y0.clone()
    recorder.input("t", t)
    recorder.input("u", u)
    with torch.no_grad(), recorder:
        recorder.finish(torch.func.functionalize(function, remove="mutations")(t, u))
    return recorder


def test_numbers_in_the_code_may_be_read_also_after_operations():
    def func(t, y):
        c = torch.tensor(2.0, dtype=torch.float64) * 3
        return -y if c + 1 > 0 else y

    names = [node.op for node in _recorded(func).graph.nodes]
    assert names[:2] == ["placeholder"] * 2, "the inputs come first"
    assert names[-1] == "output"


@pytest.mark.parametrize(
    "func",
    [
        lambda t, y: y if y.sum() > 0 else -y,
        lambda t, y: y * float(t),
        lambda t, y: y * (torch.tensor(2.0, dtype=torch.float64) * t).item(),
    ],
    ids=["branch", "time", "made of both"],
)
def test_values_that_depend_on_inputs_are_not_read(func):
    with pytest.raises(ValueReadError):
        _recorded(func)


def test_a_number_that_the_state_was_added_to_is_none():
    def func(t, y):
        c = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        c = c + y * 0
        return y if c[0] > 0 else -y

    with pytest.raises(ValueReadError):
        _recorded(func)


def test_a_tensor_from_outside_is_read_as_well_after_it_was_used():
    order = torch.tensor(2, dtype=torch.float64)
    names = [node.op for node in _recorded(lambda t, y: (order * y) ** int(order)).graph.nodes]
    assert names.count("get_attr") == 1


def test_constants_are_the_very_tensors_and_come_once():
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    recorder = _recorded(lambda t, y: y * weight + weight.sum() * weight)
    assert [tensor is weight for tensor in recorder.constants.values()] == [True]
