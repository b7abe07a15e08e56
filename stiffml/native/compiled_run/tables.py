"""The rows of a one-step method as tables of numbers, from which C has its coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from stiffml.discretization.equations import Block, Form, Numbers
from stiffml.discretization.trajectory import Segment, Trajectory
from stiffml.methods import Method


@dataclass(frozen=True)
class Table:
    """Coefficients of a step of size h: α + α′/h, β + β′h, τh, and the abscissae c of the columns.

    Attributes
    ----------
    alpha, alpha_per_h, beta, beta_by_h : ndarray
        (rows, columns); with errors their row is the last one.
    tau : ndarray
        (rows,), without that of errors.
    c : ndarray
        (columns,)
    weighted, rosenbrock : ndarray
        (rows,) int64, as in a pattern; likewise.
    differences : bool
    stages : range
        The columns of stages.
    order : int
        The power of h that errors are proportional to; 0 without an error row.
    """

    alpha: np.ndarray
    alpha_per_h: np.ndarray
    beta: np.ndarray
    beta_by_h: np.ndarray
    tau: np.ndarray
    c: np.ndarray
    weighted: np.ndarray
    rosenbrock: np.ndarray
    differences: bool
    stages: range
    order: int


@lru_cache(maxsize=64)
def table_of(method: Method, form: Form, with_errors: bool) -> Table | None:
    """The table of a method whose steps start from one state; None if its coefficients have another form."""
    (block, order), (longer, _) = (_step(method, form, with_errors, h) for h in (1.0, 2.0))
    pattern = block.pattern
    if pattern.history != 1 or pattern.keeps_half or pattern.evaluates_g.any():
        return None
    one, two = (_arrays(b.numbers) for b in (block, longer))
    alpha, alpha_per_h = _parts(one[0], two[0], 0.5)
    beta, beta_by_h = _parts(one[1], two[1], 2.0)
    rows = pattern.step_rows
    fits = [
        np.array_equal(alpha + alpha_per_h / 2, two[0]),
        np.array_equal(beta + 2 * beta_by_h, two[1]),
        np.array_equal(2 * one[2], two[2]),
        np.array_equal(2 * one[3], two[3]),
    ]
    if not all(fits):
        return None
    c = one[3].copy()
    # States have the times of the ends of the step, whatever a formula says of where their f is evaluated.
    c[0], c[pattern.new] = 0.0, 1.0
    return Table(
        alpha=alpha,
        alpha_per_h=alpha_per_h,
        beta=beta,
        beta_by_h=beta_by_h,
        tau=one[2][: len(rows)],
        c=c,
        weighted=np.array([row.weighted for row in rows], dtype=np.int64),
        rosenbrock=np.array([row.rosenbrock for row in rows], dtype=np.int64),
        differences=pattern.differences,
        stages=pattern.stages,
        order=order,
    )


def _step(method: Method, form: Form, with_errors: bool, h: float) -> tuple[Block, int]:
    """The equations of a step from 0 to h, and the order of its error."""
    trajectory = Trajectory(np.array([0.0, h]))
    trajectory.append(h, h)
    segment = Segment(trajectory, 0, 1, 0, np.zeros((2, 1)))
    if with_errors:
        (estimate,) = method.estimates(segment, form)
        return estimate.block, estimate.order
    (block,) = method.blocks(segment, form)
    return block, 0


def _arrays(numbers: Numbers) -> list[np.ndarray]:
    return [part[0].numpy() for part in (numbers.alpha, numbers.beta, numbers.tau, numbers.s_f)]


def _parts(one: np.ndarray, two: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """The entries that do not depend on h, and those that are ``ratio`` times as large in twice the step."""
    scales = (two == ratio * one) & (one != 0)
    return np.where(scales, 0.0, one), np.where(scales, one, 0.0)
