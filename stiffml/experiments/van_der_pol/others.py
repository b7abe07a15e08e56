"""The same trainings by torchdiffeq, through its explicit steps and through scipy's implicit ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stiffml.experiments.van_der_pol.attempts import Ended, judged
from stiffml.experiments.van_der_pol.models import Data, Polynomial

LEARNING_RATE = 5e-2
TOLERANCES: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6}
CALLS = 200_000
"""Of the model in one iteration at most: where it has become stiff, explicit steps would go on for hours."""


@dataclass(frozen=True)
class Other:
    """A method of torchdiffeq, whose gradients are of its continuous adjoint, with AdamW."""

    name: str
    how: dict[str, Any]


OTHERS = (
    Other("torchdiffeq, explicit adaptive, AdamW", {"method": "dopri5"}),
    Other("torchdiffeq, implicit adaptive, AdamW", {"method": "scipy_solver", "options": {"solver": "BDF"}}),
)


class _TooManyError(Exception):
    """Calls."""


class _TimeOverError(Exception):
    """Of an attempt."""


def attempt_by_other(one: Other, data: Data, seconds: float) -> Ended:
    """Train for so many seconds of CPU at most, then judge the model as all others are."""
    import torchdiffeq

    torch.manual_seed(0)
    model, (run,) = Polynomial(), data.seen
    times, values = torch.from_numpy(run.times.copy()), torch.from_numpy(run.values.copy())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    began, count, calls, error, outcome = time.process_time(), 0, 0, np.nan, "the time was over"

    def watch(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > CALLS:
            raise _TooManyError
        if time.process_time() - began > seconds:
            raise _TimeOverError

    handle = model.register_forward_hook(watch)
    try:
        while time.process_time() - began < seconds:
            calls = 0
            optimizer.zero_grad()
            y = torchdiffeq.odeint_adjoint(model, values[0], times, **TOLERANCES, **one.how)
            loss = (y - values)[1:].square().mean()
            loss.backward()
            optimizer.step()
            count, error = count + 1, float(loss.detach().sqrt())
    except _TimeOverError:
        pass
    except _TooManyError:
        outcome = f"lost: more than {CALLS} calls of the model in an iteration"
    except (AssertionError, RuntimeError, ValueError) as failure:  # torchdiffeq asserts that steps are finite
        outcome = "lost: " + (" ".join(str(failure).split()) or type(failure).__name__)[:120]
    finally:
        handle.remove()
    spent = time.process_time() - began
    states, fastest = judged(model, data)
    there = np.isfinite(states).all()
    unseen = float(np.abs(states - data.unseen[0].values)[1:].mean()) if there else np.inf
    return Ended(outcome, error, unseen, count, spent, fastest, states)
