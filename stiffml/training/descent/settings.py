"""What a user asks of a fit by an optimizer of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from stiffml.checks import described, number, whole
from stiffml.display import readable

LOSSES = ("squares", "absolute")

Schedule = Callable[[torch.optim.Optimizer], Any]
"""From an optimizer to one of the schedulers in ``torch.optim.lr_scheduler``."""


@readable
@dataclass(frozen=True)
class FirstOrder:
    """Settings of a fit by an optimizer of torch.

    Parameters
    ----------
    loss : str
        Of residuals in units of their scale: the mean of ``"squares"`` (default) or ``"absolute"`` values.
    schedule : callable
        optimizer -> scheduler of ``torch.optim.lr_scheduler``, which takes a step after each iteration;
        ``ReduceLROnPlateau`` gets the loss. Default: a constant learning rate.
    clip : float
        The gradient is shortened to this norm. Default: never.
    batch : int
        Intervals in an iteration, in a new seeded order each epoch; with whole runs these are runs, with
        ``MultipleShooting`` windows of them. Default: all.
    continuity : float
        With ``MultipleShooting``, the weight of the mean square of jumps between the end of an interval and
        the start of the next. The starts are then fitted too, beginning with the observations. Default 0:
        they are the observations.
    check_every : int
        Iterations between checks, on the data to validate on, or else by the mean loss since the last check.
        With data to validate on, the weights of the best check count. Default 10.
    patience : int
        Checks in a row that do not lower what is checked by the tolerance of the strategy, after which a rung
        ends. Default: it ends after its iterations.

    Examples
    --------
    >>> import torch
    >>> from stiffml.training import FirstOrder
    >>> cosine = lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    >>> FirstOrder(schedule=cosine, clip=1.0, batch=8, patience=20).batch
    8
    """

    loss: str = "squares"
    schedule: Schedule | None = None
    clip: float | None = None
    batch: int | None = None
    continuity: float = 0.0
    check_every: int = 10
    patience: int | None = None

    def __post_init__(self) -> None:
        def checked(name: str, check: Callable[..., Any], **limits: float) -> None:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check(f"FirstOrder: {name}", value, **limits))

        if self.loss not in LOSSES:
            raise ValueError(
                f"FirstOrder: loss must be one of {', '.join(LOSSES)}, not {described(self.loss)}"
            )
        if self.schedule is not None and not callable(self.schedule):
            raise TypeError(
                "FirstOrder: schedule must be a function optimizer -> scheduler, such as lambda o: "
                f"torch.optim.lr_scheduler.StepLR(o, 100), not {described(self.schedule)}"
            )
        checked("clip", number, above=0)
        checked("batch", whole)
        checked("continuity", number, least=0)
        checked("check_every", whole)
        checked("patience", whole)

    @property
    def config(self) -> dict[str, Any]:
        """What a resumed fit must have been asked for too, without the schedule."""
        names = ("loss", "clip", "batch", "continuity", "check_every", "patience")
        return {name: getattr(self, name) for name in names}
