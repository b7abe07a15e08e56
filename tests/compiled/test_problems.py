"""f, ∂f/∂y and products of the library's problems, compiled, against torch's."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from torch import Tensor

import problems
import stiffml
from problems.chemistry import ConstantPressureReactor, Mechanism
from stiffml.compiled.check import require_same
from stiffml.compiled.function import CompiledFunction

D = torch.float64

SMALL = ["robertson", "pollu", "hires", "orego", "e5", "vanderpol", "akzo", "prothero", "pendulum"]


def function_of(name: str):
    """A function of (t, u), and a state with nothing special about it."""
    if name == "h2o2":
        mechanism = Mechanism.from_yaml("h2o2.yaml")
        mechanism.log_A.requires_grad_()
        reactor = ConstantPressureReactor(mechanism, pressure=101325.0)
        y = reactor.state(1200.0, mechanism.premixed(1.0, "H2")) + 0.0
        y[1:] += 1e-4
        return reactor, y
    problem = problems.load(name)
    y = problem.initial_state()
    steps = torch.linspace(0.6, 1.4, y.numel(), dtype=D)
    return problem.func(*problem.parameters), (y + 0.01 * y.abs().max()) * steps


@pytest.mark.parametrize("name", [*SMALL, "h2o2"])
def test_values_jacobian_and_products(name: str) -> None:
    func, y = function_of(name)
    t = 0.37
    code = CompiledFunction(func, torch.tensor(t, dtype=D), y.detach())
    p = code.packed(code.lifted)
    leaf, time = y.detach().requires_grad_(), torch.tensor(t, dtype=D, requires_grad=True)
    value = func(time, leaf)
    rows = [torch.autograd.grad(v, leaf, retain_graph=True, allow_unused=True)[0] for v in value]
    jacobian = torch.stack([torch.zeros_like(leaf) if row is None else row for row in rows]).numpy()
    times, states = np.array([t, t]), leaf.detach().numpy()[None].repeat(2, 0)
    f, blocks = code.blocks(times, states, p, code.size)
    terms = np.abs(jacobian) @ np.abs(states[0]) + np.abs(value.detach().numpy())
    assert (np.abs(f - value.detach().numpy()) <= 1e-12 * terms).all()
    np.testing.assert_array_equal(f, code.values(times, states, p))
    # Entries count by what they contribute to f: others may be a rest of terms that cancel.
    weight = np.abs(states[0])
    assert (np.abs(blocks - jacobian) * weight <= 1e-12 * (np.abs(jacobian) * weight + terms[:, None])).all()
    outside = np.ones_like(jacobian, dtype=bool)
    outside[code.pattern.row, code.pattern.column] = False
    assert not jacobian[outside].any()

    w = np.linspace(-1.0, 0.7, code.size) / np.maximum(terms, 1e-300)
    inputs = [leaf, time, *code.lifted]
    grads = torch.autograd.grad(value, inputs, torch.from_numpy(w), allow_unused=True)
    wrt_y, wrt_t, *wrt_p = (
        (torch.zeros_like(i) if g is None else g).numpy(force=True).ravel()
        for i, g in zip(inputs, grads, strict=True)
    )
    _, found_y, found_t, found_p = code.pull(times, states, p, np.stack([w, 2 * w]))
    size = np.abs(w) @ np.abs(jacobian)
    floor = (size * weight).max() / np.maximum(weight, 1e-6 * weight.max())
    assert (np.abs(found_y - np.stack([wrt_y, 2 * wrt_y])) <= 1e-12 * (size + floor)).all()
    assert np.abs(found_t - [wrt_t[0], 2 * wrt_t[0]]).max() <= 1e-11 * (np.abs(wrt_t[0]) + code.size)
    wanted = 3 * np.concatenate([*wrt_p, np.empty(0)])
    sizes = np.abs(p).clip(1e-12) if len(p) else p
    assert (np.abs(found_p - wanted) * sizes <= 1e-11 * (np.abs(wanted) * sizes + code.size)).all()
    require_same(func, code, [(t, states[0])], "push")


def test_a_large_jacobian_is_made_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stiffml.compiled.expressions.MOST_IN_JACOBIAN", 10)
    func, y = function_of("hires")
    code = CompiledFunction(func, torch.tensor(0.0, dtype=D), y.detach())
    assert code._expressions.by_columns
    monkeypatch.undo()
    other = CompiledFunction(func, torch.tensor(0.0, dtype=D), y.detach())
    assert not other._expressions.by_columns
    at = np.zeros(1), y.detach().numpy()[None].copy(), code.packed(code.lifted)
    for width in (8, 4, 2):
        for one, same in zip(code.blocks(*at, width), other.blocks(*at, width), strict=True):
            np.testing.assert_allclose(one, same, rtol=1e-13, err_msg=f"width {width}")


def test_a_jacobian_made_of_products_serves_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs as much as many values; one from an expression does not, and each iteration has its own."""
    func, y = function_of("hires")
    y0, t = y.detach(), torch.tensor([0.0, 5.0, 50.0], dtype=D)
    arguments = {"method": "bdf", "rtol": 1e-6, "atol": 1e-9, "compile": True}
    wanted = stiffml.solve(func, y0, t, **arguments)
    assert wanted.stats.jacobians >= wanted.stats.newton_iterations > 0
    monkeypatch.setattr("stiffml.compiled.expressions.MOST_IN_JACOBIAN", 10)
    found = stiffml.solve(lambda t, y: func(t, y), y0, t, **arguments)
    assert found.stats.in_c == found.stats.accepted > 0
    assert 5 * found.stats.jacobians < found.stats.newton_iterations, "look at run/kept_jacobian.py"
    torch.testing.assert_close(found.y, wanted.y, rtol=1e-5, atol=1e-9)
    by_rows = stiffml.solve(lambda t, y: func(t, y), y0, t, **arguments | {"method": "rosw-rodaspr2"})
    torch.testing.assert_close(by_rows.y, wanted.y, rtol=1e-5, atol=1e-9)


class CFunction(ctypes.Structure):
    """``struct stiffml_function``."""

    F = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_double, *[ctypes.c_void_p] * 3)
    _fields_ = (
        ("size", ctypes.c_int64),
        ("parameters", ctypes.c_int64),
        ("nonzeros", ctypes.c_int64),
        ("row", ctypes.POINTER(ctypes.c_int64)),
        ("column", ctypes.POINTER(ctypes.c_int64)),
        ("f", F),
        ("jacobian", F),
    )


def test_the_struct_for_steppers_in_c() -> None:
    func, y = function_of("robertson")
    code = CompiledFunction(func, torch.tensor(0.0, dtype=D), y.detach())
    struct = CFunction.from_address(code.address)
    p, u = code.packed(code.lifted), y.detach().numpy().copy()
    f, entries = np.empty(3), np.empty(struct.nonzeros)
    assert (struct.size, struct.parameters, struct.nonzeros) == (3, 3, 7)
    assert struct.f(0.0, u.ctypes.data, p.ctypes.data, f.ctypes.data) == 0
    assert struct.jacobian(0.0, u.ctypes.data, p.ctypes.data, entries.ctypes.data) == 0
    np.testing.assert_array_equal(f, func(torch.tensor(0.0, dtype=D), y).detach().numpy())
    dense = np.zeros((3, 3))
    dense[struct.row[:7], struct.column[:7]] = entries

    def at(state: Tensor) -> Tensor:
        return func(torch.tensor(0.0, dtype=D), state)

    np.testing.assert_allclose(dense, torch.autograd.functional.jacobian(at, y.detach()).numpy(), rtol=1e-14)
