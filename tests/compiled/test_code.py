"""The C code of CasADi's expressions, one state at a time and several side by side."""

from __future__ import annotations

import re
from types import SimpleNamespace

import casadi as ca
import numpy as np
import pytest
import torch
from torch import Tensor

from stiffml.compiled import expressions, function, processor
from stiffml.compiled.cache import library_of
from stiffml.compiled.code import LANES, code_of, program
from stiffml.compiled.code.translation import translated
from stiffml.compiled.function import CompiledFunction
from stiffml.compiled.library import Library
from stiffml.compiled.processor import flags_of
from stiffml.compiled.refusal import NotCompilableError

D = torch.float64

ONE = {
    "neg": lambda x: -x,
    "inv": lambda x: 1 / x,
    "sq": lambda x: x * x,
    "twice": lambda x: x + x,
    "exp": ca.exp,
    "expm1": ca.expm1,
    "log": ca.log,
    "log1p": ca.log1p,
    "erf": ca.erf,
    "sqrt": ca.sqrt,
    "sin": ca.sin,
    "cos": ca.cos,
    "tan": ca.tan,
    "asin": ca.asin,
    "acos": ca.acos,
    "atan": ca.atan,
    "sinh": ca.sinh,
    "cosh": ca.cosh,
    "tanh": ca.tanh,
    "asinh": ca.asinh,
    "acosh": ca.acosh,
    "atanh": ca.atanh,
    "floor": ca.floor,
    "ceil": ca.ceil,
    "fabs": ca.fabs,
    "sign": ca.sign,
    "not": ca.logic_not,
    "constpow": lambda x: x**1.7,
    "constant": lambda x: ca.if_else(x > -1e300, -0.0, np.inf),
}
TWO = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": lambda x, y: x**y,
    "atan2": ca.atan2,
    "hypot": ca.hypot,
    "fmin": ca.fmin,
    "fmax": ca.fmax,
    "fmod": ca.fmod,
    "remainder": ca.remainder,
    "copysign": ca.copysign,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "and": ca.logic_and,
    "or": ca.logic_or,
    "if_else": lambda x, y: ca.if_else(x > 0.3, y, x * 2),
}
NUMBERS = [0.0, -0.0, 0.3, -0.7, 1.0, -1.0, 2.5, -3.6, 40.0, 1e-9, 1e-310, -1e200, np.inf, -np.inf, np.nan]


@pytest.fixture(scope="module", params=[1, LANES])
def operations(request: pytest.FixtureRequest) -> tuple[Library, ca.Function, int]:
    """f[i](y[0], y[1]) for each operation, in C for so many states at once and as CasADi evaluates it."""
    size = len(ONE) + len(TWO)
    y = ca.SX.sym("y", size)
    f = ca.vertcat(*[of(y[0]) for of in ONE.values()], *[of(y[0], y[1]) for of in TWO.values()])
    inputs = [ca.SX.sym("t"), y, ca.SX(0, 1)]
    of = SimpleNamespace(
        size=size,
        parameters=0,
        pattern=SimpleNamespace(row=np.empty(0), column=np.empty(0)),
        by_columns=False,
        slope=ca.Function("slope", inputs, [f]),
        linearised=ca.Function("linearised", inputs, [f, ca.SX(0, 1)]),
    )
    path = library_of(code_of(of, "forward", request.param), flags_of(request.param))
    return Library(path, ("values",)), of.slope, size


@pytest.mark.parametrize("name", [*ONE, *TWO])
def test_an_operation_is_that_of_casadi(operations: tuple, name: str) -> None:
    """Also of numbers that are not finite, which stay in their own lane."""
    library, slope, size = operations
    pairs = np.array([(a, b) for a in NUMBERS for b in NUMBERS])
    y = np.full((len(pairs), size), 0.5)
    y[:, :2] = pairs
    f = np.empty_like(y)
    library.call("values", len(y), 1, np.zeros(len(y)), y, np.empty(0), f)
    place = [*ONE, *TWO].index(name)
    wanted = np.array([float(slope(0, row, [])[place]) for row in y])
    with np.errstate(all="ignore"):
        # Below the smallest normal number digits are lost.
        np.testing.assert_allclose(f[:, place], wanted, rtol=1e-15 * LANES, atol=1e-307, err_msg=name)
    if name in ("fmin", "fmax"):
        return  # C leaves open which of two zeros it is
    zeros = wanted == 0
    np.testing.assert_array_equal(np.signbit(f[zeros, place]), np.signbit(wanted[zeros]), name)


