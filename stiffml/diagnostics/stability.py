"""What the steps of a run make of u' = λ u: the stability function R, from the rows of the steps.

The rows of a step (:mod:`stiffml.discretization.equations`), applied to the scalar problem, give the new
state as a combination of the states that the step starts from. With one of these the factor is R(hλ). A
multistep formula has as many factors as states, the roots of its characteristic equation for steps of equal
size; the largest counts.

Source: Hairer & Wanner, Solving ODEs II, sections IV.3 and V.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from stiffml.discretization.equations import Block, Numbers, Pattern
from stiffml.discretization.row import Row


@dataclass(frozen=True)
class Factors:
    """Of steps and modes, all (steps, modes) complex.

    Attributes
    ----------
    amplification : ndarray
        R(z), z = hλ.
    derivative : ndarray
        dR/dz.
    forced : ndarray
        How far a step from rest, 0, goes to the steady state of u' = λ u + c: 1 − R, of a multistep formula
        1 less the sum of its factors.
    """

    amplification: np.ndarray
    derivative: np.ndarray
    forced: np.ndarray


def factors_of(block: Block, values: np.ndarray) -> Factors:
    """R and dR/dz of the steps of a block for eigenvalues ``values`` (steps, modes), complex and finite."""
    history = block.pattern.history
    h = (block.times[:, history] - block.times[:, history - 1]).numpy()[:, None]
    numbers = block.numbers
    if history > 1:
        equal = block.times[:, history - 1, None] + torch.from_numpy(h * np.arange(1 - history, 2))
        numbers = block.scheme.numbers(torch.cat([equal, block.times[:, history + 1 :]], dim=1))
    combined, slopes = _combination(block.pattern, numbers, values)  # (history, steps, modes)
    if history == 1:
        return Factors(combined[0], slopes[0] / h, 1 - combined[0])
    companion = np.zeros((*values.shape, history, history), dtype=complex)
    companion[..., range(1, history), range(history - 1)] = 1.0
    companion[..., 0, :] = np.moveaxis(combined[::-1], 0, -1)  # the newest first
    roots = np.linalg.eigvals(companion)
    root = np.take_along_axis(roots, np.abs(roots).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    # P(x, λ) = x^k − Σ c_i(λ) x^i = 0, with c_i of the state number i, the oldest first.
    powers = np.stack([root**i for i in range(history)])
    by_root = history * root ** (history - 1)
    by_root = by_root - sum(i * combined[i] * root ** (i - 1) for i in range(1, history))
    with np.errstate(divide="ignore", invalid="ignore"):
        derivative = (slopes * powers).sum(axis=0) / by_root
    return Factors(root, derivative / h, 1 - combined.sum(axis=0))


def _combination(pattern: Pattern, numbers: Numbers, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factors of the starting states in the new one, and their derivatives by λ."""
    alpha, beta = numbers.alpha.numpy(), numbers.beta.numpy()
    shape = (pattern.history, *values.shape)
    x: list[np.ndarray] = [np.zeros(shape, dtype=complex) for _ in range(pattern.new + 1)]
    dx: list[np.ndarray] = [np.zeros(shape, dtype=complex) for _ in range(pattern.new + 1)]
    for c in range(pattern.history):
        x[c][c] = 1.0
    for row in pattern.step_rows:
        x[row.column], dx[row.column] = _solved(row, alpha, beta, values, x, dx)
    return x[pattern.new], dx[pattern.new]


def _solved(
    row: Row,
    alpha: np.ndarray,
    beta: np.ndarray,
    values: np.ndarray,
    x: list[np.ndarray],
    dx: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """The unknown of a row and its derivative by λ, from those of the earlier columns."""
    a, b = (numbers[:, row.index, :, None] for numbers in (alpha, beta))  # (steps, columns, 1)
    own = 1.0 if row.rosenbrock else b[:, row.column] if row.solves else 0.0
    pivot = a[:, row.column] - own * values
    right = np.zeros_like(x[0])
    slope = np.zeros_like(x[0])
    for c in row.alpha:
        right, slope = right - a[:, c] * x[c], slope - a[:, c] * dx[c]
    for c in row.beta:
        right = right + b[:, c] * values * x[c]
        slope = slope + b[:, c] * (values * dx[c] + x[c])
    found = right / pivot
    return found, (slope + own * found) / pivot


DOPRI5 = np.polynomial.Polynomial([1, 1, 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 600])
"""The stability function of ``dopri5``; Hairer & Wanner, Solving ODEs II, section IV.2."""


def explicit_limit(values: np.ndarray) -> np.ndarray:
    """The longest stable step of ``dopri5`` for eigenvalues of any shape; infinite where nothing decays.

    The h at which h λ leaves the region |R| ≤ 1 along its ray, from a table over angles. Eigenvalues with a
    positive real part grow in any case; for them it is that of the imaginary axis, which resolves them.
    """
    angles = np.linspace(np.pi / 2, np.pi, 91)
    radii = np.linspace(0.0, 5.0, 2001)
    inside = np.abs(DOPRI5(radii * np.exp(1j * angles)[:, None])) <= 1 + 1e-4
    reach = radii[np.argmin(inside, axis=1)]
    angle = np.abs(np.angle(values)).clip(np.pi / 2, np.pi)
    size = np.abs(values)
    with np.errstate(divide="ignore"):
        return np.interp(angle, angles, reach) / size
