"""Minimises the loss by an optimizer of torch, rung after rung, one iteration at a time.

Where no loss can be had the weights go halfway back to those before the last update. Where an update is not
finite, or an optimizer that searches along lines meets a failure, it is taken again with half the learning
rate. An iteration depends on ``state_dict`` only, so that a descent that was killed ends where it would have.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from stiffml.steps import KeptSteps
from stiffml.training.data.batches import members
from stiffml.training.descent.loss import Evaluated, Fault, IntervalLoss
from stiffml.training.descent.optimizers import copied, takes_one_group
from stiffml.training.descent.rows import DescentProgress, Failure, Row
from stiffml.training.descent.settings import FirstOrder
from stiffml.training.lm.intervals import Interval, Rung
from stiffml.training.trouble import FIRST_ORDER_ADVICE, TrainingError

IN_A_ROW = 10
"""Failures in a row after which it stops: evaluations without a loss, or iterations without some run."""

STEPS_BACK = 2
"""How often it goes back a rung before it stops."""

FEW = 0.5
"""From which share of intervals that cannot be solved on the weights are taken for the cause."""


class _Lost(Exception):
    """An iteration that cannot be finished. ``first``: there is no loss at the weights themselves."""

    def __init__(self, faults: Sequence[Fault], first: bool) -> None:
        super().__init__(faults[-1].cause)
        self.faults, self.first = list(faults), first


class Descent:
    """A descent.

    Parameters
    ----------
    model : nn.Module
    loss : IntervalLoss
    optimizer : torch.optim.Optimizer
    scheduler : object or None
        One of ``torch.optim.lr_scheduler``.
    rungs : sequence of Rung
    settings : FirstOrder
    seed : int
        Of the order of minibatches.
    check : callable
        () -> the loss of data to validate on.
    seconds : float
        After which it ends.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: IntervalLoss,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        rungs: Sequence[Rung],
        settings: FirstOrder,
        seed: int,
        check: Callable[[], Evaluated] | None,
        seconds: float,
    ) -> None:
        self._model, self._loss, self._optimizer, self._scheduler = model, loss, optimizer, scheduler
        self.rungs, self._settings, self._seed = list(rungs), settings, seed
        self._check, self._seconds = check, seconds
        self._over = f"stopped after {seconds:g} s"  # no end of a fit that is resumed with more time
        self.progress = DescentProgress()
        self._before: list[Tensor] | None = None  # the weights at which there was a loss
        self._best: list[Tensor] | None = None

    @property
    def finished(self) -> bool:
        now = self.progress
        return bool(now.outcome) or (
            now.level == len(self.rungs) - 1 and now.done >= self.rungs[-1].iterations
        )

    def advance(self) -> None:
        """One iteration.

        Raises
        ------
        TrainingError
            If no way to go on was found.
        """
        now, began = self.progress, time.perf_counter()
        intervals = self._intervals()
        surroundings = self._surroundings(intervals)
        halved, rate = 0, 1.0
        while True:
            held = self._copies(), copied(self._optimizer.state_dict())
            try:
                row = self._step(intervals, rate)
                break
            except _Lost as lost:
                self._put(held[0])
                self._optimizer.load_state_dict(held[1])
                self._restore(surroundings)  # every try has the same minibatch and steps
                self.note(lost.faults)
                now.in_a_row += 1
                if now.in_a_row >= IN_A_ROW:
                    self._give_up(str(lost))
                    return
                halved += 1
                if lost.first:
                    self._go_halfway_back()
                else:
                    rate /= 2
        self._before, now.in_a_row = held[0], 0
        row.halved, row.seconds = halved, time.perf_counter() - began
        now.rows.append(row)
        now.seconds += row.seconds
        now.done += 1
        self._follow(row)

    def _step(self, intervals: Sequence[Interval], rate: float) -> Row:
        """One step of the optimizer, with a part of its learning rate."""
        now, left_out = self.progress, set[Interval]()
        values: list[tuple[float, float]] = []

        def closure() -> float:
            found = self._loss.evaluate([one for one in intervals if one not in left_out])
            fails = len(found.lost) >= FEW * len(intervals) if not values else bool(found.lost)
            if fails:
                raise _Lost(found.faults, not values)
            self.note(found.faults)
            left_out.update(found.lost)
            norm = self._set_gradient(found.gradient)
            values.append((found.loss, norm))
            return found.loss

        rates = [group["lr"] for group in self._optimizer.param_groups]
        for group, own in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = own * rate if rate < 1 else own
        try:
            self._optimizer.step(closure)  # type: ignore[arg-type]
        finally:
            for group, own in zip(self._optimizer.param_groups, rates, strict=True):
                group["lr"] = own
        if not all(bool(torch.isfinite(p).all()) for p in self._loss.parameters):
            raise _Lost([Fault("", float("nan"), "the update is not finite", "a smaller one tried")], False)
        self._count_lost(left_out)
        loss, norm = values[0]
        return Row(now.level, loss, norm, float(rates[0]), 0, len(left_out), 0.0)

    def _set_gradient(self, gradient: Sequence[Tensor | None]) -> float:
        """Give it to the parameters, clipped; its norm before that."""
        squares = sum(float((one.double() ** 2).sum()) for one in gradient if one is not None)
        norm = squares**0.5
        clip = self._settings.clip
        factor = 1.0 if clip is None or norm <= clip else clip / norm
        for parameter, one in zip(self._loss.parameters, gradient, strict=True):
            parameter.grad = None if one is None else one * factor if factor < 1 else one
        return norm

    def _follow(self, row: Row) -> None:
        """What comes after an iteration: the schedule, the check, the end of the rung."""
        now, rung, every = self.progress, self.rungs[self.progress.level], self._settings.check_every
        if isinstance(self._scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(row.loss)
        elif self._scheduler is not None:
            self._scheduler.step()
        now.total, now.count = now.total + row.loss, now.count + 1
        if now.done % every == 0 or now.done >= rung.iterations:
            row.checked = self._checked(rung)
        patience = self._settings.patience
        ended = patience is not None and now.slow >= patience
        last = now.level == len(self.rungs) - 1
        if ended and last:
            now.outcome = f"stopped: {patience} checks in a row were not lower"
        elif not last and (ended or now.done >= rung.iterations):
            self._enter(now.level + 1)
        if now.seconds > self._seconds and not now.outcome:
            now.outcome = self._over

    def _checked(self, rung: Rung) -> float:
        now = self.progress
        value = now.total / now.count
        if self._check is not None:
            found = self._check()
            self.note(found.faults)
            value = float("inf") if found.lost else found.loss
        now.total, now.count = 0.0, 0
        now.slow = 0 if value < now.best * (1 - rung.tolerance) else now.slow + 1
        if value < now.best:
            now.best = value
            if self._check is not None and now.level == len(self.rungs) - 1:
                self._best = self._copies()
        return value

    def _enter(self, level: int) -> None:
        now = self.progress
        now.level, now.done, now.best, now.slow = level, 0, float("inf"), 0
        now.total, now.count, now.in_a_row, now.lost = 0.0, 0, 0, {}
        self._loss.kept.clear()

    def _intervals(self) -> list[Interval]:
        """Those of the next iteration."""
        every = self.rungs[self.progress.level].intervals
        size = self._settings.batch
        if size is None or size >= len(every):
            return list(every)
        seed = self._seed + self.progress.level
        return [every[i] for i in members(len(every), size, self.progress.done, seed)]

    # Failures

    def note(self, faults: Sequence[Fault]) -> None:
        """Put failures on record."""
        now = self.progress
        rung, iteration = self.rungs[now.level].name, len(now.rows)
        now.failures += [Failure.of(fault, rung, iteration) for fault in faults]

    def _count_lost(self, left_out: set[Interval]) -> None:
        """Give up if a run could not be solved many times in a row: the fit would be without it."""
        now, names = self.progress, {run for run in self._runs_of(left_out)}
        for name in self._runs_of(set(self._intervals())):
            now.lost[name] = now.lost.get(name, 0) + 1 if name in names else 0
            if now.lost[name] >= IN_A_ROW:
                cause = next(f.cause for f in reversed(now.failures) if f.run == name)
                raise TrainingError(
                    self._stopped(f"run {name} could not be solved in {IN_A_ROW} iterations", cause)
                )

    def _runs_of(self, intervals: set[Interval]) -> list[str]:
        return sorted({self._loss.name_of(one) for one in intervals})

    def _go_halfway_back(self) -> None:
        if self._before is not None:
            with torch.no_grad():
                for parameter, old in zip(self._loss.parameters, self._before, strict=True):
                    parameter.copy_((parameter + old) / 2)
        if takes_one_group(self._optimizer):
            self._optimizer.state.clear()  # what it has learned of curvature is of another step

    def _give_up(self, cause: str) -> None:
        """Go back to the rung before, if that may help; else stop at the last weights that had a loss."""
        now = self.progress
        if self._before is not None:
            self._put(self._before)
        if now.level and now.back < STEPS_BACK:
            now.back += 1
            self._enter(now.level - 1)
            return
        raise TrainingError(self._stopped(f"there was no loss {IN_A_ROW} times in a row", cause))

    def _stopped(self, what: str, cause: str) -> str:
        now = self.progress
        where = f"{self.rungs[now.level].name}, iteration {len(now.rows)}"
        return f"{where}: {what}, the last time because {cause}. {FIRST_ORDER_ADVICE}"

    # The end

    def finish(self, works: Callable[[], bool]) -> None:
        """Leave the best weights, or the last ones, and go back towards those before until ``works()``.

        Raises
        ------
        TrainingError
            If it never does.
        """
        if self._best is not None:
            self._put(self._best)
        for _ in range(IN_A_ROW):
            if works():
                return
            self._go_halfway_back()
        if self._before is not None:
            self._put(self._before)
            if works():
                return
        raise TrainingError(
            self._stopped("the weights at the end have no loss", "whole runs cannot be solved")
        )

    # What it depends on

    def _copies(self) -> list[Tensor]:
        return [p.detach().clone() for p in self._loss.parameters]

    def _put(self, weights: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self._loss.parameters, weights, strict=True):
                parameter.copy_(value)

    def _surroundings(self, intervals: Sequence[Interval]) -> tuple[Tensor, dict[Interval, KeptSteps | None]]:
        """What a loss depends on and changes, besides weights."""
        held = self._loss.kept
        return torch.get_rng_state(), {
            one: copy.copy(held[one]) if one in held else None for one in intervals
        }

    def _restore(self, surroundings: tuple[Tensor, dict[Interval, KeptSteps | None]]) -> None:
        random, kept = surroundings
        torch.set_rng_state(random)
        for interval, steps in kept.items():
            if steps is None:
                self._loss.kept.pop(interval, None)
            else:
                self._loss.kept[interval] = copy.copy(steps)

    def state_dict(self) -> dict[str, Any]:
        """All that the next iterations depend on, in tensors, numbers and texts."""
        return {
            "model": self._model.state_dict(),
            "weights": self._copies(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": None if self._scheduler is None else self._scheduler.state_dict(),
            "before": self._before,
            "best": self._best,
            "random": torch.get_rng_state(),
            "kept": [
                ([one.run, one.first, one.last], kept.state_dict()) for one, kept in self._loss.kept.items()
            ],
            "progress": self.progress.state_dict(not_ended=self._over),
        }

    def load_state_dict(self, held: dict[str, Any]) -> None:
        """Go on from a ``state_dict`` of the same descent."""
        self._model.load_state_dict(held["model"])
        self._put(held["weights"])
        self._optimizer.load_state_dict(held["optimizer"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(held["schedule"])
        self._before, self._best = held["before"], held["best"]
        self._loss.kept = {Interval(*place): self._loss.new_kept(state) for place, state in held["kept"]}
        self.progress = DescentProgress.of(held["progress"])
        if self.progress.seconds > self._seconds and not self.progress.outcome:
            self.progress.outcome = self._over
        torch.set_rng_state(held["random"])
