"""How many threads torch, LAPACK and OpenMP use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

SAID = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables of the environment with which users say how many there are to be."""


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread within the block, unless the environment says how many.

    Matrices of a few hundred rows do not occupy two threads: these wait for each other. A fit of 150 weights
    took 3 times as long on two idle cores, and 80 times where other programs used the cores too.
    """
    from threadpoolctl import threadpool_limits

    if any(name in os.environ for name in SAID):
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
