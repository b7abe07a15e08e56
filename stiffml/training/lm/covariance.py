"""How well the fitted numbers are determined: covariance, errors, correlations, directions without effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from stiffml.display import Table, printed


@printed
@dataclass(frozen=True)
class Covariance:
    """Of a fit, from its Jacobian K (m, size) by (KᵀK)⁻¹, times the variance of the residuals.

    A number at one of its bounds counts as free; ``Result.profile`` heeds bounds.

    Attributes
    ----------
    names : tuple of str
    values : ndarray
        (size,) what was fitted.
    matrix : ndarray
        (size, size), in directions that the data determine; pseudo-inverse in the others.
    singular_values : ndarray
        (min(m, size),) of K with columns in units of the numbers' own size, decreasing. Of numbers near 0
        the unit is the change that moves the residuals by 1.
    rank : int
        How many of them exceed 1e-8 of the largest: directions that the data determine.
    undetermined : tuple of str
        The numbers that have a part of more than 0.3 in directions that the data do not determine; their
        errors are infinite.
    variance : float
        Of the residuals: 1 where their scale is the noise, else their sum of squares over the degrees of
        freedom, in which outliers of a robust loss count as they do in the fit.
    freedom : int
        Degrees of freedom, m − rank.

    Examples
    --------
    >>> from stiffml.training import fit
    >>> found = fit(Decay(), runs, steps=stiffml.Grid(10)).covariance
    >>> found.names, found.rank, found.undetermined
    (('k',), 1, ())
    >>> low, high = found.intervals(0.95)["k"]
    >>> bool(low < 3 < high)
    True
    """

    names: tuple[str, ...]
    values: np.ndarray
    matrix: np.ndarray
    singular_values: np.ndarray
    rank: int
    undetermined: tuple[str, ...]
    variance: float
    freedom: int

    @property
    def errors(self) -> np.ndarray:
        """(size,) standard errors; infinite for what is not determined."""
        errors = np.sqrt(np.diag(self.matrix))
        errors[[name in self.undetermined for name in self.names]] = np.inf
        return errors

    @property
    def correlation(self) -> np.ndarray:
        """(size, size), NaN for numbers without an error."""
        sizes = np.sqrt(np.diag(self.matrix))
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.matrix / np.outer(sizes, sizes)

    def intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Of each number, by name, the confidence interval by Student's distribution, linearised."""
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, not {level}")
        factor = stdtrit(self.freedom, 0.5 + level / 2) if self.freedom > 0 else np.inf
        half = factor * self.errors
        pairs = zip(self.values - half, self.values + half, strict=True)
        return dict(zip(self.names, ((float(a), float(b)) for a, b in pairs), strict=True))

    def _table(self) -> Table:
        pairs = zip(self.names, self.values, self.errors, strict=True)
        return ("", "value", "standard error"), [(name, f"{v:.6g}", f"{e:.2g}") for name, v, e in pairs]

    def __str__(self) -> str:
        lines = [f"{self.rank} of {len(self.names)} directions are determined by the data"]
        width = max(map(len, self.names))
        for name, value, error in zip(self.names, self.values, self.errors, strict=True):
            lines.append(f"{name:<{width}}  {value: .6g} ± {error:.2g}")
        return "\n".join(lines)


DETERMINED = 1e-8
PART = 0.3


def covariance(
    names: Sequence[str],
    values: np.ndarray,
    jacobian: np.ndarray,
    count: int,
    squares: float,
    known_noise: bool,
) -> Covariance:
    """The covariance from the Jacobian (m, size) of all residuals, those of priors included.

    Parameters
    ----------
    count, squares : int and float
        How many residuals there are, and the sum of their squares.
    known_noise : bool
        Whether they are in units of the standard deviation of their observations.
    """
    # A number near 0 has no size of its own: then it is that which changes the residuals by one unit.
    effects = np.linalg.norm(jacobian, axis=0)
    size = np.maximum(np.abs(values), 1 / np.where(effects > 0, effects, 1.0))
    _, singular, basis = np.linalg.svd(jacobian * size, full_matrices=True)
    rank = int((singular > DETERMINED * singular.max(initial=0)).sum())
    seen, unseen = basis[:rank], basis[rank:]
    freedom = count - rank
    variance = 1.0
    if not known_noise:
        variance = squares / freedom if freedom > 0 else np.nan
    scaled = (seen.T / singular[:rank] ** 2) @ seen
    part = np.sqrt((unseen**2).sum(axis=0))
    undetermined = tuple(name for name, share in zip(names, part, strict=True) if share > PART)
    return Covariance(
        names=tuple(names),
        values=values.copy(),
        matrix=variance * size[:, None] * scaled * size,
        singular_values=singular,
        rank=rank,
        undetermined=undetermined,
        variance=variance,
        freedom=freedom,
    )
