"""Other weights for a model, by number: where an attempt begins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stiffml.checks import described
from stiffml.training.data import Runs
from stiffml.training.preparable import Preparable

Factory = Callable[[int], nn.Module]
"""seed -> a model with weights drawn by it."""

ATTEMPT = 1000
"""The seed of attempt k is seed + 1000 k."""


class Restarts:
    """A model and how it gets other weights: by a factory, or by the ``reset_parameters`` of its modules.

    Parameters
    ----------
    model : nn.Module or callable
        A model, or seed -> model.
    seed : int
        The factory's first, also of torch's random numbers while parameters are reset.
    data : Runs
        Which models that take something from data take it from.

    Attributes
    ----------
    suggested : dict
        Arguments of a fit that suit the model, see :class:`Preparable`.
    """

    def __init__(self, model: nn.Module | Factory, seed: int, data: Runs) -> None:
        self.seed, self._factory, self._data = seed, None, data
        if not isinstance(model, nn.Module):
            if not callable(model):
                raise TypeError(
                    f"model must be a torch.nn.Module, or a function of a seed, not {described(model)}"
                )
            _require_one_argument(model)
            self._factory, model = model, model(seed)
            if not isinstance(model, nn.Module):
                raise TypeError(f"model: the function must return a torch.nn.Module, not {described(model)}")
        self.model = model
        self.suggested = self._prepared(model)
        self._given = {0: _not_fitted(model)}

    def require_possible(self) -> None:
        """Raise ValueError if the model cannot get other weights."""
        if self._factory is not None:
            return
        reached = {id(p) for module in self._resettable() for p in module.parameters()}
        missing = [
            name for name, p in self.model.named_parameters() if p.requires_grad and id(p) not in reached
        ]
        if missing:
            raise ValueError(
                f"attempts: parameter {missing[0]} belongs to no module with reset_parameters(), so "
                "the model cannot begin anew; pass a function seed -> model, or attempts=1"
            )

    def reset(self, attempt: int) -> None:
        """Give the model the weights of an attempt, its buffers and frozen parameters; the same if repeated.

        0 leaves the weights as they are. Those that are frozen change with a factory only.
        """
        if attempt > 0:
            self._draw(self.seed + ATTEMPT * attempt)
        if attempt not in self._given:
            self._given[attempt] = _not_fitted(self.model)
        self._take(self._given[attempt])

    def _draw(self, seed: int) -> None:
        if self._factory is not None:
            made = self._factory(seed)
            self._prepared(made)
            self.model.load_state_dict(made.state_dict())
            self._take(dict(made.named_buffers()))  # a state_dict may leave some out
            return
        frozen = _frozen(self.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self._resettable():
                module.reset_parameters()  # type: ignore[operator]
        self._take(frozen)

    def _take(self, numbers: Mapping[str, Tensor]) -> None:
        present = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        with torch.no_grad():
            for name, tensor in numbers.items():
                present[name].copy_(tensor)

    def _prepared(self, model: nn.Module) -> dict[str, Any]:
        return model.prepare(self._data) if isinstance(model, Preparable) else {}

    def _resettable(self) -> list[nn.Module]:
        """The modules that reset themselves, without those inside of others that do."""
        found: list[nn.Module] = []
        inside: set[int] = set()
        for module in self.model.modules():
            if id(module) not in inside and callable(getattr(module, "reset_parameters", None)):
                found.append(module)
                inside |= {id(part) for part in module.modules()}
        return found


def _frozen(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}


def _not_fitted(model: nn.Module) -> dict[str, Tensor]:
    """Copies of what a fit leaves as it is: frozen parameters, and buffers."""
    return {**_frozen(model), **{name: buffer.detach().clone() for name, buffer in model.named_buffers()}}


def _require_one_argument(factory: Factory) -> None:
    """Raise TypeError for what takes no seed: a class without one, or a function of t and y."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of C, say: nothing is known
        return
    try:
        signature.bind(0)
    except TypeError:
        raise TypeError(
            f"model must be a torch.nn.Module, such as {getattr(factory, '__name__', 'Model')}(), or a "
            f"function of a seed that returns one; this takes {signature}. A function of t and y alone has "
            "no parameters to be fitted: write a module whose forward(self, t, y) it is"
        ) from None
