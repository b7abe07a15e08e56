"""The reverse sweep of a segment, row by row: from dL/du of its states to dL/df at its nodes.

x̄ is the cotangent of the unknown of a row. From the last row to the first:

    (α L − β J)ᵀ w = x̄,   then   x̄_c −= α_c Lᵀ w,   f̄_c += β_c w,   ḡ_c += ε_c w.

Where α_c is multiplied by a matrix φ, w is multiplied by φᵀ.

Once all rows that use f(x_c) are done, x̄_c += J_cᵀ f̄_c. These are the discrete adjoint equations of any
method.

Source: Hager, Numer. Math. 87 (2000), for Runge-Kutta methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stiffml.discretization.equations import Block, Equations
from stiffml.discretization.interpolation import Reading, StateReadings
from stiffml.discretization.row import Row
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.derivatives.linearization import Linearization
from stiffml.system.system import System


class Pending(dict[int, np.ndarray]):
    """The cotangents (size,) of states whose step has not been reversed yet, by the number of the state."""

    def add(self, state: int, cotangent: np.ndarray) -> None:
        """Add to the cotangent of a state."""
        held = self.get(state)
        self[state] = cotangent if held is None else held + cotangent

    def read_all(self, readings: Sequence[Reading], cotangents: np.ndarray) -> None:
        """Add dL/d(outputs) (outputs, size) likewise."""
        if isinstance(readings, StateReadings):  # without calls: these are all, nearly always
            for state, cotangent in zip(readings.states.tolist(), cotangents, strict=True):
                held = self.get(state)
                self[state] = cotangent if held is None else held + cotangent
            return
        for reading, cotangent in zip(readings, cotangents, strict=True):
            self.read(reading, cotangent)

    def read(self, reading: Reading, cotangent: np.ndarray) -> None:
        """Add dL/d(output) (size,), weighted, to the states that the output is a combination of."""
        if reading.s is None:
            self.add(reading.end, cotangent)
            return
        for state, weight in zip(reading.states.tolist(), reading.weights.tolist(), strict=True):
            self.add(state, cotangent if weight == 1 else weight * cotangent)


@dataclass(frozen=True)
class Swept:
    """The result of reversing a segment, besides the cotangents of earlier states in ``Pending``.

    Attributes
    ----------
    f, g : ndarray
        (M, size) dL/df and dL/dg at the nodes; g is None if the problem is not split.
    multipliers : list of ndarray
        For each block the w of its rows, (rows, steps, size). Empty if not wanted.
    """

    f: np.ndarray
    g: np.ndarray | None
    multipliers: list[np.ndarray]


def sweep(
    equations: Equations,
    system: System,
    f: Linearization,
    g: Linearization | None,
    curvatures: Sequence[Curvature | None],
    pending: Pending,
    sources: Sequence[Mapping[int, np.ndarray]] | None = None,
    with_multipliers: bool = False,
) -> Swept:
    """Reverse a segment.

    Parameters
    ----------
    equations : Equations
    system : System
    f, g : Linearization
        Their Jacobians at the nodes; g is None if the problem is not split.
    curvatures : sequence of Curvature or None
        For each block the derivative of its Rosenbrock brackets; None for other methods.
    pending : Pending
        Has dL/du of the segment's states, which is removed. That of earlier states is added.
    sources : sequence of dict, optional
        For each block, by column of a stage, (steps, size) to be added to dL/dx of the stage.
    with_multipliers : bool
        Whether the multipliers are wanted. Default False.
    """
    blocks = equations.blocks if with_multipliers else []
    swept = Swept(
        np.zeros(equations.f_nodes.u.shape),
        None if g is None else np.zeros(equations.g_nodes.u.shape),
        [np.zeros((len(b.pattern.rows), b.steps, equations.size)) for b in blocks],
    )
    for number in reversed(range(len(equations.blocks))):
        added = sources[number] if sources is not None else {}
        step = _ReverseStep(equations, number, system, f, g, curvatures[number], swept, added)
        for k in reversed(range(equations.blocks[number].steps)):
            step.reverse(k, pending)
    return swept


class _ReverseStep:
    """Reverses the steps of a block."""

    def __init__(
        self,
        equations: Equations,
        number: int,
        system: System,
        f: Linearization,
        g: Linearization | None,
        curvature: Curvature | None,
        swept: Swept,
        sources: Mapping[int, np.ndarray],
    ) -> None:
        self.block: Block = equations.blocks[number]
        self.pattern = self.block.pattern
        self.f, self.g, self.system, self.curvature = f, g, system, curvature
        self.f_index = equations.f_nodes.index[number]
        self.g_index = equations.g_nodes.index[number] if g is not None else {}
        self.f_cotangents, self.g_cotangents = swept.f, swept.g
        self.multipliers = swept.multipliers[number] if swept.multipliers else None
        self.sources = sources
        pattern, numbers = self.pattern, self.block.numbers
        half = [pattern.history] if pattern.keeps_half else []
        self.determined: list[tuple[int, list[int]]] = []
        for c in (*range(pattern.new, pattern.columns), *half):
            states = self.block.state_of(c)
            assert states is not None
            self.determined.append((c, states.tolist()))
        self.alpha, self.beta, self.epsilon = (
            values.tolist() for values in (numbers.alpha, numbers.beta, numbers.epsilon)
        )

    def reverse(self, k: int, pending: Pending) -> None:
        """Reverse step ``k`` of the block."""
        pattern, block = self.pattern, self.block
        # For every column the cotangents x̄, f̄ and ḡ accumulated so far.
        self.x: list[np.ndarray | None] = [None] * pattern.columns
        self.at_f: list[np.ndarray | None] = [None] * pattern.columns
        self.at_g: list[np.ndarray | None] = [None] * pattern.columns
        for c, states in self.determined:
            self.x[c] = pending.pop(states[k], None)
        for c, values in self.sources.items():
            self._add(self.x, c, values[k])
        held: dict[int, np.ndarray] = {}
        for row in reversed(pattern.rows):
            w = self._reverse_row(row, k)
            if w is not None and row.rosenbrock:
                held[row.index] = w
        if held and self.curvature is not None:
            self._add(self.x, pattern.base, self.curvature.apply_transpose(k, held))
        for c in range(pattern.history):
            cotangent = self._with_f_and_g(c, k)
            if cotangent is not None:
                pending.add(int(block.known[k, c]), cotangent)
        self._keep(k)

    def _reverse_row(self, row: Row, k: int) -> np.ndarray | None:
        c = row.column
        cotangent = self._with_f_and_g(c, k)
        if cotangent is None:
            return None
        alpha, beta, epsilon = self.alpha[k][row.index], self.beta[k][row.index], self.epsilon[k][row.index]
        if row.solves:
            w = self.f.solve_next(self._node(c, k), alpha[c], beta[c], cotangent, row.index)
            self._add(self.at_f, c, beta[c] * w)
        elif row.rosenbrock:
            w = self.f.solve_next(self._node(self.pattern.base, k), alpha[c], 1.0, cotangent, row.index)
        elif row.weighted and self.system.mass is not None:
            raise AssertionError("an explicit stage cannot have a mass matrix")
        else:
            w = cotangent if row.output else cotangent / alpha[c]
        if self.multipliers is not None:
            self.multipliers[row.index, k] = w
        weighed = self.system.weigh(w, transpose=True) if row.weighted else w
        for other in row.alpha:
            self._add(self.x, other, -alpha[other] * weighed)
        for other, phi in row.phi.items():
            size = phi.fraction * self.block.sizes[k]
            self._add(self.x, other, -alpha[other] * self.f.phi(phi.order, size, w, transpose=True))
        for other in row.beta:
            self._add(self.at_f, other, beta[other] * w)
        for other in row.epsilon:
            self._add(self.at_g, other, epsilon[other] * w)
        return w

    def _with_f_and_g(self, c: int, k: int) -> np.ndarray | None:
        """The total cotangent (size,) of column c: its own x̄ plus J_cᵀ f̄_c and the same for g."""
        total = self.x[c]
        for cotangent, part, index in (
            (self.at_f[c], self.f, self.f_index),
            (self.at_g[c], self.g, self.g_index),
        ):
            if cotangent is not None and part is not None:
                through = part.pull_back(int(index[c][k]), cotangent)
                total = through if total is None else total + through
        return total

    def _node(self, c: int, k: int) -> int:
        return int(self.f_index[c][k])

    @staticmethod
    def _add(to: list[np.ndarray | None], c: int, value: np.ndarray) -> None:
        held = to[c]
        to[c] = value if held is None else held + value

    def _keep(self, k: int) -> None:
        for cotangents, totals, index in (
            (self.at_f, self.f_cotangents, self.f_index),
            (self.at_g, self.g_cotangents, self.g_index),
        ):
            for c, cotangent in enumerate(cotangents):
                if cotangent is not None and totals is not None:
                    totals[index[c][k]] += cotangent
