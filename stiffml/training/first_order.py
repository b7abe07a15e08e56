"""Fits by optimizers of torch: the descent with its folder, and its result."""

from __future__ import annotations

from collections.abc import Callable

import torch

from stiffml.checks import described
from stiffml.steps import KeptSteps
from stiffml.training.asked import Asked
from stiffml.training.descent.descent import Descent
from stiffml.training.descent.loss import Evaluated, IntervalLoss
from stiffml.training.descent.optimizers import (
    Make,
    optimizer_of,
    optimizer_text,
    scheduler_of,
    scheduler_text,
)
from stiffml.training.descent.rows import history_dataset
from stiffml.training.descent.settings import FirstOrder
from stiffml.training.descent.unknowns import Unknowns
from stiffml.training.lm.intervals import whole
from stiffml.training.lm.ladder import FullSpace, MultipleShooting, Strategy, Whole
from stiffml.training.lm.residuals import Residuals
from stiffml.training.result import Result

ITERATIONS = 1000


def fit_by_descent(
    asked: Asked,
    optimizer: str | torch.optim.Optimizer | Make,
    learning_rate: float | None,
    strategy: Strategy | None,
    iterations: int | None,
    settings: FirstOrder | None,
    kept: KeptSteps | None,
    seconds: float,
) -> Result:
    """Fit, and return the result.

    Raises
    ------
    TrainingError
        If it cannot go on.
    """
    residuals = asked.residuals
    settings = FirstOrder() if settings is None else settings
    if not isinstance(settings, FirstOrder):
        raise TypeError(f"first_order must be a FirstOrder(…), not {described(settings)}")
    chosen = _strategy(strategy, iterations)
    if settings.continuity and not isinstance(chosen, MultipleShooting):
        raise ValueError(
            "FirstOrder: continuity is between the intervals of strategy=MultipleShooting(…); leave it out"
        )
    unknowns = Unknowns(residuals, bool(settings.continuity))
    loss = IntervalLoss(residuals, unknowns, settings, kept)
    made = optimizer_of(optimizer, residuals.model, learning_rate, unknowns.parameters)
    text = optimizer_text(made)
    scheduler = scheduler_of(settings.schedule, made)
    descent = Descent(
        residuals.model,
        loss,
        made,
        scheduler,
        chosen.rungs(residuals.runs),
        settings,
        asked.restarts.seed,
        _check_of(asked, settings),
        seconds,
    )
    config = {
        **asked.config,
        "optimizer": text,
        "schedule": scheduler_text(scheduler),
        # The default may go on for longer than it was asked to at first.
        "strategy": "whole" if strategy is None else str(chosen),
        "first_order": str(settings.config),
        "kept": "none" if kept is None else f"{kept.steps}, renew={kept.renew}, bound={kept.bound:g}",
    }

    def history():
        return history_dataset(descent.progress.rows, [rung.name for rung in descent.rungs], {})

    recording = asked.recording(config)
    total = sum(rung.iterations for rung in descent.rungs)
    recording.drive(descent, descent.state_dict, descent.load_state_dict, history, total)
    plain = IntervalLoss(residuals, unknowns, FirstOrder(loss="absolute"), None, observations_only=True)
    error = float("nan")

    def works() -> bool:
        nonlocal error
        found = plain.evaluate(whole(residuals.runs), gradient=False)
        descent.note(found.faults)
        error = found.loss
        return not found.lost

    try:
        descent.finish(works)
    finally:
        if recording.folder is not None:
            recording.folder.write(history(), descent.progress.failures)
    count = len(descent.progress.rows)
    return Result(
        model=residuals.model,
        error=error,
        outcome=descent.progress.outcome or f"{count} iterations of {type(made).__name__}",
        history=history(),
        attempts=[],
        failures=descent.progress.failures,
        scale=residuals.scale,
        initial=unknowns.initial(),
        covariance=None,
        data=residuals.runs,
        validate=asked.validate,
        equations=asked.equations,
        compile=asked.compile,
    )


def _strategy(strategy: Strategy | None, iterations: int | None) -> Strategy:
    if strategy is None:
        return Whole(last=ITERATIONS if iterations is None else iterations)
    if not isinstance(strategy, Strategy):
        raise TypeError(
            f"strategy must be MultipleShooting, GrowingHorizon or Whole, not {described(strategy)}"
        )
    if isinstance(strategy, FullSpace):
        raise ValueError(
            "strategy: FullSpace fits states besides parameters, which only optimizer='lm' does; "
            "take MultipleShooting(), GrowingHorizon() or Whole()"
        )
    if iterations is not None:
        raise ValueError(
            "iterations is for whole runs; a strategy has its own, such as "
            "GrowingHorizon(iterations=50, last=500)"
        )
    return strategy


def _check_of(asked: Asked, settings: FirstOrder) -> Callable[[], Evaluated] | None:
    """The mean loss along the runs to validate on."""
    if asked.validate is None:
        return None
    of = asked.residuals
    seen = Residuals(of.model, asked.validate, of.scale, of.options)
    loss = IntervalLoss(seen, Unknowns(seen, False), settings, None)

    def check() -> Evaluated:
        random = torch.get_rng_state()
        found = loss.evaluate(whole(seen.runs), gradient=False)
        torch.set_rng_state(random)
        return found

    return check
