"""The sizes of the first adaptive steps of several samples."""

from __future__ import annotations

import numpy as np
import torch

from stiffml.methods import Method
from stiffml.native.side_by_side.work import Work
from stiffml.steps import RESOLVED, Adaptive
from stiffml.system.system import System


def first_sizes(work: Work) -> np.ndarray:
    """(samples,) the sizes of the first steps that are tried, with adaptive steps."""
    steps = work.steps
    assert isinstance(steps, Adaptive)
    begins = np.array([times[0] for times in work.outputs])
    last = np.array([times[-1] for times in work.outputs])
    moving = np.flatnonzero(last > begins)
    sizes = np.ones(len(begins))
    if steps.initial is not None:
        sizes[:] = steps.initial
    if len(moving) and (steps.initial is None or not work.method.estimates_first_step):
        u = work.u0[moving]
        tolerances = work.tolerances_of(moving)
        weights = tolerances.atol + tolerances.rtol * np.abs(u)
        spans = last[moving] - begins[moving]
        found = initial_sizes(work.system, work.method, weights, begins[moving], spans, u)
        found = np.maximum(found, steps.minimum or 0.0)
        sizes[moving] = found if steps.initial is None else np.minimum(found, sizes[moving])
    return np.maximum(sizes, shortest(begins))


def slopes_at(system: System, s: np.ndarray, u: np.ndarray) -> np.ndarray:
    """du/ds (K, size) at K times (K,) and states (K, size); with a singular mass matrix the least."""
    times, states = torch.from_numpy(s), torch.from_numpy(u)
    slopes = system.f.evaluate_many(times, states).numpy()
    if system.mass is not None:
        slopes = np.stack([system.mass.solve(slope) for slope in slopes])
    return slopes if system.g is None else slopes + system.g.evaluate_many(times, states).numpy()


def initial_sizes(
    system: System, method: Method, weights: np.ndarray, s: np.ndarray, spans: np.ndarray, u: np.ndarray
) -> np.ndarray:
    """(K,) what :func:`stiffml.run.first_step.initial_size` finds for each of K samples.

    ``weights`` (K, size) are the tolerances of the components, ``spans`` (K,) the times that are left.
    """

    def norm(v: np.ndarray) -> np.ndarray:
        return np.sqrt(np.mean((v / weights) ** 2, axis=1))

    f0 = slopes_at(system, s, u)
    d0, d1 = norm(u), norm(f0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        h0 = np.where((d0 < 1) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        h0 = np.minimum(np.maximum(h0, shortest(s)), spans)
        f1 = slopes_at(system, s + h0, u + h0[:, None] * f0)
        d2 = np.where(np.isfinite(f1).all(axis=1), norm(f1 - f0) / h0, 0.0)
        order = 1 if method.implicit else method.order
        largest = np.maximum(d1, d2)
        h1 = np.where(largest <= 1e-15, np.maximum(1e-6, h0 * 1e-3), (0.01 / largest) ** (1 / (order + 1)))
    return np.minimum(np.minimum(100 * h0, h1), spans)


def shortest(s: np.ndarray) -> np.ndarray:
    """(K,) the shortest first steps from times ``s`` (K,)."""
    return np.maximum(RESOLVED * np.spacing(np.abs(s)), 1e-290)
