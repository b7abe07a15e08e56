"""A stiff relaxation oscillator, on which training by implicit methods was reported to fail.

Each attempt is a model, a method for its steps, an optimizer and a strategy. All of them see the same
observations for at most the same CPU time, and are judged by adaptive steps at times that were not fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stiffml.experiments.experiment import Finding, Form, Outcome, Report
from stiffml.experiments.van_der_pol.attempts import ATTEMPTS, REACHED, Attempt, Ended, attempt
from stiffml.experiments.van_der_pol.models import Data, observations
from stiffml.experiments.van_der_pol.others import OTHERS, Other, attempt_by_other

if TYPE_CHECKING:
    import xarray

END = 2.0
"""In slow time; a period is about 1.6."""

SUCCEEDS = ("implicit fixed, LM, ladder",)
"""What is held to a bound."""

PUBLISHED = {
    "implicit fixed, AdamW": "fails",
    "implicit adaptive, AdamW": "fails",
}


@dataclass(frozen=True)
class Size:
    """Of a form: 1/√ε, observations, seconds of CPU for each attempt, and which attempts are made."""

    mu: float
    points: int
    seconds: float
    attempts: tuple[Attempt | Other, ...]


SIZES = {
    "quick": Size(10.0, 100, 1.2, ATTEMPTS[2:3] + ATTEMPTS[7:8]),
    "medium": Size(30.0, 200, 2.5, (*ATTEMPTS, *OTHERS)),
    "full": Size(100.0, 400, 5.0, (*ATTEMPTS, *OTHERS)),
}


def run(form: Form, report: Report) -> Outcome:
    size = SIZES[form]
    data = observations(size.mu, size.points, END)
    ended = []
    for number, one in enumerate(size.attempts, 1):
        if isinstance(one, Other):
            ended.append(attempt_by_other(one, data, size.seconds))
        else:
            ended.append(attempt(one, data, size.seconds))
        report(number, len(size.attempts), f"{one.name}: {ended[-1].unseen:.1e}, {ended[-1].outcome[:40]}")
    found = dataset(size, data, ended)
    return Outcome(found, findings(found, form))


def dataset(size: Size, data: Data, ended: list[Ended]) -> xarray.Dataset:
    import xarray

    def column(name: str, text: str, units: str = "1") -> tuple[str, np.ndarray, dict[str, str]]:
        return "attempt", np.array([getattr(one, name) for one in ended]), {"long_name": text, "units": units}

    states = ("attempt", "time", "component")
    return xarray.Dataset(
        {
            "unseen_error": column("unseen", "mean error at unseen times, by adaptive steps", "half ranges"),
            "fit_error": column("error", "mean error along the steps of the fit, where that ended"),
            "iterations": column("iterations", "iterations done"),
            "seconds": column("seconds", "CPU time of the fit", "s"),
            "fastest": column("fastest", "fastest decay learned, along the model's solution", "1/slow time"),
            "outcome": column("outcome", "how the fit ended"),
            "states": (
                states,
                np.array([one.states for one in ended], dtype=np.float32),
                {"long_name": "solution of the model", "units": "half ranges"},
            ),
            "truth": (
                states[1:],
                data.unseen[0].values,
                {"long_name": "the oscillator, observed at every second time", "units": "half ranges"},
            ),
        },
        {
            "attempt": [one.name for one in size.attempts],
            "time": ("time", data.unseen[0].times, {"long_name": "slow time t/μ", "units": "1"}),
            "component": ["position", "velocity"],
        },
        {
            "mu": size.mu,
            "seeds": "0",
            "setup": f"μ = {size.mu:g}, {len(data.seen[0].times)} observations to slow time {END:g}; "
            f"at most {size.seconds:g} s of CPU each",
        },
    )


def findings(data: xarray.Dataset, form: Form) -> tuple[Finding, ...]:
    found = []
    for name in data["attempt"].values:
        one = data.sel({"attempt": name})
        bound = REACHED if name in SUCCEEDS and form != "quick" else None
        text = f"{one['outcome'].item()[:160]}; {one['seconds'].item():.1f} s"
        found.append(
            Finding(
                f"mean error at unseen times: {name}",
                one["unseen_error"].item() if np.isfinite(one["unseen_error"]) else float("nan"),
                "half ranges",
                at_most=bound,
                published=PUBLISHED.get(str(name), ""),
                differs=text,
            )
        )
    reached = data["unseen_error"] <= REACHED
    return (
        Finding(
            f"attempts, of {data.sizes['attempt']}, that end below {REACHED:g}",
            float(reached.sum()),
            published="of implicit methods none; integrating-factor Euler succeeds",
            differs="; ".join(data["attempt"].values[reached.values]),
        ),
        *found,
    )
