"""Fields on one process: ghosts, derivatives, and what is refused; how grids are cut for several."""

from __future__ import annotations

import copy
import itertools
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from field_script import CASES, waves
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from stiffml.distributed import exchange
from stiffml.distributed.communicator import mpi
from stiffml.distributed.decomposition import process_grid
from stiffml.distributed.field import Field

T = torch.tensor(0.4, dtype=torch.float64)


def padded(y: Tensor, periodic: tuple[bool, ...], width: int) -> Tensor:
    """What torch makes of the ghosts, one axis at a time."""
    for axis, wraps in enumerate(periodic, start=1):
        rows = y.movedim(axis, -1)
        flat = rows.reshape(1, -1, rows.shape[-1])
        flat = functional.pad(flat, (width, width), mode="circular" if wraps else "replicate")
        y = flat.reshape(*rows.shape[:-1], flat.shape[-1]).movedim(-1, axis)
    return y


def field_of(small: int, *args: Any, **kwargs: Any) -> Field:
    """A field whose ghosts are taken by an index up to ``small`` numbers, and by PETSc beyond."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "SMALL", small)
        return Field(*args, **kwargs)


BOTH_WAYS = pytest.mark.parametrize("small", [0, exchange.SMALL], ids=["petsc", "index"])


@BOTH_WAYS
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_ghosts_are_those_of_torch(small: int, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 3))
    shape = tuple(data.draw(st.lists(st.integers(width, 7), min_size=1, max_size=3)))
    periodic = tuple(data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape))))
    field = field_of(small, shape, data.draw(st.integers(1, 3)), periodic=periodic, width=width)
    y = torch.randn(field.part_shape, dtype=torch.float64).requires_grad_()
    ghosted = field.ghosted(y)
    expected = padded(y, periodic, width)
    assert torch.equal(ghosted, expected)
    weights = torch.randn_like(ghosted)
    got, want = (torch.autograd.grad(values, y, weights)[0] for values in (ghosted, expected))
    torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)


@BOTH_WAYS
@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_any_order(small: int, name: str) -> None:
    width, dims = CASES[name]["width"], len(CASES[name]["shape"])
    field = field_of(small, **{**CASES[name], "shape": (2 * width,) * dims})
    y = waves(field, 0.0).requires_grad_()
    assert torch.autograd.gradcheck(field.ghosted, y, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: field.ghosted(x) ** 3, y)


@BOTH_WAYS
def test_a_retained_graph_gives_many_products(small: int) -> None:
    field = field_of(small, (5, 4), 2)
    torch.manual_seed(1)
    convolution = nn.Conv2d(2, 2, 3, dtype=torch.float64)
    f = field.rhs(lambda t, ghosted: torch.sin(convolution(ghosted)))
    y, w = waves(field, 0.0).requires_grad_(), waves(field, 1.0).requires_grad_()
    value = f(T, y)
    (g,) = torch.autograd.grad(value, y, w, create_graph=True)
    size = y.numel()
    jacobian = torch.autograd.functional.jacobian(lambda x: f(T, x), y.detach()).reshape(size, size)
    for v in torch.randn(3, *y.shape, dtype=torch.float64):
        (jv,) = torch.autograd.grad(g, w, v, retain_graph=True)
        (jtv,) = torch.autograd.grad(value, y, v, retain_graph=True)
        torch.testing.assert_close(jv.flatten(), jacobian @ v.flatten(), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(jtv.flatten(), jacobian.T @ v.flatten(), rtol=1e-13, atol=1e-13)


@BOTH_WAYS
def test_ghosts_of_a_transposed_part(small: int) -> None:
    field = field_of(small, (4, 4), 2)
    y = waves(field, 0.0)
    ghosted = field.ghosted(y.transpose(1, 2))  # not contiguous
    assert torch.equal(ghosted, padded(y.transpose(1, 2), field.periodic, 1))


def test_small_fields_can_be_batched() -> None:
    field = Field((4, 3), 2)
    f = field.rhs(lambda t, ghosted: t * ghosted[:, 1:-1, 2:] ** 2)
    states = torch.stack([waves(field, phase) for phase in (0.0, 1.0, 2.0)])
    expected = torch.stack([f(T, y) for y in states])
    assert torch.equal(torch.vmap(f, in_dims=(None, 0))(T, states), expected)


def test_one_process_holds_all() -> None:
    field = Field(shape=(6, 4), species=2, periodic=(True, False), width=1)
    assert (field.rank, field.size) == (0, 1)
    assert field.ranges == ((0, 6), (0, 4))
    assert field.part_shape == (2, 6, 4)
    assert not field.space.is_distributed
    assert [field.at_low_edge(axis) for axis in (0, 1)] == [False, True]
    assert [field.at_high_edge(axis) for axis in (0, 1)] == [False, True]
    x, y = field.coordinates
    assert torch.equal(x[:, 0], torch.arange(6, dtype=torch.float64) / 6)
    assert torch.equal(y[0], torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=torch.float64))
    assert x.shape == y.shape == (6, 4)
    assert copy.deepcopy(field) is field


def test_create_takes_what_broadcasts() -> None:
    field = Field((4, 3), 2)
    first, second = field.create(lambda x, y: [torch.sin(x), np.full(3, 2.0)])
    assert torch.equal(first, torch.sin(field.coordinates[0]))
    assert torch.equal(second, torch.full((4, 3), 2.0, dtype=torch.float64))
    amplitude = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(field.create(lambda x, y: (amplitude * x, 1)).sum(), amplitude)
    torch.testing.assert_close(slope, field.coordinates[0].sum())

    single = Field((4, 3))
    expected = single.coordinates[0][None]
    for values in (lambda x, y: x, lambda x, y: x[None], lambda x, y: [x], lambda x, y: x[:, :1]):
        assert torch.equal(single.create(values), expected)
    assert torch.equal(single.create(lambda x, y: 3), torch.full((1, 4, 3), 3.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda x, y: [x], "must return 2 species, not 1"),
        (lambda x, y: 1.0, "must return 2 species, not 1"),
        (lambda x, y: torch.stack([x, x, x]), "must return 2 species, not 3"),
        (lambda x, y: [x, x[:, :2]], r"species 1 has shape \(4, 2\).*points \(4, 3\)"),
    ],
)
def test_create_says_what_it_needs(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Field((4, 3), 2).create(values)


def test_sum_gather_and_scatter() -> None:
    field = Field((4, 3), 2)
    y = waves(field, 0.0).requires_grad_()
    total = field.sum(y**2)
    assert total.shape == ()
    (slope,) = torch.autograd.grad(total, y)
    torch.testing.assert_close(slope, 2 * y.detach())
    history = torch.stack([y, 2 * y])
    whole = field.gather(history)
    assert whole is not None
    assert torch.equal(whole, history)
    assert not whole.requires_grad
    assert torch.equal(field.scatter(whole), history)
    for wrong in (None, torch.zeros(2, 3, 4), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"shape ends in \(2, 4, 3\)"):
            field.scatter(wrong)


def test_a_right_hand_side_is_a_module() -> None:
    field = Field((4, 3), 2)
    local = nn.Conv2d(2, 2, 3)
    f = field.rhs(local)
    assert f.field is field
    assert list(f.parameters()) == list(local.parameters())
    assert "Field(shape=(4, 3)" in repr(f)
    assert copy.deepcopy(f).field is field
    assert field.rhs(lambda t, ghosted: t * ghosted[:, 1:-1, 1:-1])(T, waves(field, 0.0)).shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("local", "error", "message"),
    [
        (lambda t, ghosted: ghosted, ValueError, r"returned shape \(2, 6, 5\).* \(2, 4, 3\)"),
        (lambda t, ghosted: None, TypeError, "must return a tensor, not NoneType"),
    ],
)
def test_a_wrong_local_is_named(local: Any, error: type[Exception], message: str) -> None:
    field = Field((4, 3), 2)
    with pytest.raises(error, match=message):
        field.rhs(local)(T, waves(field, 0.0))
    with pytest.raises(TypeError, match="callable"):
        field.rhs(3)  # type: ignore[arg-type]


def test_a_wrong_state_is_named() -> None:
    field = Field((4, 3), 2)
    f = field.rhs(lambda t, ghosted: ghosted[:, 1:-1, 1:-1])
    with pytest.raises(ValueError, match=r"be \(2, 4, 3\).*but it is \(2, 3, 4\)"):
        f(T, torch.zeros(2, 3, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="float32"):
        f(T, torch.zeros(2, 4, 3))
    with pytest.raises(ValueError, match=r"end in \(2, 4, 3\)"):
        field.gather(torch.zeros(5, 2, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": ()}, "1 to 3 axes, not 0"),
        ({"shape": (4, 4, 4, 4)}, "1 to 3 axes, not 4"),
        ({"shape": 8}, "sequence of whole numbers"),
        ({"shape": (8.0, 2)}, "sequence of whole numbers"),
        ({"shape": (0, 2)}, "at least one point"),
        ({"shape": (8,), "species": 0}, "species must be at least 1, not 0"),
        ({"shape": (8,), "width": 0}, "width must be at least 1, not 0"),
        ({"shape": (8,), "width": 1.5}, "width must be a whole number"),
        ({"shape": (8, 2), "width": 3}, "width=3 is more than the 2 points along axis 1"),
        ({"shape": (8, 2), "periodic": (True,)}, "1 entries, but shape has 2 axes"),
        ({"shape": (8, 2), "periodic": None}, "a bool, or one for each axis"),
    ],
)
def test_a_wrong_field_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Field(**arguments)


def test_a_wrong_communicator_is_refused() -> None:
    with pytest.raises(TypeError, match="mpi4py or petsc4py"):
        Field((4,), comm="world")


def test_one_process_needs_no_mpi4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    field = Field((4, 3), 2)
    y = waves(field, 0.0)
    assert field.sum(y) == y.sum()
    assert field.gather(y) is not None
    with pytest.raises(ImportError, match=r"pip install '\.\[mpi\]'"):
        mpi()


@given(
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    width=st.integers(1, 2),
    processes=st.integers(1, 24),
)
@settings(deadline=None)
def test_every_process_gets_enough_points(shape: list[int], width: int, processes: int) -> None:
    most = [points // width for points in shape]
    choices = itertools.product(*(range(1, number + 1) for number in most))
    fits = any(math.prod(grid) == processes for grid in choices)
    if fits:
        grid = process_grid(shape, [True] * len(shape), width, processes)
        assert math.prod(grid) == processes
        assert all(p <= m for p, m in zip(grid, most, strict=True))
    else:
        with pytest.raises(ValueError, match="points along"):
            process_grid(shape, [True] * len(shape), width, processes)


@pytest.mark.parametrize(
    ("shape", "processes", "grid"),
    [
        ((64, 64), 4, (2, 2)),
        ((64, 64), 2, (2, 1)),
        ((10, 1000), 4, (1, 4)),
        ((32, 32, 32), 8, (2, 2, 2)),
        ((100,), 7, (7,)),
    ],
)
def test_few_points_are_cut_apart(shape: tuple[int, ...], processes: int, grid: tuple[int, ...]) -> None:
    assert process_grid(shape, [False] * len(shape), 1, processes) == grid
