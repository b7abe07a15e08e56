"""What is chosen to solve linear systems, and what does not fit in memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fields import Own
from rings import line, mixed, one_step, ring
from scipy.sparse import eye_array
from torch import Tensor

from stiffml import (
    GMRES,
    LU,
    Assembled,
    Krylov,
    PointBlock,
    Sparsity,
    Split,
)

DENSE, SPARSE, FREE = "LU of the Jacobian, dense", "LU of the Jacobian, sparse", "gmres, matrix-free"
INCOMPLETE = r"gmres, a Jacobian of \d+ entries from \d products, ilu of the Jacobian"


@pytest.mark.parametrize(
    ("func", "y0", "arguments", "expected"),
    [
        (ring, line(256), {}, f"{DENSE}, 256 × 256"),
        (ring, line(400), {}, f"{SPARSE}, 1200 entries from [34] products"),
        (ring, line(25_000), {}, INCOMPLETE),
        (ring, line(400), {"linear": "auto"}, f"{SPARSE}, 1200 entries from [34] products"),
        (mixed, line(400), {}, f"{DENSE}, 400 × 400"),
        (mixed, line(2049), {}, f"{FREE}, no preconditioner"),
        (
            ring,
            line(400).reshape(4, 100),
            {"batch_dims": 1},
            "LU of 4 blocks of the Jacobian, dense, 100 × 100",
        ),
        (ring, line(400), {"linear": LU()}, f"{DENSE}, 400 × 400"),
        (ring, line(400), {"jacobian": "dense"}, f"{DENSE}, 400 × 400"),
        (ring, line(10), {"jacobian": "coloured"}, f"{SPARSE}, 30 entries from [3-5] products"),
        (ring, line(25_000), {"jacobian": "coloured"}, INCOMPLETE),
        (ring, line(25_000), {"jacobian": "coloured", "linear": LU()}, SPARSE),
        (
            ring,
            line(10),
            {"jacobian": Sparsity(np.ones((10, 10)))},
            f"{SPARSE}, 100 entries from 10 products",
        ),
        (ring, line(10), {"jacobian": "matrix-free"}, f"{FREE}, no preconditioner"),
        (ring, line(10), {"linear": GMRES()}, f"{FREE}, no preconditioner"),
        (ring, line(10), {"linear": GMRES(PointBlock())}, f"{FREE}, point-block Jacobi"),
        (ring, line(10), {"linear": GMRES(Own(ring))}, f"{FREE}, Own"),
        (
            ring,
            line(10),
            {"linear": Krylov("bcgs", Assembled(ring, "gamg"))},
            r"bcgs, matrix-free, gamg of ring \(",
        ),
        (ring, line(10), {"linear": GMRES(Assembled(eye_array(10)))}, f"{FREE}, ilu of a given matrix"),
        (ring, line(10), {"method": "rk4"}, "$"),
        (ring, line(10), {"method": "rk4", "linear": "auto"}, "$"),
    ],
)
def test_what_is_chosen(func: Callable, y0: Tensor, arguments: dict[str, Any], expected: str) -> None:
    chosen = one_step(func, y0, **arguments).stats.linear
    assert re.match(expected, chosen), f"chosen was {chosen!r}; look at choice.py"


def test_a_split_is_chosen_for_by_its_implicit_part() -> None:
    split = Split(ring, mixed)
    assert one_step(split, line(300), method="arkimex-3").stats.linear.startswith(SPARSE)
    assert one_step(split, line(300), method="cn").stats.linear.startswith(DENSE)


@pytest.mark.parametrize(
    ("shape", "arguments", "size"),
    [
        ((10**6,), {"jacobian": "dense"}, r"2\.24e\+04 GiB for 1000000 × 1000000 numbers"),
        ((10**6,), {"linear": LU()}, r"2\.24e\+04 GiB for 1000000 × 1000000 numbers"),
        (
            (4, 10**5),
            {"linear": LU(), "batch_dims": 1},
            "894 GiB for 100000 × 100000 numbers in each of 4 samples",
        ),
    ],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], arguments: dict[str, Any], size: str) -> None:
    calls = 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return ring(t, y)

    with pytest.raises(ValueError, match=rf"linear: .* {size}, but .* GiB are free\. Try: .*GMRES.*coloured"):
        one_step(counted, torch.ones(shape, dtype=torch.float64), **arguments)
    assert calls <= 5, "something of that size was tried"


def test_a_module_may_have_a_field_of_another_kind() -> None:
    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = torch.nn.Linear(2, 2)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return ring(t, y)

    named, plain = (one_step(func, line(10), linear=GMRES(Assembled())).y for func in (Named(), ring))
    torch.testing.assert_close(named, plain, rtol=1e-12, atol=0)
