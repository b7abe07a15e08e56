"""States known from elsewhere, with their sources."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from stiffml.display import readable


@readable
@dataclass(frozen=True)
class Reference:
    """A state known from elsewhere.

    Attributes
    ----------
    t : float
    y : ndarray
        In the shape of the problem's state.
    source : str
    rtol_valid : float
        The relative error the values are known to.
    verified : str
        How they were checked.
    mask : ndarray or None
        Marks the components to compare; None for all.
    relative_to : ndarray or None
        What errors are divided by, broadcastable to y; None for |y| itself.

    Examples
    --------
    >>> import problems
    >>> known = problems.Reference(1.0, np.exp([-1.0]), "the exact solution", 1e-15, "by insertion")
    >>> problem = problems.Problem("decay", lambda t, y, p: -y, np.ones(1), (0.0, 1.0), references=(known,))
    >>> problem.check(problem.solve(rtol=1e-8)).digits > 6
    True
    """

    t: float
    y: np.ndarray
    source: str
    rtol_valid: float
    verified: str
    mask: np.ndarray | None = None
    relative_to: np.ndarray | None = None

    def errors(self, y: np.ndarray) -> np.ndarray:
        """Relative errors of a state in the shape of y; NaN where the mask leaves a component out."""
        size = np.abs(self.y) if self.relative_to is None else self.relative_to
        mask = np.ones(self.y.shape, dtype=bool) if self.mask is None else self.mask
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(mask, np.abs(y - self.y) / size, np.nan)


def published(key: str, rtol_valid: float) -> Reference:
    """An entry of ``library/references.json``: values printed in the literature, or exact, to all digits."""
    entry = json.loads(files("problems").joinpath("library/references.json").read_text())[key]
    mask = entry.get("mask")
    return Reference(
        t=float(entry["t"]),
        y=np.array(entry["y"]),
        source=entry["source"],
        rtol_valid=rtol_valid,
        verified=entry["verified"],
        mask=None if mask is None else np.array(mask),
    )
