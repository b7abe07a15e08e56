"""What all explicit Runge-Kutta methods have in common: everything follows from the tableau."""

from __future__ import annotations

from abc import abstractmethod
from functools import cache

import numpy as np

from stiffml.discretization.dense_output import Dense
from stiffml.discretization.equations import Form, Scheme
from stiffml.methods.base import OneStep
from stiffml.methods.runge_kutta_rows import stage_embedded, stage_scheme
from stiffml.methods.tableaux import Butcher, Tableau


class ByTableau(OneStep):
    """An explicit Runge-Kutta method; those that differ must not be equal, for rows are kept by method."""

    implicit = False

    @property
    @abstractmethod
    def tableau(self) -> Tableau:
        """Of the method, with an explicit part only."""

    @property
    def butcher(self) -> Butcher:
        assert self.tableau.explicit is not None
        return self.tableau.explicit

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def adaptive(self) -> bool:
        return self.tableau.embedded is not None

    @property
    def abscissae(self) -> np.ndarray:
        return self.butcher.c

    def scheme(self, form: Form) -> Scheme:
        return _scheme(self)

    def embedded(self, form: Form) -> Dense | None:
        return _embedded(self)


@cache
def _scheme(method: ByTableau) -> Scheme:
    return stage_scheme(method.butcher)


@cache
def _embedded(method: ByTableau) -> Dense | None:
    return stage_embedded(method.butcher, None, False, method.tableau.embedded)
