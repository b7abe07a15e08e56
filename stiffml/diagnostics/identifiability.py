"""Which parameters, and which combinations of them, data determine: singular values of the sensitivities."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np

from stiffml.diagnostics.advice import WIDTH
from stiffml.display import printed
from stiffml.training.lm.covariance import Covariance, covariance
from stiffml.training.lm.vector import FittedVector

GOOD, POOR = 0.1, 1.0
"""Relative standard errors of a direction up to which it is well determined, and from which on it is not."""

NOISE = 0.01
"""Of data whose noise is not known, at most, in units of the scale."""

SHOWN, PARTS = 3, 4
"""Directions that are written out, and numbers in each."""


@printed
@dataclass(frozen=True)
class Identifiability:
    """Directions in the space of all numbers that are fitted, from the best determined to the worst.

    Attributes
    ----------
    names : tuple of str
    singular_values : ndarray
        (size,) of the derivatives of the residuals by the numbers in units of their own size (1 where zero);
        zero beyond the number of residuals.
    directions : ndarray
        (size, size) a direction in each row, in these units.
    errors : ndarray
        (size,) the relative standard error of each direction: that of the residuals over the singular value.
        Where the noise is not known it is taken to be the root mean square residual, but at most 1 % of the
        scale: how far a model still is from data says nothing about what they determine.
    covariance : Covariance
        Of the numbers themselves, as :func:`stiffml.training.fit` has it.
    """

    names: tuple[str, ...]
    singular_values: np.ndarray
    directions: np.ndarray
    errors: np.ndarray
    covariance: Covariance

    @property
    def well(self) -> int:
        """How many directions are determined to a tenth."""
        return int((self.errors <= GOOD).sum())

    @property
    def poor(self) -> int:
        """How many directions have errors as large as the numbers themselves."""
        return int((self.errors >= POOR).sum())

    def words(self, direction: int) -> str:
        """A direction by its largest parts, such as ``0.71 k1 - 0.71 k2``."""
        row = self.directions[direction]
        row = row if row[np.abs(row).argmax()] > 0 else -row
        largest = np.argsort(-np.abs(row))[:PARTS]
        order = [int(i) for i in largest if abs(row[i]) > 0.1 * np.abs(row).max()]
        parts = [f"{'-' if row[i] < 0 else '+'} {abs(row[i]):.2g} {self.names[i]}" for i in order]
        rest = " + …" if (row[order] ** 2).sum() < 0.98 else ""
        return " ".join(parts).removeprefix("+ ") + rest

    def notes(self) -> list[str]:
        """What the data do not determine, in words; empty if they determine all to within its size."""
        if not self.poor:
            return []
        shown = [self.words(len(self.names) - 1 - i) for i in range(min(self.poor, SHOWN))]
        more = f", and {self.poor - SHOWN} others" if self.poor > SHOWN else ""
        return [
            f"The data do not determine {self.poor} of {len(self.names)} directions (relative changes): "
            f"{'; '.join(shown)}{more}. Fix or combine such parameters, add a prior, or observe more."
        ]

    def __str__(self) -> str:
        size = len(self.names)
        lines = [
            f"parameters: {size}, {self.well} directions determined to 10 %, {self.poor} not at all",
            f"  {'singular value':>14} {'rel. error':>11}  direction (relative changes)",
        ]
        few = range(size) if size <= 2 * SHOWN else [*range(SHOWN), *range(size - SHOWN, size)]
        for number in few:
            if size > 2 * SHOWN and number == size - SHOWN:
                lines.append(f"  {'…':>14}")
            error = self.errors[number]
            start = f"  {self.singular_values[number]:14.3g} {error:11.2g}  "
            wrapped = textwrap.wrap(self.words(number), WIDTH - len(start))
            lines += [start + wrapped[0], *(" " * len(start) + line for line in wrapped[1:])]
        return "\n".join(lines)


def identifiability(
    vector: FittedVector, jacobian: np.ndarray, residuals: np.ndarray, known_noise: bool
) -> Identifiability:
    """From the derivatives (m, size) of residuals (m,); what is known of initial values beforehand counts."""
    values = vector.read()
    known = np.flatnonzero(vector.weight)
    prior = np.diag(vector.weight)[known]
    jacobian = np.concatenate([jacobian, prior])
    residuals = np.concatenate([residuals, (vector.weight * (values - vector.centre))[known]])
    found = covariance(
        vector.names, values, jacobian, len(residuals), float(residuals @ residuals), known_noise
    )
    size = np.where(values != 0, np.abs(values), 1.0)
    _, singular, directions = np.linalg.svd(jacobian * size, full_matrices=True)
    singular = np.concatenate([singular, np.zeros(len(values) - len(singular))])
    spread = 1.0 if known_noise else min(float(np.sqrt((residuals**2).mean())), NOISE)
    with np.errstate(divide="ignore"):
        errors = np.where(singular > 1e-14 * singular.max(initial=0), spread / singular, np.inf)
    return Identifiability(tuple(vector.names), singular, directions, errors, found)
