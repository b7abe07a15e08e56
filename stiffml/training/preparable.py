"""Models that take from data what was left out of them."""

from __future__ import annotations

import abc
from typing import Any

from stiffml.training.data import Runs


class Preparable(abc.ABC):
    """A model that is complete only once it has seen data, such as :class:`stiffml.closures.Closure`.

    :func:`stiffml.training.fit` and :func:`stiffml.training.compare` call ``prepare`` with the data before
    anything else.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from stiffml.training import Preparable, Run, Runs, fit
    >>> class Decay(torch.nn.Module, Preparable):
    ...     def prepare(self, runs):
    ...         y, t = runs[0].values, runs[0].times
    ...         k = np.log(y[0, 0] / y[-1, 0]) / (t[-1] - t[0])
    ...         self.k = torch.nn.Parameter(torch.tensor(k))
    ...         return {"method": "bdf3"}
    ...
    ...     def forward(self, t, y):
    ...         return -self.k * y
    >>> t = np.linspace(0, 2, 9)
    >>> result = fit(Decay(), Runs([Run("a", t, np.exp(-3 * t)[:, None])], ["A"], initial="known"))
    >>> result.model.k.item() > 2
    True
    """

    @abc.abstractmethod
    def prepare(self, runs: Runs) -> dict[str, Any]:
        """Take from runs what was left out; return arguments of a fit that suit the model, or {}.

        These hold where the fit is not given others: of ``method``, ``steps`` and, by Levenberg-Marquardt,
        ``strategy``, ``levenberg_marquardt``, ``judged`` and ``attempts``. Calling it again changes nothing.
        """
