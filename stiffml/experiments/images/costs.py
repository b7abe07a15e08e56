"""What a training step costs, by the way to its gradient: time, calls of f, the error of the gradient."""

from __future__ import annotations

import copy
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stiffml.experiments.images import rivals
from stiffml.experiments.images.data import Digits
from stiffml.experiments.images.networks import Classifier
from stiffml.experiments.images.ways import (
    ADAPTIVE,
    CHECKPOINTED,
    CONTINUOUS,
    MALI,
    TAPE,
    Block,
    solve,
    ways,
)
from stiffml.experiments.turns import in_turns

MOST_OF_MALI = 256
"""Steps."""

COUNTED = 5
"""Training steps whose calls are counted."""


@dataclass(frozen=True)
class Cost:
    """Of one training step: CPU time in s, calls of f, the relative error of its gradient, and its steps.

    The error is that against torch's tape through the same steps in double precision, NaN where that was not
    asked for, or where steps are adaptive and so differ. ``steps`` is 0 for adaptive ones.
    """

    seconds: float
    forward: int
    backward: int
    error: float
    steps: int


def func_of(model: Classifier) -> nn.Module:
    """The dynamics of its block."""
    func = model.block.func
    assert isinstance(func, nn.Module)
    return func


def with_way(model: Classifier, way: str, method: str, steps: int | None) -> Classifier:
    """The same classifier with another way through its block."""
    other = copy.deepcopy(model)
    other.block = Block(way, func_of(other), method, steps)
    return other


def costs(
    model: Classifier,
    data: Digits,
    batch: int,
    method: str,
    steps: int | None,
    repeats: int,
    thorough: bool = False,
) -> dict[str, Cost]:
    """The cost of one training step by each way, in turns.

    MALI, which has a method of its own, takes as many steps, or if ``thorough`` as few as reach the error of
    stiffml's method; errors of gradients are measured then too.
    """
    images, labels = data.images[:batch], data.labels[:batch]
    taken = dict.fromkeys(ADAPTIVE if steps is None else ways(), steps)
    if thorough:
        taken[MALI] = _steps_of_mali(model, images, method, steps)
    models = {way: with_way(model, way, method, count) for way, count in taken.items()}
    cases = {way: (lambda one=one: _gradient(one, images, labels)) for way, one in models.items()}
    seconds = in_turns(cases, repeats)
    found = {}
    for way, one in models.items():
        forward, backward = _calls(one, images, labels)
        error = _error(one, images, labels) if thorough and taken[way] is not None else float("nan")
        found[way] = Cost(seconds[way], forward, backward, error, taken[way] or 0)
    return found


@torch.no_grad()
def _steps_of_mali(model: Classifier, images: Tensor, method: str, steps: int | None) -> int:
    """The fewest steps, a power of two, with which it errs no more than stiffml by a method and its steps."""
    func, y0 = func_of(model), model.stem(images)
    exact = solve("stages", copy.deepcopy(func).double(), y0.double(), "dopri5", None, rtol=1e-8)

    def error(found: Tensor) -> float:
        return float((found - exact).norm())

    wanted, count = error(solve("stages", func, y0, method, steps)), 1
    while error(solve(MALI, func, y0, method, count)) > wanted and count < MOST_OF_MALI:
        count *= 2
    return count


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(model(images), labels)


def _gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    model.zero_grad()
    _loss(model, images, labels).backward()
    return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])


def _calls(model: Classifier, images: Tensor, labels: Tensor) -> tuple[int, int]:
    """Calls of f in the forward and the backward pass, as most training steps have them.

    Some solves of stiffml try f out besides.
    """
    counted = [0]

    def count(*_: object) -> None:
        counted[0] += 1

    handle, found = func_of(model).register_forward_hook(count), []
    for _ in range(COUNTED):
        counted[0] = 0
        loss = _loss(model, images, labels)
        forward = counted[0]
        loss.backward()
        found.append((forward, counted[0] - forward))
    handle.remove()
    return statistics.mode(found)


class _TapeOfALF(nn.Module):
    def __init__(self, func: nn.Module, steps: int) -> None:
        super().__init__()
        self.func, self.steps = func, steps

    def forward(self, y0: Tensor) -> Tensor:
        return rivals.alf(self.func, y0, self.steps)[0][None]


def _error(model: Classifier, images: Tensor, labels: Tensor) -> float:
    taped, block = copy.deepcopy(model).double(), model.block
    assert isinstance(block, Block)
    assert block.steps is not None
    if block.way == MALI:
        taped.block = _TapeOfALF(func_of(taped), block.steps)
    else:
        way = TAPE if block.way in (TAPE, CONTINUOUS) else CHECKPOINTED
        taped.block = Block(way, func_of(taped), block.method, block.steps)
    exact = _gradient(taped, images.double(), labels)
    return float((_gradient(model, images, labels) - exact).norm() / exact.norm())
