"""Newton's iteration on the equations of many steps at once."""

from __future__ import annotations

import math

import numpy as np
import torch

from stiffml.all_at_once.evaluation import Evaluation, Slopes
from stiffml.all_at_once.factored import Factored, FactoredBlocks
from stiffml.all_at_once.in_c.factored import FactoredInC
from stiffml.all_at_once.in_c.qualifying import has_rows_in_c
from stiffml.all_at_once.judgement import (
    CLEAN,
    DIVERGENCE,
    FEW_ITERATES,
    MAX_ITERATIONS,
    NEAR,
    ROUNDING_LEVEL,
    StepsNotConvergedError,
    relative_size,
)
from stiffml.all_at_once.matrix import Jacobians, Matrix, matrix_of
from stiffml.all_at_once.structure import Structure
from stiffml.settings import NewtonLimits
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.system import System


class ManySteps:
    """The equations of a structure as functions of its vectors x (count, size).

    Attributes
    ----------
    last : Factored or None
        The equations as they were factorised for the last update.
    """

    last: Factored | None = None

    def __init__(self, structure: Structure, system: System) -> None:
        self._structure, self._system, self._topology = structure, system, structure.topology
        self.f = self._part(system.f, "f")
        self.g = None if system.g is None else self._part(system.g, "g")

    def _part(self, dynamics: Dynamics, name: str) -> Evaluation:
        places, node = self._topology.nodes[name]
        size = self._system.layout.size
        return Evaluation(
            dynamics,
            places,
            torch.from_numpy(self._structure.node_times(name)),
            node,
            np.empty((len(places), size)),
            np.empty((len(places), 0, 0, 0)),
        )

    def update(self, x: np.ndarray) -> np.ndarray:
        """(unknowns, size) the Newton update, to be subtracted from the unknowns."""
        if has_rows_in_c(self._structure):
            self._evaluate(x)
            values = [part.values for part in (self.f, self.g) if part is not None]
            jacobians = self._jacobians()
            self.last, update = FactoredInC.update(self._structure, self._system, *jacobians, values, x)
            return update
        residual = self.residual(x)
        self.last = FactoredBlocks.of(self._structure, self._system, *self._jacobians(), self.curvatures(x))
        shape = (len(residual), self._system.layout.samples, self._system.layout.width)
        return self.last.factors.solve(residual.reshape(shape)).reshape(residual.shape)

    def correction(self, x: np.ndarray, factored: Factored) -> np.ndarray:
        """(unknowns, size) the update with factors of another time, which needs no Jacobians.

        They are those of the same rows, of which none is Rosenbrock's.
        """
        parts = [part for part in (self.f, self.g) if part is not None]
        for part in parts:
            part.values = part.values_only(x)
        if isinstance(factored, FactoredInC):
            return factored.correction([part.values for part in parts], x)
        found = np.zeros((*x.shape, 1))
        factored.along(self._residual(x)[..., None], found)
        return found[self._topology.given :, :, 0]

    def residual(self, x: np.ndarray) -> np.ndarray:
        """(unknowns, size) R at the vectors x (count, size), where f and its Jacobians are evaluated."""
        self._evaluate(x)
        return self._residual(x)

    def _evaluate(self, x: np.ndarray) -> None:
        self.f.evaluate(x)
        if self.g is not None:
            self.g.evaluate(x)

    def matrix(self, x: np.ndarray) -> Matrix:
        """∂R/∂x at x (count, size), at which the residual was evaluated last."""
        return matrix_of(self._structure, self._system, *self._jacobians(), self.curvatures(x))

    def _jacobians(self) -> tuple[Jacobians, Jacobians | None]:
        at_f = Jacobians(self.f.blocks, self.f.node)
        return at_f, None if self.g is None else Jacobians(self.g.blocks, self.g.node)

    def slopes_at(self, x: np.ndarray) -> list[Slopes]:
        """The values of f and g at x (count, size), close to which they were evaluated last."""
        return [Slopes(part.at, part.values_at(x)) for part in (self.f, self.g) if part is not None]

    def is_jacobian_right(self) -> bool | None:
        """Whether the last two iterates say so of the Jacobians; None if they cannot tell."""
        found = [part.is_jacobian_right() for part in (self.f, self.g) if part is not None]
        return False if False in found else None if None in found else True

    def steps_lead_to(self, x: np.ndarray, weights: np.ndarray, error: float) -> bool:
        """Whether each step's own Newton iteration leads to x, as far as a few iterates show.

        The equations of a step may have several solutions, and an iteration on many steps may end at others
        than steps find that are taken one by one. So each stage that is solved for is begun from the vector
        before it, side by side, with all others as they are in x. ``weights``: (unknowns, size). ``error``:
        the size of the last update in these weights, by which f at x is uncertain.
        """
        entries, numbers, (entry, before) = (
            self._topology.entries,
            self._structure.coefficients,
            self._topology.solved,
        )
        if not len(entry):
            return True
        own, weighted, alpha = (part[entry] for part in (entries.column, entries.weighted, numbers.alpha))
        alpha, beta = alpha[:, None], numbers.beta[np.searchsorted(entries.with_beta, entry)][:, None]
        s, target, found = self.f.s[self.f.node[own]], x[own], self.f.values[self.f.node[own]]
        mass = np.eye(self._system.layout.width)[None]
        if self._system.mass is not None:
            mass = np.where(weighted[:, None, None, None], self._system.mass.blocks, mass)
        scale = weights[own - self._topology.given]

        def distance(v: np.ndarray) -> np.ndarray:
            return np.sqrt(np.mean(((v - target) / scale) ** 2, axis=1))

        v = x[before]
        near = np.maximum(NEAR * distance(v), 10 * error + 1)
        for _ in range(FEW_ITERATES):
            if (distance(v) <= near).all():
                return True
            slopes, blocks = (
                part.numpy() for part in self.f.dynamics.values_and_blocks(s, torch.from_numpy(v))
            )
            moved = v - target
            if self._system.mass is not None:
                moved = np.where(weighted[:, None], self._system.weigh(moved), moved)
            residual = alpha * moved - beta * (slopes - found)
            matrices = alpha[:, :, None, None] * mass - beta[:, :, None, None] * blocks
            update = np.linalg.solve(matrices, residual.reshape(*blocks.shape[:-1], 1))
            v = v - update.reshape(v.shape)
        return bool((distance(v) <= near).all())

    def solve(
        self, x: np.ndarray, limits: NewtonLimits, atol: np.ndarray, scale: np.ndarray, trusted: bool
    ) -> tuple[np.ndarray, int, float]:
        """Solve the equations by Newton's iteration.

        Returns x (count, size), the number of iterations, and the last update relative to the components.

        Parameters
        ----------
        x : ndarray
            (count, size) the initial guess. The given vectors are not changed.
        limits : NewtonLimits
        atol, scale : ndarray
            (unknowns, size) the absolute tolerance, and sizes of the components.
        trusted : bool
            Whether the guess is near the wanted solution. If not, or if the updates do not look so, the
            solution found is checked: each step's own iteration must lead to it.

        Raises
        ------
        StepsNotConvergedError
        """
        before, given = math.inf, self._topology.given
        # Without an index where all are tested: views cost less.
        tested = slice(None) if self._topology.tested.all() else self._topology.tested
        trusted = trusted or self._is_own_iteration(x)
        for iteration in range(1, MAX_ITERATIONS + 1):
            update = self.update(x)
            x = x.copy()
            x[given:] -= update
            change, state = np.abs(update[tested]), np.abs(x[given:][tested])
            weighted = change / (limits.rtol * state + atol[tested])
            size = math.sqrt(float(np.einsum("ij,ij->i", weighted, weighted).max()) / weighted.shape[1])
            if not size < DIVERGENCE * before:  # also true if size is NaN
                raise StepsNotConvergedError(iteration)
            contraction, before = size / before, size
            trusted = trusted and contraction < CLEAN
            converged = size <= 1 or (0 < contraction < 1 and size * contraction / (1 - contraction) <= 1)
            if not converged and contraction > 0.3:
                largest = state.max(axis=1, keepdims=True)
                converged = bool((change <= 1e-10 * state + ROUNDING_LEVEL * largest).all())
            if converged:
                if not trusted and not self.steps_lead_to(x, limits.rtol * np.abs(x[given:]) + atol, size):
                    raise StepsNotConvergedError(iteration)
                return x, iteration, relative_size(change, state, scale[tested])
        raise StepsNotConvergedError(MAX_ITERATIONS)

    def _is_own_iteration(self, x: np.ndarray) -> bool:
        """Whether an iteration from x is that of a step by itself: there is one, begun at the vector before.

        Then there is no other that :meth:`steps_lead_to` could look at.
        """
        entry, before = self._topology.solved
        return self._topology.unknowns == len(entry) == 1 and np.array_equal(x[-1], x[before[0]])

    def _residual(self, x: np.ndarray) -> np.ndarray:
        topology, system = self._topology, self._system
        linear = self._structure.of_vectors @ x
        if system.mass is not None:
            weighted = topology.entries.weighted[topology.diagonal]
            linear[weighted] = system.weigh(linear[weighted])
        for name, part in (("f", self.f), ("g", self.g)):
            if part is not None and len(part.at):
                linear -= self._structure.of_slopes_at_nodes(name) @ part.values
        if topology.brackets:
            linear -= self._brackets(x)
        return linear

    def _brackets(self, x: np.ndarray) -> np.ndarray:
        """(unknowns, size) the brackets J x + τ ∂f/∂s of Rosenbrock rows, with derivatives at old states."""
        topology, found = self._topology, np.zeros((self._topology.unknowns, x.shape[1]))
        for bracket in topology.brackets:
            block = self._structure.blocks[bracket.block]
            base, own = (topology.entries.column[part] for part in (bracket.base, bracket.own))
            nodes = self.f.node[base]
            jacobian = self.f.blocks[nodes]
            along = jacobian @ x[own].reshape(*jacobian.shape[:3], 1)
            wrt_s = self.f.dynamics.time_derivative(self.f.s[nodes], torch.from_numpy(x[base])).numpy()
            tau = block.numbers.tau[:, bracket.row.index, None].numpy()
            found[own - topology.given] = along.reshape(len(own), -1) + tau * wrt_s
        return found

    def curvatures(self, x: np.ndarray) -> list[Curvature | None]:
        """For each block the derivative of its Rosenbrock brackets; None for other methods."""
        curvatures: list[Curvature | None] = []
        for block, at in zip(self._structure.blocks, self._topology.positions, strict=True):
            pattern = block.pattern
            if not pattern.has_rosenbrock:
                curvatures.append(None)
                continue
            directions = {row.index: x[at[row.column]] for row in pattern.rows if row.rosenbrock}
            base = at[pattern.base]
            curvatures.append(
                Curvature(
                    self.f.dynamics,
                    self.f.s[self.f.node[base]],
                    torch.from_numpy(x[base]),
                    directions,
                    block.numbers.tau.numpy(),
                )
            )
        return curvatures
