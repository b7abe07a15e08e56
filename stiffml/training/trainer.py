"""A training loop that survives interruptions, failed solves and updates that are too large."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.checks import described, whole
from stiffml.checks import path as checked_path
from stiffml.errors import LinearSolveError, ReplayError, SolveError
from stiffml.files import save_atomically
from stiffml.interface.odeblock import Keeper
from stiffml.steps import KeptSteps
from stiffml.training.trouble import TrainingError

STATE = "training.pt"
MAX_RETREATS = 12


@dataclass
class History:
    """Loss before the update, seconds and retreats of each finished iteration."""

    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    retreats: list[int] = field(default_factory=list)

    def to_xarray(self):
        import xarray

        data = {
            "loss": (self.loss, "loss before the update", "1"),
            "seconds": (self.seconds, "wall time of the iteration", "s"),
            "retreats": (
                self.retreats,
                "times the preceding update was halved because the solve failed",
                "1",
            ),
        }
        variables = {
            name: ("iteration", np.array(values), {"long_name": long_name, "units": units})
            for name, (values, long_name, units) in data.items()
        }
        return xarray.Dataset(variables, {"iteration": np.arange(len(self.loss))})


KEYS = {"model", "optimizer", "history", "settings", "before", "random", "kept"}
"""The entries of a saved state."""


def _read(path: Path) -> dict[str, Any]:
    """Read a saved state; nothing in the file is executed."""
    try:
        state = torch.load(path, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds for files that are none of its own
        raise ValueError(
            f"{path} is empty, truncated or no training state, and cannot be resumed from. Move it away and "
            "begin anew, or use another folder"
        ) from error
    if not isinstance(state, dict) or not state.keys() >= KEYS or not isinstance(state["settings"], dict):
        raise ValueError(
            f"{path} is no state of such a training: it is of another program or version. Move it away and "
            "begin anew, or use another folder"
        )
    return state


class Trainer:
    """Minimises ``loss()`` over the parameters of ``model``, and saves its state.

    If the loss is not finite, or a solve fails, forwards or backwards, the last update is halved until the
    loss can be computed again. The state is saved every ``save_every`` iterations and at the end. It includes
    that of torch's random numbers on the CPU, and kept steps. An iteration depends on this state only, so a
    resumed run ends with the same weights as an uninterrupted one.

    Parameters
    ----------
    model : nn.Module
    optimizer : torch.optim.Optimizer
        Over the model's parameters.
    loss : callable
        () -> 0-d tensor.
    folder : Path
        Where the state is kept.
    settings : dict
        A resumed run must have the same as the state in the folder.
    save_every : int
        Default 25.
    kept : sequence of KeptSteps
        Those that ``loss`` solves with: their state is saved too. Not needed for those of an ``ODEBlock`` in
        ``model``.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[], Tensor],
        folder: Path,
        settings: dict[str, str | int | float],
        save_every: int = 25,
        kept: Sequence[KeptSteps] = (),
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, not {described(model)}")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, not {described(optimizer)}")
        if not callable(loss):
            raise TypeError(f"loss must be callable as loss(), not {described(loss)}")
        if not isinstance(settings, dict):
            raise TypeError(f"settings must be a dict, not {described(settings)}")
        if not isinstance(kept, Sequence) or not all(isinstance(each, KeptSteps) for each in kept):
            raise TypeError(f"kept must be a sequence of KeptSteps, not {described(kept)}")
        folder, save_every = checked_path("folder", folder), whole("save_every", save_every)
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.folder, self.settings, self.save_every = folder, settings, save_every
        self.history = History()
        self._kept = tuple(kept)
        self._before: list[Tensor] | None = None  # the weights before the last update

    @property
    def iteration(self) -> int:
        """Iterations finished."""
        return len(self.history.loss)

    @property
    def saved(self) -> bool:
        """Whether the folder holds a state."""
        return (self.folder / STATE).exists()

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": vars(self.history),
            "settings": self.settings,
            "before": self._before,
            "random": torch.get_rng_state(),
            "kept": [kept.state_dict() for kept in self._kept],
        }
        save_atomically(self.folder / STATE, lambda file: torch.save(state, file))

    def resume(self) -> bool:
        """Load the folder's state, and return whether there is one.

        Raises
        ------
        ValueError
            If the state has other settings, another model or optimizer, or is truncated or none at all.
            Nothing is changed then.
        """
        if not self.saved:
            return False
        path = self.folder / STATE
        state = _read(path)
        for name, value in self.settings.items():
            held = state["settings"].get(name)
            if held != value:
                raise ValueError(f"{path} was made with {name} = {held}, not {value}; use another folder")
        weights, optimizer = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
        kept = [each.state_dict() for each in self._kept]
        try:
            history = History(**state["history"])
            self._require_fitting(state["before"])
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            for each, held in zip(self._kept, state["kept"], strict=True):
                each.load_state_dict(held)
            torch.set_rng_state(state["random"])
        except Exception as error:
            self.model.load_state_dict(weights)
            self.optimizer.load_state_dict(optimizer)
            for each, held in zip(self._kept, kept, strict=True):
                each.load_state_dict(held)
            why = " ".join(str(error).split())
            raise ValueError(
                f"{path} holds the state of another model or optimizer ({why}); use another folder"
            ) from error
        self.history, self._before = history, state["before"]
        return True

    def _require_fitting(self, before: list[Tensor] | None) -> None:
        """Raise ValueError unless these can be the weights before the last update."""
        if before is not None:
            shapes = [tuple(tensor.shape) for tensor in before]
            wanted = [tuple(parameter.shape) for parameter in self.model.parameters()]
            if shapes != wanted:
                raise ValueError(f"weights of shapes {shapes}, not {wanted}")

    def run(self, iterations: int, report: Callable[[int, float], None] = lambda i, loss: None) -> None:
        """Train until ``iterations`` are finished, those of resumed runs included.

        Raises
        ------
        TrainingError
            If not even the smallest part of an update leads to a loss that can be computed.
        """
        while self.iteration < iterations:
            began = time.perf_counter()
            loss, retreats = self._step_back_or_save()
            self._before = [p.detach().clone() for p in self.model.parameters()]
            self.optimizer.step()
            self.history.loss.append(loss)
            self.history.seconds.append(time.perf_counter() - began)
            self.history.retreats.append(retreats)
            if self.iteration % self.save_every == 0 or self.iteration == iterations:
                self.save()
            report(self.iteration, loss)
        # The last update has not been tried yet, but the weights that remain must work. The trial uses the
        # random numbers and the kept steps of the next iteration, which a resumed run must use again.
        before = self._surroundings()
        self._step_back_or_save()
        self._restore(before)
        self.save()

    def _surroundings(self) -> tuple[Tensor, list[dict[str, Any]]]:
        """What a computation of the loss depends on and changes, besides the weights."""
        return torch.get_rng_state(), [kept.state_dict() for kept in self._all_kept()]

    def _restore(self, surroundings: tuple[Tensor, list[dict[str, Any]]]) -> None:
        random, states = surroundings
        torch.set_rng_state(random)
        for kept, state in zip(self._all_kept(), states, strict=True):
            kept.load_state_dict(state)

    def _all_kept(self) -> list[KeptSteps]:
        return [*self._kept, *(part.kept for part in self.model.modules() if isinstance(part, Keeper))]

    def _step_back_or_save(self) -> tuple[float, int]:
        """As :meth:`_step_back_until_finite`, but a failure restores the last good weights and saves them."""
        try:
            return self._step_back_until_finite()
        except TrainingError:
            if self._before is not None:
                with torch.no_grad():
                    for parameter, old in zip(self.model.parameters(), self._before, strict=True):
                        parameter.copy_(old)
                self.save()
            raise

    def _step_back_until_finite(self) -> tuple[float, int]:
        """The loss and how often the last update was halved to find it; leaves the gradients there."""
        problem, before = "", self._surroundings()
        for retreats in range(MAX_RETREATS):
            if retreats:
                self._restore(before)  # every try has the same minibatch and steps
            self.optimizer.zero_grad()
            try:
                loss = self.loss()
                loss.backward()
            except (SolveError, LinearSolveError, ReplayError) as error:
                problem = str(error)
            else:
                grads = [p.grad for p in self.model.parameters() if p.grad is not None]
                if torch.isfinite(loss) and all(torch.isfinite(g).all() for g in grads):
                    return loss.item(), retreats
                problem = "the loss or its gradient is not finite"
            if self._before is None:
                break
            with torch.no_grad():
                for parameter, old in zip(self.model.parameters(), self._before, strict=True):
                    parameter.copy_((parameter + old) / 2)
        raise TrainingError(
            f"iteration {self.iteration}: {problem}. Try another seed, a smaller learning rate, "
            f"or go on from the last saved state in {self.folder}"
        )
