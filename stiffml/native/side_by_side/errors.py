"""The errors of the steps of several samples: by an embedded solution, or from states before."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stiffml.discretization.dense_output import with_outputs
from stiffml.discretization.equations import Block, Form
from stiffml.methods import BDF, Method
from stiffml.native.side_by_side.newton import SideBySide
from stiffml.native.side_by_side.past import Past


class Errors(NamedTuple):
    """Of K steps: differences (K, size) from a solution of another order, and the lower order, (K,)."""

    differences: np.ndarray
    orders: np.ndarray


def has_estimate(method: Method, form: Form) -> bool:
    """Whether the steps of a method have an error estimate here."""
    return isinstance(method, BDF) or method.embedded(form) is not None


def with_error_row(block: Block, method: Method, form: Form) -> Block:
    """The block with the embedded solution added, as an output at the end of the step, if there is one."""
    embedded = method.embedded(form)
    if isinstance(method, BDF) or embedded is None:
        return block
    times = block.times.numpy()
    times = np.concatenate([times, times[:, -1:]], axis=1)
    scheme = with_outputs(block.scheme, embedded, 1)
    return Block(scheme, block.which, block.known, times, np.zeros((block.steps, 1), dtype=int))


def errors_of(rows: SideBySide, new: np.ndarray, past: Past, samples: np.ndarray, method: Method) -> Errors:
    """The errors of steps that have led to ``new`` (K, size), after ``rows`` have been solved for."""
    if isinstance(method, BDF):
        return _of_bdf(rows, new, past, samples, method)
    (row,) = rows.pattern.output_rows
    return Errors(new - rows.row_output(row), np.full(len(new), method.order - 1.0))


def _of_bdf(rows: SideBySide, new: np.ndarray, past: Past, samples: np.ndarray, method: BDF) -> Errors:
    """The local error of the formula of order q on states at T₀ (new), T₁, …, as PETSc estimates it.

    It is the change of the derivative at T₀ when one more state is interpolated, relative to α₀:
    f[T₀ … T_{q+1}] Π_{i=1…q}(T₀ − Tᵢ) / Σ_{i=1…q} 1/(T₀ − Tᵢ), with a divided difference f[…]. q is the order
    of the step, or one less during the first steps, where too few states are known.
    """
    count = int(past.count[samples[0]])  # all samples of a block have as many
    times = [past.times[samples, -1 - i] for i in range(count)]
    states = [past.states[samples, -1 - i] for i in range(count)]
    if method.starts_with_half_step and count <= method.order:
        half = rows.x[rows.pattern.history] if rows.pattern.keeps_half else past.halves[samples]
        middle = rows.block.times.mean(dim=1).numpy() if rows.pattern.keeps_half else past.half_times[samples]
        times.insert(-1, middle)
        states.insert(-1, half)
    order = min(method.order, len(times) - 1)
    if order == 0:  # a first step of backward Euler: its change itself
        return Errors(new - states[0], np.zeros(len(new)))
    at = np.stack([rows.block.times.numpy()[:, rows.pattern.history], *times[: order + 1]], axis=1)
    apart = at[:, :, None] - at[:, None, :]
    eye = np.eye(order + 2, dtype=bool)
    weights = 1 / np.where(eye, 1.0, apart).prod(axis=2)
    from_new = apart[:, 0, 1 : order + 1]
    weights *= (from_new.prod(axis=1) / (1 / from_new).sum(axis=1))[:, None]
    total = np.zeros_like(new)
    for i, state in enumerate(states[: order + 1]):
        total += weights[:, i + 1, None] * (state - new)
    return Errors(total, np.full(len(new), float(order)))
