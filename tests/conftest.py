"""Fixtures that every test may ask for, and one thread: the problems are tiny."""

from __future__ import annotations

import gc
import itertools
import math
import signal
from collections.abc import Iterator

import pytest
import torch
from small_problems import SmallNetwork, decay, times
from torch import Tensor

from stiffml import solve

torch.set_num_threads(1)

_numbers = itertools.count()


def pytest_collection_finish() -> None:
    """What has been imported and collected by now stays: no collection of garbage has to look at it again.

    Tests that look for what is left behind collect garbage many times, and that took most of their time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def network() -> SmallNetwork:
    return SmallNetwork()


@pytest.fixture
def start() -> Tensor:
    return torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)


@pytest.fixture
def python_handles_ctrl_c() -> Iterator[None]:
    """Also in a process that was started in the background, where shells have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def prefix() -> Iterator[str]:
    """A fresh prefix for one TS of PETSc, with the options that have no call in petsc4py."""
    from petsc4py import PETSc  # after stiffml, which initialises it

    name = f"oracle_{next(_numbers)}_"
    # A trajectory reads its options without any prefix, so its type is the whole process's.
    values = {f"{name}ts_adapt_type": "none", "ts_trajectory_type": "memory"}
    options = PETSc.Options()
    for option, value in values.items():
        options.setValue(option, value)
    yield name
    for option in values:
        options.delValue(option)


@pytest.fixture
def next_solve_works() -> Iterator[None]:
    """Whatever has failed in a test, a solve after it gives what it always gives."""
    yield
    y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    y = solve(decay, y0, times(0, 1)).y
    assert isinstance(y, Tensor)
    assert torch.allclose(y[-1], y0 * math.exp(-1), rtol=1e-4)
