"""How many functions of stiffml a solve like one before calls, besides those of its arithmetic."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from remembering import Y0, Func, T

import stiffml
from stiffml import Grid, solve

BOUNDS = {"all at once": (330, 250), "a step": (330, 165), "by PETSc": (560, 285)}
"""Forwards and backwards. A tenth more than there were when this was written."""

PACKAGE = str(Path(stiffml.__file__).parent)

ARITHMETIC = ("_solve_window", "sweep_at_once", "factored_anew", "linearize", "vjp")
"""What these call does not count."""


def calls(work: Callable[[], object]) -> int:
    count = depth = 0

    def note(frame, event: str, argument: object) -> None:
        nonlocal count, depth
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) or event not in ("call", "return"):
            return
        if code.co_name in ARITHMETIC:
            depth += 1 if event == "call" else -1
        elif event == "call" and not depth:
            count += 1

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("way", BOUNDS)
def test_calls_of_a_solve_like_one_before(way: str) -> None:
    func, found = Func(), []
    given = {"t": T if way == "all at once" else T[:2]}
    given |= {"stepping": "sequential"} if way == "by PETSc" else {}
    for _ in range(4):
        forwards = calls(lambda: found.append(solve(func, Y0, method="cn", steps=Grid(), **given)))
        loss = (found[-1].y ** 2).sum()
        backwards = calls(lambda loss=loss: torch.autograd.grad(loss, list(func.inner.parameters())))
    assert forwards <= BOUNDS[way][0], f"{forwards}: look at interface/remembered.py"
    assert backwards <= BOUNDS[way][1], f"{backwards}: look at gradients/autograd.py"
