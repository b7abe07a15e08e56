"""The right-hand side of a drawn combination, as ``solve`` gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from combinations.problems import FACTORS

if TYPE_CHECKING:
    from combinations.runs import Run

CALLS = 3_000_000
"""Of the function in one draw, beyond which it counts as one that does not end: with one checkpoint the steps
taken again grow as the square of their number."""


class TooManyCallsError(RuntimeError):
    """A solve goes on for ever."""


class Function(nn.Module):
    """func(t, y) of a combination; ``part`` is the whole, or one of the parts of a split."""

    def __init__(self, run: Run, part: str = "slopes") -> None:
        super().__init__()
        self.q = run.q  # an nn.Parameter
        self._run, self._part = [run], part  # in a list: it is no part of this module
        self.calls = 0

    def forward(self, t: Tensor, y: Any) -> Any:
        self.calls += 1
        if self.calls > CALLS:
            raise TooManyCallsError(f"{CALLS} calls of func")
        run = self._run[0]
        return run.as_state(run.scaled(self._slopes(run, t, run.as_rows(y))))

    def _slopes(self, run: Run, t: Tensor, rows: Tensor) -> Tensor:
        s = run.direction * (t - run.c.offset)
        p = list((run.base * self.q).unbind(-1))
        if run.c.style == "single":
            rows = torch.stack([rows[i] for i in range(run.problem.width)], dim=-1)
        elif run.c.style == "branching" and not rows[..., 0] > -1e9:
            rows = rows * 2
        return getattr(run.problem, self._part)(s, rows, p, self._jump(run, t) if run.c.breakpoints else 1.0)

    def _jump(self, run: Run, t: Tensor) -> Tensor | float:
        jump: Tensor | float = FACTORS[0]
        for at, factor in zip(run.breaks.detach(), FACTORS[1:], strict=False):
            if run.c.style == "branching":
                jump = factor if run.direction * (float(t) - float(at)) > 0 else jump
            else:
                before, after = (torch.as_tensor(value, dtype=run.dtype) for value in (jump, factor))
                jump = torch.where(run.direction * (t - at) > 0, after, before)
        return jump
