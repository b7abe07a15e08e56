"""Tangents of the steps of a segment, row by row.

Each row is linearised: (α L − β J) ẋ = −L Σ α_c ẋ_c + Σ β_c ḟ_c + Σ ε_c ġ_c + β ∂f/∂θ θ̇, with
ḟ_c = J_c ẋ_c + ∂f/∂θ θ̇. A Rosenbrock row has J at the old state on the left, and on the right the derivative
of its bracket through the old state and θ. P tangents are solved for at once with the same factors.

Source: the staggered direct method of Caracotsios & Stewart, Comput. Chem. Eng. 9 (1985), here applied to the
discrete equations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stiffml.discretization.equations import Equations, Nodes
from stiffml.discretization.numbering import STAGE
from stiffml.discretization.row import Row
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.linearization import Linearization
from stiffml.system.system import System

Parts = dict[str, tuple[Linearization, Dynamics, Nodes]]
"""f, and g if there is one, by name: the Jacobians at the nodes, the function, and the nodes."""


@dataclass(frozen=True)
class Tangents:
    """The tangents ẋ at the nodes of f and of g in a segment, (P, M, size).

    ``brackets`` has for each block those of the unknowns of Rosenbrock rows, by row, (P, steps, size).
    """

    f: np.ndarray
    g: np.ndarray | None
    brackets: list[dict[int, np.ndarray]]


@dataclass(frozen=True)
class Changes:
    """What P directions change in the equations of a segment directly, without the change of the states.

    Attributes
    ----------
    through : dict of str to ndarray
        Under "f" and "g": ∂f/∂θ θ̇ at their nodes, (M, size, P).
    curvatures : sequence of Curvature or None
        For each block the derivative of its Rosenbrock brackets; None for other methods.
    brackets : list of dict
        For each block, by Rosenbrock row, ∂D/∂θ θ̇ (steps, size, P).
    """

    through: dict[str, np.ndarray]
    curvatures: Sequence[Curvature | None]
    brackets: list[dict[int, np.ndarray]]


@dataclass(frozen=True)
class MovedNumbers:
    """For each row of a step its derivative through the coefficients α, β, ε and τ.

    ``weighed`` (size,) is the part that L multiplies, ``added`` (size,) the other part.
    """

    weighed: list[np.ndarray]
    added: list[np.ndarray]


@dataclass(frozen=True)
class Brackets:
    """The brackets J y + τ ∂f/∂s of the Rosenbrock rows of a block.

    Attributes
    ----------
    curvature : Curvature
    through : dict of int to ndarray
        By row, (steps, size, P) their direct change with the parameters, without that through the states.
    found : dict of int to ndarray
        By row, (P, steps, size), to be filled with the tangents of the y.
    """

    curvature: Curvature
    through: dict[int, np.ndarray]
    found: dict[int, np.ndarray]


def parts_of(equations: Equations, system: System, f: Linearization, g: Linearization | None) -> Parts:
    """f, and g if there is one, with their Jacobians at the nodes of a segment."""
    parts = {"f": (f, system.f, equations.f_nodes)}
    if g is not None and system.g is not None:
        parts["g"] = (g, system.g, equations.g_nodes)
    return parts


class TangentStep:
    """Computes the tangents of the steps of a block.

    Parameters
    ----------
    equations : Equations
    number : int
        The number of the block.
    system : System
    parts : dict
        f and g with their Jacobians at the nodes.
    through : dict
        By name, (M, size, P) the direct change of f and g at their nodes, without that of the states.
    found : dict
        By name, (P, M, size), to be filled with the tangents of the stages.
    brackets : Brackets, optional
        The Rosenbrock brackets, whose changes are to be added; by default these are held constant.
    moved : MovedNumbers, optional
        The derivative through the coefficients of the step.
    """

    def __init__(
        self,
        equations: Equations,
        number: int,
        system: System,
        parts: Parts,
        through: dict[str, np.ndarray],
        found: dict[str, np.ndarray],
        brackets: Brackets | None = None,
        moved: MovedNumbers | None = None,
    ) -> None:
        self.block, self.system = equations.blocks[number], system
        self.parts, self.through, self.found = parts, through, found
        self.brackets, self.moved = brackets, moved
        self.index = {name: nodes.index[number] for name, (_, _, nodes) in parts.items()}
        numbers = self.block.numbers
        self.alpha, self.beta, self.epsilon = (
            values.tolist() for values in (numbers.alpha, numbers.beta, numbers.epsilon)
        )

    def take(self, k: int, states: dict[int, np.ndarray]) -> None:
        """Compute the tangents of step ``k`` of the block; those of new states go to ``states``."""
        block, pattern = self.block, self.block.pattern
        self.x: dict[int, np.ndarray] = {c: states[int(block.known[k, c])] for c in range(pattern.history)}
        turned = None if self.brackets is None else self.brackets.curvature.apply(k, self.x[pattern.base])
        for row in pattern.rows:
            added = None
            if self.brackets is not None and turned is not None and row.rosenbrock:
                added = turned[row.index] + self.brackets.through[row.index][k].T
            self.x[row.column] = value = self._solve(row, k, added)
            if self.brackets is not None and row.rosenbrock:
                self.brackets.found[row.index][:, k] = value
            held = block.state_of(row.column)
            if held is not None:
                states[int(held[k])] = value
            else:
                for name, index in self.index.items():
                    where = index.get(row.column)
                    if where is not None:
                        self.found[name][:, where[k]] = value

    def _solve(self, row: Row, k: int, added: np.ndarray | None) -> np.ndarray:
        """The tangents (P, size) of the unknown of a row; ``added`` is the change of its bracket."""
        alpha, beta, epsilon = self.alpha[k][row.index], self.beta[k][row.index], self.epsilon[k][row.index]
        total = np.zeros_like(self.x[self.block.pattern.base])
        for c in row.alpha:
            total = total - alpha[c] * self.x[c]
        if self.moved is not None:
            total = total - self.moved.weighed[row.index]
        if row.weighted:
            total = self.system.weigh(total)
        for c, phi in row.phi.items():
            size = phi.fraction * self.block.sizes[k]
            total = total - alpha[c] * self.parts["f"][0].phi(phi.order, size, self.x[c])
        if self.moved is not None:
            total = total + self.moved.added[row.index]
        for c in row.beta:
            total = total + beta[c] * self._slope("f", c, k)
        for c in row.epsilon:
            total = total + epsilon[c] * self._slope("g", c, k)
        own = row.column
        if row.rosenbrock:
            total = total if added is None else total + added
            base = int(self.index["f"][self.block.pattern.base][k])
            return self.parts["f"][0].solve(base, alpha[own], 1.0, total)
        if not row.solves:
            return total if row.output else total / alpha[own]
        node = int(self.index["f"][own][k])
        total = total + beta[own] * self.through["f"][node].T
        return self.parts["f"][0].solve(node, alpha[own], beta[own], total)

    def _slope(self, name: str, c: int, k: int) -> np.ndarray:
        """ḟ or ġ (P, size) at a column of step ``k``."""
        node = int(self.index[name][c][k])
        return self.parts[name][0].apply(node, self.x[c]) + self.through[name][node].T


def tangents_row_by_row(
    equations: Equations,
    system: System,
    f: Linearization,
    g: Linearization | None,
    changes: Changes,
    states: dict[int, np.ndarray],
) -> Tangents:
    """The tangents of a segment; see :class:`Changes`. Those of new states are added to ``states``."""
    parts = parts_of(equations, system, f, g)
    count = next(iter(states.values())).shape[0]
    found = {name: np.zeros((count, *nodes.u.shape)) for name, (_, _, nodes) in parts.items()}
    of_brackets: list[dict[int, np.ndarray]] = []
    for number, block in enumerate(equations.blocks):
        brackets, curvature = None, changes.curvatures[number]
        of_brackets.append({})
        if curvature is not None:
            shape = (count, block.steps, equations.size)
            of_brackets[-1] = {row: np.empty(shape) for row in curvature.rows}
            brackets = Brackets(curvature, changes.brackets[number], of_brackets[-1])
        step = TangentStep(equations, number, system, parts, changes.through, found, brackets)
        for k in range(block.steps):
            step.take(k, states)
    for name, (_, _, nodes) in parts.items():
        for m in np.flatnonzero(nodes.states != STAGE):
            found[name][:, m] = states[int(nodes.states[m])]
    return Tangents(found["f"], found.get("g"), of_brackets)
