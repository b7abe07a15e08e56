"""What a solve that failed must not leave behind."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

from stiffml.petsc.library import PETSc


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """No PETSc options, no open files, once what was raised is forgotten."""
    gc.collect()
    before = _left()
    yield
    gc.collect()
    assert _left() == before, (
        "look at PETScStepper.close, at how _Recorded lets go of its options, and at what the traceback of "
        "the error holds on to"
    )


def _left() -> tuple[dict[str, str], int]:
    return PETSc.Options().getAll(), len(os.listdir("/proc/self/fd"))