def _reaction(k: Tensor, table: Tensor):
    def flat(t: Tensor, y: Tensor) -> Tensor:
        warm = torch.where(y[0] > 0.5, torch.exp(-1 / (1 + y[1] ** 2)), torch.sin(t) * y[2])
        rate = k[0] * y[0] * torch.tanh(table @ y).sum() + k[1] * warm
        return torch.stack([-rate, rate - y[1] * t, k[2] * y[2] ** 3 - y[0]])

    return flat


@pytest.mark.parametrize("by_columns", [False, True])
def test_lanes_have_the_numbers_of_single_states(monkeypatch: pytest.MonkeyPatch, by_columns: bool) -> None:
    """Of all loops, for any number of states and times, whole groups of lanes or not."""
    if by_columns:
        monkeypatch.setattr(expressions, "MOST_IN_JACOBIAN", 0)
    g = torch.Generator().manual_seed(0)
    k = torch.rand(3, generator=g, dtype=D, requires_grad=True)
    flat = _reaction(k, torch.rand(4, 3, generator=g, dtype=D))
    code = CompiledFunction(flat, torch.tensor(0.3, dtype=D), torch.rand(3, generator=g, dtype=D))
    random = np.random.default_rng(0)
    p = code.packed(code.lifted)
    for times, samples in ((1, 1), (1, 3), (2, 2), (5, 1), (1, 8), (3, 7), (37, 1), (9, 5), (4, 64), (64, 4)):
        t, s = random.random((2, times))
        y, v, w = random.random((3, times * samples, 3))
        found = []
        for many in (1, 10**9):
            monkeypatch.setattr(function, "MANY", many)
            found.append(
                [
                    code.values(t, y, p),
                    *code.blocks(t, y, p, 3),
                    code.blocks(t, y, p, 1)[1],
                    *code.pull(t, y, p, w),
                    code.pull_rows(t, y, p),
                    code.push(t, y, p, s, v),
                    code.move(t, y, p, p[::-1].copy()),
                    *code.bend(t[:1], y[0], p, np.resize(s, len(v)), v, w),
                ]
            )
        for number, (ours, wanted) in enumerate(zip(*found, strict=True)):
            assert np.abs(ours - wanted).max() <= 1e-13 * np.abs(wanted).max(), (times, samples, number)


def test_derivatives_by_parameters_are_those_of_torch() -> None:
    """Of each component at each state, with several states for one time."""
    k, table = torch.tensor([0.3, 0.7, 0.2], dtype=D, requires_grad=True), torch.rand(4, 3, dtype=D)
    code = CompiledFunction(_reaction(k, table), torch.tensor(0.3, dtype=D), torch.rand(3, dtype=D))
    t, y = torch.rand(3, dtype=D), torch.rand(6, 3, dtype=D)
    found = code.pull_rows(t.numpy(), y.numpy(), code.packed(code.lifted))
    for row, state in enumerate(y):
        wanted = torch.func.jacrev(lambda k: _reaction(k, table)(t[row // 2], state))(k).detach().numpy()  # noqa: B023
        np.testing.assert_allclose(found[row], wanted, rtol=1e-12, atol=1e-14, err_msg="look at code/pull.c")


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("piece", [1, 2, 7, 50])
def test_pieces_have_the_numbers_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, piece: int, by_columns: bool
) -> None:
    """But for rounding, since compilers fuse operations within a piece: values are kept as long as needed."""
    if by_columns:
        monkeypatch.setattr(expressions, "MOST_IN_JACOBIAN", 0)
    k, table = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=D)
    flat, random, found = _reaction(k[0].requires_grad_(), table), np.random.default_rng(0), []
    t, s = random.random((2, 5))
    y, v, w = random.random((3, 5, 3))
    for size in (10**9, piece):
        monkeypatch.setattr(program, "PIECE", size)
        code = CompiledFunction(flat, torch.tensor(0.3, dtype=D), torch.rand(3, dtype=D))
        p = code.packed(code.lifted)
        found.append(
            [
                code.values(t, y, p),
                *code.blocks(t, y, p, 3),
                *code.pull(t, y, p, w),
                code.push(t, y, p, s, v),
                code.move(t, y, p, p[::-1].copy()),
                *code.bend(t[:1], y[0], p, s, v, w),
            ]
        )
    for number, (whole, cut) in enumerate(zip(*found, strict=True)):
        off = np.abs(whole - cut).max() / np.abs(whole).max()
        assert off <= 1e-14, f"number {number}: look at stiffml/compiled/code/program.py"


def test_several_brackets_are_the_sum_of_single_ones() -> None:
    """Of any number, whole groups of lanes or not."""
    k, table = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=D)
    flat = _reaction(k[0].requires_grad_(), table)
    code = CompiledFunction(flat, torch.tensor(0.3, dtype=D), torch.rand(3, dtype=D))
    random, p = np.random.default_rng(0), code.packed(code.lifted)
    t, y = random.random(1), random.random(3)
    for count in (1, 3, 4, 6, 40):
        s, (v, w) = random.random(count), random.random((2, count, 3))
        whole = code.bend(t, y, p, s, v, w)
        single = [code.bend(t, y, p, s[i : i + 1], v[i : i + 1], w[i : i + 1]) for i in range(count)]
        for ours, parts in zip(whole, zip(*single, strict=True), strict=True):
            np.testing.assert_allclose(ours, sum(parts), rtol=1e-12, err_msg=str(count))


