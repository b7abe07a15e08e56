"""When a mixture ignites."""

from __future__ import annotations

import torch
from torch import Tensor


class NotIgnitedError(ValueError):
    """The temperature rises fastest at an end of the interval: the ignition is not inside it."""


def ignition_delay(times: Tensor, temperature_slope: Tensor) -> Tensor:
    """The time at which dT/dt is largest, with a gradient.

    The largest of the values given is refined by the vertex of the parabola through it and its two
    neighbours, so the times must resolve the peak: a few per width of it.

    Parameters
    ----------
    times : Tensor
        (n,), increasing, in s.
    temperature_slope : Tensor
        (n,) or (n, …): dT/dt there, such as ``reactor(t, y)[..., 0]``.

    Returns
    -------
    Tensor
        () or (…) in s.

    Raises
    ------
    NotIgnitedError
        If the largest value is the first or the last.
    ValueError
        For fewer than three times, shapes that do not fit, or slopes that are not finite.
    """
    if times.ndim != 1 or len(times) < 3 or temperature_slope.shape[:1] != times.shape:
        raise ValueError(
            "ignition_delay takes three times or more, (n,), and slopes (n,) or (n, …), "
            f"not {tuple(times.shape)} and {tuple(temperature_slope.shape)}"
        )
    if not bool(temperature_slope.isfinite().all()):
        raise ValueError("the slopes of the temperature are not all finite")
    peak = temperature_slope.argmax(dim=0)
    if bool(((peak == 0) | (peak == len(times) - 1)).any()):
        first, last = float(times[0]), float(times[-1])
        raise NotIgnitedError(
            f"the temperature rises fastest at an end of the interval from {first:.6g} to {last:.6g}: it "
            "does not ignite there; a longer interval, a hotter start or other proportions may help"
        )
    around = torch.stack([peak - 1, peak, peak + 1])
    t0, t1, t2 = times[around]
    f0, f1, f2 = (
        temperature_slope.gather(0, around) if temperature_slope.ndim > 1 else temperature_slope[around]
    )
    # Divided differences; the parabola's slope is zero at its vertex.
    first = (f1 - f0) / (t1 - t0)
    second = ((f2 - f1) / (t2 - t1) - first) / (t2 - t0)
    return (t0 + t1) / 2 - first / (2 * second)
