"""Training a stiff neural ODE by implicit and by explicit methods: what "explicit fails" means, measured.

The set-up is that of ``stiffml.experiments.robertson``. First the same training by each method, by AdamW and
by Levenberg-Marquardt, from the same weights and for the same CPU time. Then one fit is followed: its weights
are kept on the way, and at each of them dopri5 is asked for a solution and a gradient. The question is what
becomes of the cost, and of the gradient, while the network learns to be stiff.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchdiffeq
from torch import Tensor, nn

import stiffml
from stiffml.diagnostics import stiffness
from stiffml.experiments.experiment import Form, Outcome, Report
from stiffml.experiments.implicit_explicit.decays import along_the_data
from stiffml.experiments.implicit_explicit.findings import findings
from stiffml.experiments.robertson import END, LEARNING_RATE, Data, Network, error_of, observations
from stiffml.training import FirstOrder, compare, fit

if TYPE_CHECKING:
    import xarray

IMPLICIT = ("cn", "bdf", "rosw-ra34pw2", "dirk-es324sal")
EXPLICIT = ("dopri5", "rk4")
RK4_STEPS = 8
"""Of rk4 between two observations: 1280 evaluations of f, as many as cn's Newton iterations take."""

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"learning_rate": LEARNING_RATE, "first_order": FirstOrder(loss="absolute")},
    "lm": {"target": 1e-5, "attempts": 20},
}
TOLERANCES: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6}
"""Of dopri5."""

FOLLOWED = 3
"""The seed of the fit that is followed."""


@dataclass(frozen=True)
class Size:
    """Of a form: what is compared, for how long; of the fit that is followed snapshots, its target, and how
    often torchdiffeq may call the network at each of them."""

    methods: tuple[str, ...]
    seeds: int
    seconds: float | None
    iterations: int | None
    snapshots: int
    target: float
    calls: int


SIZES = {
    "quick": Size(("cn", "dopri5"), 1, None, 2, 2, 0.25, 1_000),
    "medium": Size((*IMPLICIT, *EXPLICIT), 1, 0.5, None, 7, 1e-4, 5_000),
    "full": Size((*IMPLICIT, *EXPLICIT), 5, 3.0, None, 16, 1e-5, 20_000),
}


def run(form: Form, report: Report) -> Outcome:
    size, data = SIZES[form], observations()
    parts = len(size.methods) * len(OPTIMIZERS) * size.seeds + size.snapshots
    found = compare(
        Network,
        data.runs,
        validate=data.unseen,
        methods=size.methods,
        optimizers=OPTIMIZERS,
        seeds=size.seeds,
        seconds=size.seconds,
        iterations=size.iterations,
        steps={"rk4": stiffml.Grid(RK4_STEPS)} if "rk4" in size.methods else None,
        scale=1.0,
        jobs=2 if size.seeds > 1 else 1,
        report=lambda done, of, label: report(done, parts, label),
        **TOLERANCES,
    )
    followed = follow(data, size, lambda done, label: report(parts - size.snapshots + done, parts, label))
    both = trainings(found.data).merge(followed)
    both.attrs.update(
        seeds=f"0 to {size.seeds - 1} compared, {FOLLOWED} followed",
        budget=f"{size.iterations} iterations" if size.seconds is None else f"{size.seconds:g} s of CPU each",
        setup=f"dopri5 at rtol 1e-4, atol 1e-6; rk4 by {RK4_STEPS} steps between observations, others by 1",
    )
    return Outcome(both, findings(both))


def trainings(data: xarray.Dataset) -> xarray.Dataset:
    """Of a comparison what is drawn: errors and stiffness at the snapshots, and CPU time up to them."""
    seconds = data["cpu_s"].fillna(0).cumsum("iteration").pad(iteration=(1, 0), constant_values=0)
    at = data["at"].fillna(0).astype(int)
    spent = seconds.isel(iteration=at.clip(max=seconds.sizes["iteration"] - 1)).where(data["at"].notnull())
    kept = data[["error", "held_out", "outcome"]].assign(
        seconds=spent.drop_vars("iteration"), fastest=data["stiffness"] / END
    )
    kept["stopped"] = data["reason"] != ""
    kept["seconds"].attrs = {"long_name": "CPU time of the training", "units": "s"}
    kept["fastest"].attrs = {"long_name": "fastest decay of the learned field", "units": "1/s"}
    kept["stopped"].attrs = {"long_name": "whether the training could not go on", "units": "1"}
    kept["outcome"].attrs["units"] = "1"
    return kept.reset_coords(drop=True)


