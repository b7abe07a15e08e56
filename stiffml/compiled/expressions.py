"""The expressions of a function and its derivatives, as functions of CasADi.

With t (), y (size,) and p (parameters,), the inputs of a trace one after the other:

    linearised   (t, y, p)          f, and the entries of ∂f/∂y that may differ from zero, column by column
    pulled       (t, y, p, w)       f, wᵀ∂f/∂y, wᵀ∂f/∂t, wᵀ∂f/∂p
    pushed       (t, y, p, s, v)    s ∂f/∂t + ∂f/∂y v
    moved        (t, y, p, q)       ∂f/∂p q
    bent         (t, y, p, s, v, w) the gradients of wᵀ(s ∂f/∂t + ∂f/∂y v) by y and by p
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import casadi as ca
import numpy as np

from stiffml.compiled.arrays import column, symbols
from stiffml.compiled.operations import MOST, worked_out
from stiffml.compiled.refusal import NotCompilableError
from stiffml.compiled.trace import Trace

MOST_IN_JACOBIAN = MOST
"""Scalar operations of f and ∂f/∂y together, beyond which ∂f/∂y is made of products with unit vectors."""


@dataclass(frozen=True)
class Pattern:
    """The entries (nonzeros,) of a matrix that may differ from zero, column by column."""

    row: np.ndarray
    column: np.ndarray


class Expressions:
    """The expressions of a traced function of states (size,).

    Attributes
    ----------
    size, parameters : int
    pattern : Pattern
        Of ∂f/∂y.
    by_columns : bool
        Whether ∂f/∂y as one expression would be too large, and is made of products.
    """

    def __init__(self, trace: Trace, size: int) -> None:
        self.size = size
        time, self._y = ca.SX.sym("t"), ca.SX.sym("y", size)
        self._t = time
        t = np.empty((), dtype=object)
        t[()] = time
        y = np.empty(size, dtype=object)
        for i in range(size):
            y[i] = self._y[i]
        pairs = {name: symbols(f"p{i}", tuple(v.shape)) for i, (name, v) in enumerate(trace.lifted.items())}
        self._p = ca.vertcat(*[vector for vector, _ in pairs.values()]) if pairs else ca.SX(0, 1)
        self.parameters = self._p.numel()
        values = worked_out(trace, t, y, {name: array for name, (_, array) in pairs.items()})
        if values.shape != (size,):
            raise NotCompilableError(
                f"it returns values of shape {values.shape} for a state of shape {(size,)}"
            )
        self._f = column(values)
        self._inputs = [self._t, self._y, self._p]
        self.slope = ca.Function("slope", self._inputs, [self._f])
        if self.slope.n_instructions() > 2 * MOST:
            raise NotCompilableError(f"it takes {self.slope.n_instructions()} scalar operations")

    @cached_property
    def pattern(self) -> Pattern:
        sparsity = ca.jacobian_sparsity(self._f, self._y)
        row, col = sparsity.get_triplet()
        return Pattern(np.array(row, dtype=np.int64), np.array(col, dtype=np.int64))

    @cached_property
    def linearised(self) -> ca.Function:
        jacobian = ca.jacobian(self._f, self._y)
        dense = ca.project(jacobian, ca.jacobian_sparsity(self._f, self._y))
        return ca.Function("linearised", self._inputs, [self._f, dense.nz[:]])

    @cached_property
    def by_columns(self) -> bool:
        return self.linearised.n_instructions() > MOST_IN_JACOBIAN

    @cached_property
    def pulled(self) -> ca.Function:
        w = ca.SX.sym("w", self.size)
        found = ca.jtimes(self._f, ca.vertcat(self._y, self._t, self._p), w, True)
        parts = ca.vertsplit(found, [0, self.size, self.size + 1, self.size + 1 + self.parameters])
        return ca.Function("pulled", [*self._inputs, w], [self._f, *map(ca.densify, parts)])

    @cached_property
    def pushed(self) -> ca.Function:
        s, v = ca.SX.sym("s"), ca.SX.sym("v", self.size)
        found = ca.jtimes(self._f, ca.vertcat(self._t, self._y), ca.vertcat(s, v))
        return ca.Function("pushed", [*self._inputs, s, v], [ca.densify(found)])

    @cached_property
    def bent(self) -> ca.Function:
        s, v, w = ca.SX.sym("s"), ca.SX.sym("v", self.size), ca.SX.sym("w", self.size)
        along = ca.jtimes(self._f, ca.vertcat(self._t, self._y), ca.vertcat(s, v))
        found = ca.jtimes(along, ca.vertcat(self._y, self._p), w, True)
        parts = map(ca.densify, ca.vertsplit(found, [0, self.size, self.size + self.parameters]))
        function = ca.Function("bent", [*self._inputs, s, v, w], list(parts))
        if function.n_instructions() > 4 * MOST:
            raise NotCompilableError(f"its second derivatives take {function.n_instructions()} operations")
        return function

    @cached_property
    def moved(self) -> ca.Function:
        q = ca.SX.sym("q", self.parameters)
        found = ca.jtimes(self._f, self._p, q) if self.parameters else ca.SX(self.size, 1)
        return ca.Function("moved", [*self._inputs, q], [ca.densify(found)])
