"""Optimizers of torch as they are asked for: by name, as a function of parameters, or made already."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stiffml.checks import described, number

Optimizer = torch.optim.Optimizer
Make = Callable[[Sequence[Tensor]], Optimizer]


def _sgd(parameters: Sequence[Tensor], lr: float) -> Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def _lbfgs(parameters: Sequence[Tensor], lr: float) -> Optimizer:
    return torch.optim.LBFGS(parameters, lr=lr, line_search_fn="strong_wolfe")


NAMED: dict[str, tuple[Callable[..., Optimizer], float]] = {
    "adam": (torch.optim.Adam, 5e-3),
    "adamw": (torch.optim.AdamW, 5e-3),
    "sgd": (_sgd, 1e-2),
    "lbfgs": (_lbfgs, 1.0),
}
"""By name: what makes the optimizer, and its default learning rate."""


def optimizer_of(
    asked: str | Optimizer | Make,
    model: nn.Module,
    learning_rate: float | None,
    further: Sequence[Tensor],
) -> Optimizer:
    """The optimizer over the model's parameters, and over ``further`` ones without decay of weights.

    Raises
    ------
    TypeError, ValueError
        For an unknown name, what is none, one of other parameters, or a learning rate for one that has one.
    """
    own = [p for p in model.parameters() if p.requires_grad]
    if isinstance(asked, str):
        if asked not in NAMED:
            raise _unknown(asked)
        make, default = NAMED[asked]
        rate = default if learning_rate is None else number("learning_rate", learning_rate, above=0)
        found = make(own, lr=rate)
        return make([*own, *further], lr=rate) if takes_one_group(found) else _with(found, further)
    if learning_rate is not None:
        raise ValueError("learning_rate: this optimizer has its own; leave learning_rate out")
    if isinstance(asked, Optimizer):
        held = {id(p) for group in asked.param_groups for p in group["params"]}
        if not held & {id(p) for p in own}:
            raise ValueError(
                "optimizer: none of its parameters are the model's; pass a function that makes it, such as "
                "lambda parameters: torch.optim.SGD(parameters, lr=0.01)"
            )
        if further and takes_one_group(asked):
            raise ValueError(
                f"optimizer: {type(asked).__name__} takes all parameters at once, also the starts that are "
                "fitted; pass a function that makes it: lambda parameters: torch.optim.LBFGS(parameters)"
            )
        return _with(asked, further)
    if not callable(asked):
        raise _unknown(asked)
    found = asked(own)
    if not isinstance(found, Optimizer):
        raise TypeError(f"optimizer: the function must return an optimizer of torch, not {described(found)}")
    return asked([*own, *further]) if further and takes_one_group(found) else _with(found, further)


def takes_one_group(optimizer: Optimizer) -> bool:
    """Whether it is one that evaluates the loss several times in a step, along lines."""
    return isinstance(optimizer, torch.optim.LBFGS)


def _with(optimizer: Optimizer, further: Sequence[Tensor]) -> Optimizer:
    if further:
        none = {"weight_decay": 0.0} if "weight_decay" in optimizer.defaults else {}
        optimizer.add_param_group({"params": list(further), **none})
    return optimizer


def _unknown(asked: object) -> ValueError:
    known = ", ".join(["lm", *NAMED])
    return ValueError(
        f"optimizer must be one of {known}, an optimizer of torch, or a function that makes one of "
        f"parameters, not {described(asked)}"
    )


def scheduler_of(schedule: Callable[[Optimizer], Any] | None, optimizer: Optimizer) -> Any:
    """The scheduler, or None.

    Raises
    ------
    TypeError
        If the function returns none.
    """
    if schedule is None:
        return None
    found = schedule(optimizer)
    if not all(hasattr(found, name) for name in ("step", "state_dict", "load_state_dict")):
        raise TypeError(
            "FirstOrder: schedule must return a scheduler of torch.optim.lr_scheduler, not "
            f"{described(found)}"
        )
    return found


def optimizer_text(optimizer: Optimizer) -> str:
    """Its kind and its settings, which a resumed fit must have in common; before it has a scheduler."""
    groups = [
        ", ".join(f"{name}={_text(value)}" for name, value in group.items() if name != "params" and value)
        for group in optimizer.param_groups
    ]
    return f"{type(optimizer).__name__}({'; '.join(groups)})"


def scheduler_text(scheduler: Any) -> str:
    """Its kind and its first state, which a resumed fit must have in common."""
    if scheduler is None:
        return "none"
    return f"{type(scheduler).__name__} {_text(dict(scheduler.state_dict()))}"


def _text(value: Any) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def copied(state: Any) -> Any:
    """A state of an optimizer that stays as it is; tensors are copied in a tenth of the time of deepcopy."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if type(state) is dict:
        return {key: copied(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(map(copied, state))
    return copy.deepcopy(state)
