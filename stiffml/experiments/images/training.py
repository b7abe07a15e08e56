"""Training a classifier whose block is an ``ODEBlock``, by an optimizer of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stiffml import Adaptive, Grid, ODEBlock
from stiffml.experiments.images.data import Digits, moved
from stiffml.experiments.images.networks import Classifier
from stiffml.experiments.images.ways import TIMES

RATE, DECAY = 4e-3, 1e-2
BATCH = 64
STEPS: dict[str, int | None] = {"euler": 4, "rk4": 2, "dopri5": None}
"""How many equal steps a method takes; None for adaptive ones."""
RTOL = 1e-3


@dataclass(frozen=True)
class Trained:
    """A classifier and its accuracy (epochs,) on the images held back, after each epoch."""

    model: Classifier
    accuracy: list[float]


def train(
    data: Digits, dynamics: Callable[[], nn.Module], method: str, epochs: int, told: Callable[[str], None]
) -> Trained:
    """AdamW with one cycle of its rate; images are moved at random, anew in each epoch."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    steps = STEPS[method]
    if steps is None:
        block = ODEBlock(dynamics(), TIMES, method=method, steps=Adaptive(), rtol=RTOL, atol=RTOL)
    else:
        block = ODEBlock(dynamics(), TIMES, method=method, steps=Grid(steps))
    model = Classifier(data.side, block)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    batches = len(data.images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * batches)
    found = []
    for epoch in range(epochs):
        order = torch.randperm(len(data.images), generator=generator)
        for number in range(batches):
            batch = order[number * BATCH : (number + 1) * BATCH]
            images = moved(data.images[batch], generator)
            optimizer.zero_grad()
            cross_entropy(model(images), data.labels[batch]).backward()
            optimizer.step()
            schedule.step()
        found.append(accuracy(model, data.unseen, data.unseen_labels))
        told(f"epoch {epoch + 1} of {epochs}: {100 * found[-1]:.1f} %")
    return Trained(model, found)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that are told right."""
    told = torch.cat([model(part).argmax(1) for part in images.split(250)])
    return float((told == labels).double().mean())
