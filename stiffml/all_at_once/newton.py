"""Newton's iteration on the equations of many steps at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from stiffml.all_at_once.matrix import Jacobians, matrix_of
from stiffml.all_at_once.structure import Structure
from stiffml.all_at_once.triangular import factorise
from stiffml.settings import NewtonLimits
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.system import System

MAX_ITERATIONS = 15
"""Largest number of iterations: beyond it, solving the steps one by one is faster."""

DIVERGENCE = 1e4
"""The iteration has failed if an update is this many times larger than the previous one."""

ROUNDING_LEVEL = 1e-13
"""Updates below this fraction of the largest component of a vector count as rounding error if they stall."""


@dataclass
class Evaluation:
    """f or g with the M vectors at which it is evaluated, and its values there.

    Attributes
    ----------
    dynamics : Dynamics
    at : ndarray
        (M,) int, positions of the vectors.
    s : Tensor
        (M,) their times.
    node : ndarray
        (count,) int, from positions to rows of ``values`` and ``blocks``.
    values : ndarray
        (M, size) f or g at the vectors.
    blocks : ndarray
        (M, samples, width, width) the Jacobians there.
    """

    dynamics: Dynamics
    at: np.ndarray
    s: torch.Tensor
    node: np.ndarray
    values: np.ndarray
    blocks: np.ndarray

    def evaluate(self, x: np.ndarray) -> None:
        """Evaluate f and its Jacobians at the vectors ``x`` (count, size)."""
        if len(self.at):
            values, blocks = self.dynamics.values_and_blocks(self.s, torch.from_numpy(x[self.at]))
            self.values, self.blocks = values.numpy(), blocks.numpy()


class NotConvergedError(Exception):
    """The iteration did not converge within ``iterations`` iterations."""

    def __init__(self, iterations: int) -> None:
        super().__init__(f"no convergence after {iterations} iterations")
        self.iterations = iterations


class Equations:
    """The equations of a structure as functions of its vectors x (count, size).

    ``times`` (count,) are the times of the vectors that are states or half steps.
    """

    def __init__(self, structure: Structure, system: System, times: np.ndarray) -> None:
        self._structure, self._system = structure, system
        self.f = self._part(system.f, "f", times)
        self.g = None if system.g is None else self._part(system.g, "g", times)
        self.tested = self._tested()

    def _part(self, dynamics: Dynamics, name: str, times: np.ndarray) -> Evaluation:
        structure, s = self._structure, times.copy()
        wanted = np.zeros(structure.count, dtype=bool)
        for block, at in zip(structure.blocks, structure.positions, strict=True):
            pattern = block.pattern
            for c in np.flatnonzero(getattr(pattern, f"evaluates_{name}")).tolist():
                wanted[at[c]] = True
                if block.state_of(c) is None:
                    s[at[c]] = getattr(block.numbers, f"s_{name}")[:, c].numpy()
            if name == "f" and pattern.has_rosenbrock:
                wanted[at[pattern.base]] = True
        places, size = np.flatnonzero(wanted), self._system.layout.size
        return Evaluation(
            dynamics,
            places,
            torch.from_numpy(s[places]),
            np.cumsum(wanted) - 1,
            np.empty((len(places), size)),
            np.empty((len(places), 0, 0, 0)),
        )

    def _tested(self) -> np.ndarray:
        """(unknowns,) bool: the unknowns whose updates are tested, states and implicit stages."""
        structure = self._structure
        tested = np.zeros(structure.count, dtype=bool)
        for block, at in zip(structure.blocks, structure.positions, strict=True):
            for row in block.pattern.rows:
                if row.solves or block.state_of(row.column) is not None:
                    tested[at[row.column]] = True
        return tested[structure.given :]

    def update(self, x: np.ndarray) -> np.ndarray:
        """(unknowns, size) the Newton update, to be subtracted from the unknowns."""
        structure, system = self._structure, self._system
        self.f.evaluate(x)
        if self.g is not None:
            self.g.evaluate(x)
        curvatures = self._curvatures(x)
        residual = self._residual(x)
        inner, _ = matrix_of(
            structure, system, Jacobians(self.f.blocks, self.f.node), self._at_g(), curvatures
        )
        factors = factorise(inner, structure.unknowns, structure.reach)
        shape = (structure.unknowns, system.layout.samples, system.layout.width)
        return factors.solve(residual.reshape(shape)).reshape(residual.shape)

    def _at_g(self) -> Jacobians | None:
        return None if self.g is None else Jacobians(self.g.blocks, self.g.node)

    def _residual(self, x: np.ndarray) -> np.ndarray:
        structure, system = self._structure, self._system
        linear = np.zeros((structure.count, x.shape[1]))
        weighted = np.zeros(structure.count, dtype=bool)
        slopes = np.zeros_like(linear)
        for entry in structure.entries:
            weighted[entry.row] = entry.of.weighted
            # Within an entry no row occurs twice, so += with index arrays misses nothing.
            if entry.alpha.any():
                linear[entry.row] += entry.alpha[:, None] * x[entry.column]
            if entry.beta.any():
                slopes[entry.row] += entry.beta[:, None] * self.f.values[self.f.node[entry.column]]
            if self.g is not None and entry.epsilon.any():
                slopes[entry.row] += entry.epsilon[:, None] * self.g.values[self.g.node[entry.column]]
        if system.mass is not None:
            linear[weighted] = system.weigh(linear[weighted])
        for number, block in enumerate(structure.blocks):
            if block.pattern.has_rosenbrock:
                self._add_brackets(number, x, slopes)
        return (linear - slopes)[structure.given :]

    def _add_brackets(self, number: int, x: np.ndarray, slopes: np.ndarray) -> None:
        """Add the brackets J x + τ ∂f/∂s of Rosenbrock rows, with J and ∂f/∂s at the old states."""
        block, at = self._structure.blocks[number], self._structure.positions[number]
        base = at[block.pattern.base]
        nodes = self.f.node[base]
        jacobian = self.f.blocks[nodes]
        wrt_s = self.f.dynamics.time_derivative(self.f.s[nodes], torch.from_numpy(x[base])).numpy()
        samples = (block.steps, *jacobian.shape[1:3], 1)
        for row in block.pattern.rows:
            if row.rosenbrock:
                own = at[row.column]
                along = (jacobian @ x[own].reshape(samples)).reshape(block.steps, -1)
                slopes[own] += along + block.numbers.tau[:, row.index, None].numpy() * wrt_s

    def _curvatures(self, x: np.ndarray) -> list[Curvature | None]:
        curvatures: list[Curvature | None] = []
        for block, at in zip(self._structure.blocks, self._structure.positions, strict=True):
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


def solve(
    equations: Equations, x: np.ndarray, given: int, limits: NewtonLimits, scale: np.ndarray
) -> tuple[np.ndarray, int]:
    """Solve the equations by Newton's iteration; return x (count, size) and the number of iterations.

    Parameters
    ----------
    equations : Equations
    x : ndarray
        (count, size) the initial guess.
    given : int
        The first ``given`` vectors are not changed.
    limits : NewtonLimits
    scale : ndarray
        (unknowns, size): without ``limits.atol`` the absolute tolerance is 0.01 · rtol times this.

    Raises
    ------
    NotConvergedError
    """
    tested, before = equations.tested, math.inf
    atol = 0.01 * limits.rtol * scale + 1e-250 if limits.atol is None else limits.atol + 0 * scale
    for iteration in range(1, MAX_ITERATIONS + 1):
        update = equations.update(x)
        x = x.copy()
        x[given:] -= update
        change, state = np.abs(update[tested]), np.abs(x[given:][tested])
        weights = limits.rtol * state + atol[tested]
        size = math.sqrt(float(np.mean((change / weights) ** 2, axis=1).max()))
        if not size < DIVERGENCE * before:  # also true if size is NaN
            raise NotConvergedError(iteration)
        contraction, before = size / before, size
        # The next update is expected to be smaller by at least the same factor.
        if size <= 1 or (0 < contraction < 1 and size * contraction / (1 - contraction) <= 1):
            return x, iteration
        largest = state.max(axis=1, keepdims=True)
        if contraction > 0.3 and bool((change <= 1e-10 * state + ROUNDING_LEVEL * largest).all()):
            return x, iteration
    raise NotConvergedError(MAX_ITERATIONS)