def follow(data: Data, size: Size, report: Callable[[int, str], None]) -> xarray.Dataset:
    """Fit by Levenberg-Marquardt through cn, keep weights on the way, and let dopri5 solve them."""
    import xarray

    model, kept = Network(FOLLOWED), []

    def keep(progress: object) -> None:
        kept.append({name: weight.clone() for name, weight in model.state_dict().items()})

    result = fit(model, data.runs, method="cn", scale=1.0, target=size.target, report=keep)
    learned = along_the_data(result.model, data)
    at = np.unique(np.geomspace(1, len(kept), size.snapshots).round().astype(int))
    rows = []
    for place, iteration in enumerate(at):
        model.load_state_dict(kept[iteration - 1])
        rows.append(costs(model, data, size.calls))
        report(place + 1, f"iteration {iteration}: dopri5 takes {rows[-1]['evaluations']:.0f} evaluations")
    described = {
        "fit_error": "mean error along the steps of the fit",
        "fit_fastest": ("fastest decay of the learned field along dopri5's solution", "1/s"),
        "evaluations": "states at which f was evaluated by dopri5, forwards and backwards",
        "evaluations_cn": "the same by cn, one step between observations",
        "accepted": "dopri5's steps",
        "rejected": "dopri5's steps rejected",
        "refused": "whether dopri5, with its defaults, stops because the problem is stiff",
        "norm": "norm of the gradient of the mean square error by the weights, by dopri5",
        "norm_exact": "the same by bdf at rtol 1e-9",
        "norm_continuous": "the same by torchdiffeq's dopri5, continuous adjoint; NaN where it did not end",
    }
    variables = {}
    for name, text in described.items():
        text, units = (text, "1") if isinstance(text, str) else text
        values = np.array([row[name] for row in rows], dtype=float)
        variables[name] = ("followed", values, {"long_name": text, "units": units})
    fitted = xarray.Dataset(variables, {"followed": ("followed", at, {"long_name": "iteration of the fit"})})
    return fitted.merge(learned)


def costs(model: nn.Module, data: Data, calls: int) -> dict[str, float]:
    """What a solution and its gradient take at these weights, and how long that gradient is."""
    y0, times = data.scaled[0], data.times

    def gradient(y: object) -> float:
        assert isinstance(y, Tensor)
        loss = (y - data.scaled)[1:].square().mean()
        return float(
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]).norm()
        )

    def spent(solution: stiffml.Solution) -> int:
        backwards = solution.stats.adjoint
        return solution.stats.rhs_evals + (0 if backwards is None else backwards.rhs_evals)

    endless = stiffml.Adaptive(stop_if_stiff=False, max_steps=1_000_000)
    explicit = stiffml.solve(model, y0, times, method="dopri5", steps=endless, compile=True, **TOLERANCES)
    coarse = stiffml.solve(model, y0, times, method="cn", steps=stiffml.Grid())
    exact = stiffml.solve(model, y0, times, method="bdf", rtol=1e-9, atol=1e-12, compile=True)
    default = stiffml.solve(model, y0, times, method="dopri5", throw=False, compile=True, **TOLERANCES)
    found = {
        "norm": gradient(explicit.y),
        "norm_exact": gradient(exact.y),
        "fit_error": float(error_of(coarse, data)),
        "fit_fastest": -float(stiffness(explicit, points=40)["re"].min()),
        "accepted": explicit.stats.accepted,
        "rejected": explicit.stats.rejected,
        "refused": float(default.status == stiffml.Status.STIFF),
    }
    gradient(coarse.y)
    try:
        y = torchdiffeq.odeint_adjoint(Limited(model, calls), y0, times, method="dopri5", **TOLERANCES)
        found["norm_continuous"] = gradient(y)
    except (_TooMany, AssertionError):  # torchdiffeq asserts that its step has not vanished
        found["norm_continuous"] = float("nan")
    return {**found, "evaluations": spent(explicit), "evaluations_cn": spent(coarse)}


class _TooMany(Exception):
    """Evaluations."""


class Limited(nn.Module):
    """A function that may be called so often."""

    def __init__(self, func: nn.Module, calls: int) -> None:
        super().__init__()
        self.func, self.left = func, calls

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise _TooMany
        return self.func(t, y)
