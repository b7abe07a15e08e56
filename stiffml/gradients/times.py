"""The gradient with respect to step ends: through the coefficients of steps and the times of their nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.equations import Block, Equations, Nodes
from stiffml.discretization.interpolation import Reading
from stiffml.discretization.numbering import STAGE, is_half, is_output, output_state, start_of_half
from stiffml.discretization.trajectory import Trajectories, Trajectory
from stiffml.native.phi import moved_by_size, multiplied
from stiffml.system.derivatives.linearization import Linearization
from stiffml.system.system import System


class AtNodes(NamedTuple):
    """One part of the right-hand side, f or g, at its M nodes.

    ``slopes`` (M, size) are its values, ``wrt_s`` (M,) is dL/d(node times).
    """

    nodes: Nodes
    slopes: np.ndarray
    wrt_s: np.ndarray


class TimeGradient:
    """dL/d(step ends) of one or several trajectories, accumulated segment by segment.

    Attributes
    ----------
    boundaries : ndarray
        (states,) dL/d(times of all states).
    ends : ndarray
        (2,) dL/d(first and last time of the solve), through stages whose times lie outside the solve.
    """

    def __init__(self, trajectory: Trajectory | Trajectories) -> None:
        self.boundaries = np.zeros(trajectory.n_steps + 1)
        self.ends = np.zeros(2)
        self._outputs: dict[int, float] = {}  # by their numbers as states

    def add(self, states: np.ndarray, values: np.ndarray) -> None:
        """Add dL/d(times of states): ``values`` (N,) for the states or half steps ``states`` (N,)."""
        half = is_half(states)
        np.add.at(self.boundaries, states[~half], values[~half])
        for later in (0, 1):  # the time of the half step is the mean of the first step's ends
            np.add.at(self.boundaries, start_of_half(states[half]) + later, values[half] / 2)

    def add_readings(self, readings: Sequence[Reading], cotangents: np.ndarray) -> np.ndarray:
        """Add the gradient through the interpolation weights of outputs between step ends.

        ``cotangents`` (n_outputs, size) are dL/dy. Returns dL/d(times of the outputs between step ends).
        """
        between = []
        for reading, cotangent in zip(readings, cotangents, strict=True):
            if is_output(int(reading.states[0])):
                between.append(self._outputs.get(int(reading.states[0]), 0.0))
            elif reading.s is not None:
                wrt_times, wrt_s = reading.time_gradient(cotangent)
                self.add(reading.states, wrt_times)
                between.append(wrt_s)
        return np.array(between)

    def add_nodes(self, at: AtNodes) -> None:
        """Add the gradient through the times at which f or g was evaluated at states.

        The times of stages are coefficients: :meth:`add_block` handles those.
        """
        states = at.nodes.states
        self.add(states[states != STAGE], at.wrt_s[states != STAGE])

    def add_block(
        self,
        equations: Equations,
        number: int,
        system: System,
        multipliers: np.ndarray,
        f: AtNodes,
        g: AtNodes | None,
        wrt_tau: np.ndarray | None,
        jacobian: Linearization | None = None,
    ) -> None:
        """Add the gradient through the coefficients of a block, which torch differentiates by the times.

        The residual of a row is L Σ α x − Σ β f − Σ ε g − [J y + τ ∂f/∂s]. With its multiplier w,
        dL/dα_c = −w·L x_c, dL/dβ_c = w·f(x_c) and dL/dε_c = w·g(x_c). Where φ multiplies α_c,
        dL/dα_c = −w·φ x_c, and dL/dh = −α_c w·dφ/dh x_c besides.

        Parameters
        ----------
        equations : Equations
        number : int
            The number of the block.
        system : System
        multipliers : ndarray
            (rows, steps, size)
        f, g : AtNodes
            g is None if the problem is not split.
        wrt_tau : ndarray or None
            (steps, rows) dL/dτ of a Rosenbrock method.
        jacobian : Linearization, optional
            That of the φ-functions of an exponential method.
        """
        block = equations.blocks[number]
        times, numbers = block.differentiable_numbers()
        cotangents = [torch.zeros_like(values) for values in numbers]
        wrt_alpha, wrt_beta, wrt_epsilon, wrt_s_f, wrt_s_g, to_tau = cotangents
        for row in block.pattern.rows:
            r, w = row.index, multipliers[row.index]
            weighed = system.weigh(w, transpose=True) if row.weighted else w
            for c, x in equations.moved_by_alpha(block, row):
                wrt_alpha[:, r, c] = -_products(weighed, x)
            for c, phi in row.phi.items():
                assert jacobian is not None
                x = equations.column(block, c)
                wrt_alpha[:, r, c] = -_products(w, multiplied(jacobian, block, phi, x))
                wrt_h = numbers.alpha[:, r, c].detach() * _products(w, moved_by_size(jacobian, block, phi, x))
                self.add(block.known[:, block.pattern.base], wrt_h.numpy())
                self.add(block.which + 1, -wrt_h.numpy())
            for c in (*row.beta, *([row.column] if row.solves else [])):
                wrt_beta[:, r, c] = _products(w, f.slopes[f.nodes.index[number][c]])
            for c in row.epsilon if g is not None else ():
                assert g is not None
                wrt_epsilon[:, r, c] = _products(w, g.slopes[g.nodes.index[number][c]])
        for at, wrt_s in ((f, wrt_s_f), (g, wrt_s_g)):
            for c in block.pattern.stages if at is not None else ():
                assert at is not None
                where = at.nodes.index[number].get(c)
                if where is not None:
                    wrt_s[:, c] = torch.from_numpy(at.wrt_s[where])
        if wrt_tau is not None:
            to_tau.copy_(torch.from_numpy(wrt_tau))
        self._through(block, times, list(numbers), cotangents)

    def _through(self, block: Block, times: Tensor, numbers: list[Tensor], cotangents: list[Tensor]) -> None:
        moving = [(n, c) for n, c in zip(numbers, cotangents, strict=True) if n.requires_grad]
        (gradient,) = torch.autograd.grad([n for n, _ in moving], times, [c for _, c in moving])
        values, history = gradient.numpy(), block.pattern.history
        for c in range(history):
            self.add(block.known[:, c], values[:, c])
        self.add(block.which + 1, values[:, history])
        for which, wrt_s in zip(block.outputs, values[:, history + 1 :], strict=True):
            self._outputs.update(zip(output_state(which).tolist(), wrt_s.tolist(), strict=True))


def _products(a: np.ndarray, b: np.ndarray) -> Tensor:
    """Scalar products of rows: (K, size), (K, size) -> (K,)."""
    return torch.from_numpy(np.einsum("ks,ks->k", a, b))
