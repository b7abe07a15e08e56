"""Patterns of Jacobians found by trying the function, and columns that are evaluated together."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_array, csr_array, diags_array
from torch import Tensor

import problems
from problems.stencils import reaction_diffusion_sparsity, star, stencil_sparsity
from stiffml.system.derivatives.colouring import colour_columns, regroup
from stiffml.system.derivatives.pattern_detection import MOST_GROUPS, detect_sparsity


class Counted:
    """A torch function of a flat state for the search, which counts its calls."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self.calls = 0

    def __call__(self, u: np.ndarray) -> np.ndarray:
        self.calls += 1
        with torch.no_grad():
            return self._function(torch.from_numpy(u)).numpy()


def positive(n: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(0.1, 1, n)


def ring(n: int, *offsets: int) -> csr_array:
    """Row i has entries at i + offset, periodically."""
    return stencil_sparsity((1, n), {(0, 0): [(offset,) for offset in offsets]})


def assert_same(found: csr_array | None, true: csr_array) -> None:
    assert found is not None, "nothing was found: see where _NotFoundError is raised"
    assert found.dtype == bool
    assert found.has_sorted_indices
    missed = true.astype(int) - found.astype(int) > 0
    assert missed.nnz == 0, f"{missed.nnz} entries are missed, one at {np.argwhere(missed.toarray())[0]}"
    assert found.nnz == true.nnz, f"{found.nnz - true.nnz} entries too many: look at _halves for wrong owners"


def assert_valid(pattern: csr_array, groups: np.ndarray) -> None:
    assert groups.shape == (pattern.shape[1],)
    entries = pattern.tocoo()
    together = np.zeros((pattern.shape[0], groups.max(initial=0) + 1), dtype=int)
    np.add.at(together, (entries.row, groups[entries.col]), 1)
    assert together.max(initial=0) <= 1, f"row {together.max(axis=1).argmax()} has two columns in one group"


@pytest.mark.parametrize(
    ("name", "size"), [("brusselator", 9), ("gray_scott", 16), ("burgers", 100), ("ks", 64)]
)
def test_patterns_of_the_library(name: str, size: int) -> None:
    problem = problems.load(name, size=size)
    rhs, time, shape = problem.func(), torch.tensor(0.0, dtype=torch.float64), problem.y0.shape
    evaluate = Counted(lambda u: rhs(time, u.view(shape)).reshape(-1))
    assert problem.sparsity is not None
    assert_same(detect_sparsity(evaluate, problem.y0.reshape(-1)), problem.sparsity())


def limited(u: Tensor) -> Tensor:
    """A flux with the smaller of two slopes, where they have the same sign."""
    left, right = u - u.roll(1), u.roll(-1) - u
    smaller = torch.where(left.abs() < right.abs(), left, right)
    return torch.where(left * right > 0, smaller, torch.zeros_like(u))


def only_above(u: Tensor) -> Tensor:
    """NaN in u leads to the branch that does not depend on it."""
    return torch.where(u > 3.0, (u - 3) ** 2, torch.ones_like(u))


@pytest.mark.parametrize(
    ("function", "offsets"),
    [
        (lambda u: -(u**3), (0,)),
        (lambda u: u * 0 + u.roll(1), (-1, 0)),
        (lambda u: torch.relu(u - 5) + u.clamp(2, 3).roll(2), (-2, 0)),
        (lambda u: u.roll(3) * (u - u) + u.roll(-1).abs().sqrt(), (-3, 0, 1)),
        (lambda u: torch.where(u > 0, u * (u - u.roll(1)), u * (u.roll(-1) - u)), (-1, 0, 1)),
        (lambda u: torch.where(u > u.roll(1), u.roll(2), u.roll(-2)), (-2, 2)),
        (lambda u: torch.where(u.roll(7) > 10, u.roll(-1), u), (0, 1)),
        (limited, (-1, 0, 1)),
        (only_above, (0,)),
        (lambda u: only_above(u.roll(5)) * u.log() + u.roll(1).sqrt(), (-5, -1, 0)),
        (lambda u: torch.nan_to_num(u.roll(1)) - u, (-1, 0)),
        (lambda u: torch.exp(1e3 / u) - u.roll(1), (-1, 0)),
    ],
)
def test_branches_and_zeros(function: Callable[[Tensor], Tensor], offsets: tuple[int, ...]) -> None:
    n = 200
    assert_same(detect_sparsity(Counted(function), positive(n)), ring(n, *offsets))


def test_one_entry_behind_a_branch() -> None:
    def function(u: Tensor) -> Tensor:
        f = -u
        f[7] = torch.where(u[100] > u[200], u[7] * u[150], u[7])
        return f

    u = positive(256)
    u[100], u[200] = 0, 1
    true = ring(256, 0).tolil()
    true[7, 150] = True
    assert_same(detect_sparsity(Counted(function), u), csr_array(true))


def test_rows_without_entries() -> None:
    assert_same(detect_sparsity(Counted(torch.ones_like), positive(50)), csr_array((50, 50), dtype=bool))
    half = csr_array((np.ones(20, bool), (np.arange(20), np.full(20, 9))), shape=(50, 50))
    found = detect_sparsity(Counted(lambda u: torch.cat([u[9].expand(20), torch.zeros(30)])), positive(50))
    assert_same(found, half)


@pytest.mark.parametrize(
    "function",
    [
        lambda u: u - u.mean(),
        lambda u: torch.cat([u.sum()[None], u[1:]]),
        lambda u: torch.fft.irfft(torch.fft.rfft(u) * 2, n=len(u)),
        lambda u: torch.tanh(torch.ones(len(u), len(u), dtype=u.dtype) @ u),
    ],
)
def test_dense_rows_are_no_gain(function: Callable[[Tensor], Tensor]) -> None:
    evaluate = Counted(function)
    assert detect_sparsity(evaluate, positive(512)) is None
    assert evaluate.calls < 512, "giving up took as long as the Jacobian"


def test_density_that_is_allowed() -> None:
    def function(u: Tensor) -> Tensor:
        return sum((u.roll(-k) for k in range(5)), torch.zeros_like(u))

    pattern = ring(64, *range(5))
    assert_same(detect_sparsity(Counted(function), positive(64), densest=0.2), pattern)
    assert detect_sparsity(Counted(function), positive(64), densest=4 / 64) is None


def test_large_dense_rows_end_the_search_early() -> None:
    evaluate = Counted(lambda u: torch.cat([u.sum()[None], u[1:]]))
    assert detect_sparsity(evaluate, positive(50_000)) is None
    assert evaluate.calls <= 4 * MOST_GROUPS, "the longest row should end it: see _search"


def with_pattern(pattern: csr_array) -> Callable[[np.ndarray], np.ndarray]:
    """A cubic polynomial that has this pattern, and zero coefficients among others."""
    square = pattern.astype(float)
    square.data = np.arange(len(square.data)) % 3 - 1.0

    def evaluate(u: np.ndarray) -> np.ndarray:
        # Entry by entry: a product with a sparse matrix may leave out its zeros.
        rows = np.repeat(np.arange(u.size), np.diff(pattern.indptr))
        terms = square.data * u[pattern.indices] ** 3 + u[pattern.indices]
        return np.bincount(rows, terms, minlength=u.size)

    return evaluate


@st.composite
def patterns(draw: st.DrawFn, square: bool = False) -> csr_array:
    columns = draw(st.integers(1, 40))
    rows = columns if square else draw(st.integers(1, 40))
    density = draw(st.sampled_from([0.02, 0.1, 0.3, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return csr_array(random.random((rows, columns)) < density)


@given(patterns(square=True))
@settings(deadline=None)
def test_any_pattern_is_found(pattern: csr_array) -> None:
    n = pattern.shape[0]
    assert_same(detect_sparsity(with_pattern(pattern), positive(n), densest=1.0), pattern)


def test_numbering_does_not_matter() -> None:
    pattern = reaction_diffusion_sparsity((2, 24, 24))
    order = np.random.default_rng(2).permutation(pattern.shape[0])
    mixed = csr_array(pattern[order][:, order])
    mixed.sort_indices()
    assert_same(detect_sparsity(with_pattern(mixed), positive(len(order))), mixed)
    assert colour_columns(mixed).max() < 14


@pytest.mark.parametrize(
    ("pattern", "multiple"),
    [(stencil_sparsity((1, 4096), {(0, 0): star(1)}), 15), (reaction_diffusion_sparsity((2, 64, 64)), 30)],
    ids=["one dimension", "two species in two dimensions"],
)
def test_evaluations_grow_with_the_logarithm(pattern: csr_array, multiple: int) -> None:
    """A level takes both halves of about as many groups as the pattern has; checks come on top, once."""
    polynomial, calls = with_pattern(pattern), []

    def evaluate(u: np.ndarray) -> np.ndarray:
        calls.append(1)
        return polynomial(u)

    n = pattern.shape[0]
    assert_same(detect_sparsity(evaluate, positive(n)), pattern)
    assert len(calls) < multiple * math.log2(n), "look for groups in _search that regroup should have merged"


def test_functions_that_do_not_take_nan() -> None:
    def strict(u: np.ndarray) -> np.ndarray:
        if np.isnan(u).any():
            raise ValueError("NaN")
        return -u

    def impatient(u: np.ndarray) -> np.ndarray:
        if np.isnan(u).any():
            raise KeyboardInterrupt
        return -u

    assert detect_sparsity(strict, positive(50)) is None
    with pytest.raises(KeyboardInterrupt):
        detect_sparsity(impatient, positive(50))


def test_nan_and_errors_at_the_state_itself() -> None:
    def failing(u: np.ndarray) -> np.ndarray:
        raise ValueError("not here")

    assert detect_sparsity(Counted(torch.log), -positive(50)) is None
    with pytest.raises(ValueError, match="not here"):
        detect_sparsity(failing, positive(50))


def test_infinite_rows() -> None:
    u = positive(50)
    u[3] = 0
    assert_same(detect_sparsity(Counted(lambda u: 1 / u + u.roll(1)), u), ring(50, -1, 0))


def test_states_belong_to_who_is_called() -> None:
    """A function may write into its state, and use the memory of its result again."""
    u, out = positive(100), np.empty(100)

    def careless(state: np.ndarray) -> np.ndarray:
        state *= 2
        out[:] = state + np.roll(state, 1)
        return out

    before = u.copy()
    assert_same(detect_sparsity(careless, u), ring(100, -1, 0))
    np.testing.assert_array_equal(u, before)


def test_functions_without_a_fixed_value() -> None:
    random = np.random.default_rng(0)
    assert detect_sparsity(lambda u: u + random.standard_normal(u.size), positive(100)) is None


@given(patterns())
@settings(deadline=None)
def test_any_pattern_is_grouped(pattern: csr_array) -> None:
    assert_valid(pattern, colour_columns(pattern))
    rows = csr_array(pattern.T)
    assert_valid(rows, colour_columns(rows))


@given(patterns(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_regrouping_takes_no_more_groups(pattern: csr_array, seed: int) -> None:
    columns = csc_array(pattern)
    columns = columns[:, np.flatnonzero(np.diff(columns.indptr))]
    count = columns.shape[1]
    if count:
        groups = np.random.default_rng(seed).permutation(count)
        for _ in range(3):
            found = regroup(columns, groups)
            assert_valid(csr_array(columns), found)
            assert len(np.unique(found)) == found.max() + 1, "a group is empty"
            assert found.max() <= groups.max()
            groups = found


def test_more_groups_than_a_word_has_bits() -> None:
    pattern = ring(1001, *range(150))
    groups = colour_columns(pattern)
    assert_valid(pattern, groups)
    assert groups.max() < 300
    some = np.random.default_rng(0).choice(1001, 100, replace=False)
    mixed = csr_array(pattern[:, some])
    assert_valid(mixed, regroup(csc_array(mixed), np.arange(100)))


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [
        (csr_array(diags_array([np.ones(99)] * 2 + [np.ones(100)], offsets=[-1, 1, 0])), 3, 3),
        (ring(99, -1, 0, 1), 3, 3),
        (ring(100, -1, 0, 1), 4, 4),
        (ring(500, *range(-20, 21)), 41, 50),
        (reaction_diffusion_sparsity((1, 64, 64)), 5, 9),
        (reaction_diffusion_sparsity((2, 64, 64)), 6, 12),
        (problems.load("brusselator").sparsity(), 6, 12),
    ],
)
def test_groups_are_few(pattern: csr_array, least: int, most: int) -> None:
    groups = colour_columns(pattern)
    assert_valid(pattern, groups)
    np.testing.assert_array_equal(groups, colour_columns(pattern), err_msg="not the same twice")
    print(pattern.shape, groups.max() + 1)
    assert least <= groups.max() + 1 <= most, "look at _period and at the passes of _greedy"


def test_columns_and_rows_without_entries() -> None:
    assert colour_columns(csr_array((3, 5), dtype=bool)).tolist() == [0] * 5
    pattern = csr_array((np.ones(2, bool), ([1, 1], [2, 30])), shape=(4, 40))
    assert_valid(pattern, colour_columns(pattern))
