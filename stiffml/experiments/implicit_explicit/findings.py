"""The numbers that the comparison and the fit that was followed come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stiffml.experiments.experiment import Finding

if TYPE_CHECKING:
    import xarray

FASTEST = 2200.0
"""Of Robertson's equations after the transient, in 1/s: 2 k₂ [B]."""

SEEN, OFF = 0.05, 0.1
"""The share of the transient that must be left for data to show its rate; by how much the rate may be off."""

SHORTER = "CPU seconds in place of 10 000 iterations"


def findings(data: xarray.Dataset) -> tuple[Finding, ...]:
    """Of the dataset of the study."""
    return (*of_trainings(data), *of_decays(data), *of_the_fit(data))


def last(data: xarray.Dataset, name: str) -> xarray.DataArray:
    """At the end of each training, over (method, optimizer, seed)."""
    place = data["seconds"].notnull().sum("snapshot") - 1
    return data[name].isel(snapshot=place.clip(min=0))


def time_to(data: xarray.Dataset, error: float) -> np.ndarray:
    """CPU seconds (seed,) of one method and optimizer until the held-out error is reached; inf for never."""
    there = (data["held_out"] <= error).transpose("seed", "snapshot").values
    seconds = data["seconds"].transpose("seed", "snapshot").values
    return np.array([s[np.argmax(t)] if t.any() else np.inf for t, s in zip(there, seconds, strict=True)])


def of_trainings(data: xarray.Dataset) -> list[Finding]:
    error, fastest = (last(data, name).median("seed") for name in ("held_out", "fastest"))
    seeds = data.sizes["seed"]
    adam, lm = (error.sel({"method": "cn", "optimizer": name}).item() for name in ("adamw", "lm"))
    by_adam, by_lm = (data.sel({"method": "cn", "optimizer": name}) for name in ("adamw", "lm"))
    waited = np.median(last(by_adam, "seconds").values) / np.median(time_to(by_lm, adam))
    stiffest = fastest.sel(optimizer="lm").max("method").item()
    found = [
        Finding(
            "fastest decay that the network learned by Levenberg-Marquardt through cn, median of seeds",
            fastest.sel({"method": "cn", "optimizer": "lm"}).item(),
            "1/s",
            published="Robertson's equations: 2200 1/s after the transient, 4200 1/s at 100 s",
            differs="after the transient data along one trajectory do not show how fast others come to it; "
            f"as long as they do, see below; the stiffest, by any of the methods, is {stiffest:.0f} 1/s",
        ),
        Finding(
            "AdamW's mean error at unseen times over Levenberg-Marquardt's, through cn in the same CPU time",
            adam / lm,
            published="AdamW alone",
            differs=SHORTER,
        ),
        Finding(
            "AdamW's CPU time over what Levenberg-Marquardt takes to the same error, through cn",
            waited,
            published="AdamW alone",
            differs=SHORTER,
        ),
    ]
    for method in data["method"].values:
        if method == "cn":
            continue
        for optimizer in data["optimizer"].values:
            own, cn = ({"method": one, "optimizer": optimizer} for one in (method, "cn"))
            stopped = int(data["stopped"].sel(own).sum())
            found.append(
                Finding(
                    f"mean error at unseen times of {method} by {optimizer} over that of cn by {optimizer}",
                    error.sel(own).item() / error.sel(cn).item(),
                    published="dopri5: gradients explode, training fails" if method == "dopri5" else "",
                    differs=f"{SHORTER}; {stopped} of {seeds} trainings could not go on",
                )
            )
    return found


def of_decays(data: xarray.Dataset) -> list[Finding]:
    """Of the fit that was followed, at its end."""
    seen = data.where((data["left"] > SEEN) & (data["observation"] > 0), drop=True)
    off = abs(seen["decay"] / seen["decay_own"] - 1)
    last, after = seen.isel(observation=-1), data.sel(observation=1.0, method="nearest")
    return [
        Finding(
            f"largest error of the decay learned, where more than {SEEN:g} of the transient is left",
            float(off.max()),
            at_most=OFF if len(data["seed"]) > 1 else None,  # smaller forms end sooner
            differs=f"one step of cn between observations; the last of these is at "
            f"{1e3 * float(last['observation']):.1f} ms, {float(last['decay']):.0f} 1/s beside Robertson's "
            f"{float(last['decay_own']):.0f}; at 1 s it is {float(after['decay']):.0f} beside "
            f"{float(after['decay_own']):.0f}, which no observation shows",
        )
    ]


def of_the_fit(data: xarray.Dataset) -> list[Finding]:
    evaluations, cheap = data["evaluations"].values, data["evaluations_cn"].values
    exact = data["norm_exact"].values
    off = np.abs(data["norm"].values / exact - 1)
    continuous = np.abs(data["norm_continuous"].values / exact - 1)
    ended = np.isfinite(continuous)
    refused = data["refused"].values > 0
    grown = Finding(
        "dopri5's evaluations of f for a solution and its gradient, at the end of a fit over its beginning",
        evaluations[-1] / evaluations[0],
        published="grow while the network trains",
    )
    return [
        grown,
        Finding("dopri5's evaluations over cn's at the end of the fit", evaluations[-1] / cheap[-1]),
        Finding(
            f"snapshots, of {len(refused)}, at which dopri5 finds the network stiff and stops by default",
            float(refused.sum()),
            differs="all are solved when it is told to go on: no solution is lost, each takes longer",
        ),
        Finding(
            "largest relative error of the gradient's norm by dopri5 along the fit, against bdf at rtol 1e-9",
            float(off.max()),
            published="gradients explode",
            differs="exact discrete adjoint at rtol 1e-4, all snapshots; nothing explodes",
        ),
        Finding(
            "the same by torchdiffeq's dopri5 and continuous adjoint, where that ends",
            float(continuous[ended].max()) if ended.any() else float("nan"),
            published="gradients explode",
            differs=f"{len(ended) - int(ended.sum())} of {len(ended)} snapshots did not end within the "
            "evaluations allowed, or its steps vanished",
        ),
    ]