def test_lanes_do_not_touch_each_other() -> None:
    """A state at which f is not finite leaves the others as they are, also those that share its lanes."""
    code = CompiledFunction(lambda t, y: torch.log(y) / t, torch.ones((), dtype=D), torch.ones(1, dtype=D))
    y, t = np.linspace(1.0, 2.0, 64)[:, None], np.ones(64)
    spoilt, wanted = y.copy(), np.log(y)
    spoilt[[0, 5, 63]] = -1.0
    found, others = code.values(t, spoilt, np.empty(0)), np.delete(np.arange(64), [0, 5, 63])
    assert np.isnan(found[[0, 5, 63]]).all()
    np.testing.assert_allclose(found[others], wanted[others], rtol=1e-14)


def test_many_states_are_compiled_when_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(of: object, kind: str, lanes: int = 1) -> str:
        made.append(lanes)
        return code_of(of, kind, lanes)

    monkeypatch.setattr(function, "code_of", counted)
    code = CompiledFunction(lambda t, y: -y, torch.zeros((), dtype=D), torch.ones(2, dtype=D))
    code.values(np.zeros(3), np.ones((3, 2)), np.empty(0))
    assert made == [1]
    for _ in range(2):
        code.values(np.zeros(100), np.ones((100, 2)), np.empty(0))
    assert made == [1, LANES]


def test_where_vectors_do_not_compile_single_states_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function, "flags_of", lambda lanes: () if lanes == 1 else ("--no-such-flag",))
    code = CompiledFunction(lambda t, y: -2 * y, torch.zeros((), dtype=D), torch.ones(2, dtype=D))
    y = np.linspace(0, 1, 200).reshape(100, 2)
    np.testing.assert_array_equal(code.values(np.zeros(100), y, np.empty(0)), -2 * y)


def test_an_operation_without_translation_is_named() -> None:
    x = ca.SX.sym("x")
    with pytest.raises(NotCompilableError, match=r"operation \d+ has no translation"):
        translated(ca.Function("f", [x], [ca.erfinv(x)]), ())


def test_large_functions_take_their_room_from_the_heap() -> None:
    """Components and parameters whose vectors are too many for the stack."""
    n = 300
    k = torch.linspace(0.5, 1.5, n, dtype=D, requires_grad=True)
    code = CompiledFunction(lambda t, y: -k * y, torch.zeros((), dtype=D), torch.ones(n, dtype=D))
    p, y = code.packed(code.lifted), np.random.default_rng(0).random((40, n))
    np.testing.assert_allclose(code.blocks(np.zeros(40), y, p, 1)[0], -p * y)
    wrt_p = code.pull(np.zeros(40), y, p, np.ones_like(y))[3]
    np.testing.assert_allclose(wrt_p, -y.sum(axis=0))


def test_flags_follow_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it lacks is not asked for; the code is right without."""
    assert flags_of(1) == ()
    monkeypatch.setattr(processor, "_abilities", set)
    plain = processor.flags_of.__wrapped__(LANES)
    assert not any(re.match("-m|-l|-D", flag) for flag in plain)
    y = ca.SX.sym("y", 2)
    inputs = [ca.SX.sym("t"), y, ca.SX(0, 1)]
    of = SimpleNamespace(
        size=2,
        parameters=0,
        pattern=SimpleNamespace(row=np.empty(0), column=np.empty(0)),
        by_columns=False,
        slope=ca.Function("slope", inputs, [ca.exp(y)]),
        linearised=ca.Function("linearised", inputs, [ca.exp(y), ca.SX(0, 1)]),
    )
    library = Library(library_of(code_of(of, "forward", LANES), plain), ("values",))
    states, f = np.linspace(0, 1, 20).reshape(10, 2), np.empty((10, 2))
    library.call("values", 10, 1, np.zeros(10), states, np.empty(0), f)
    np.testing.assert_allclose(f, np.exp(states), rtol=1e-15)
