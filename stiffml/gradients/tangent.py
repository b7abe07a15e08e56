"""Through the equations of a segment forwards: from tangents of u0 and θ to those of all states and stages.

For each row the linearised equation (α L − β J) ẋ = −L Σ α_c ẋ_c + Σ β_c ḟ_c + Σ ε_c ġ_c + β ∂f/∂θ θ̇ with
ḟ_c = J_c ẋ_c + ∂f/∂θ θ̇, for P tangents at once with the same factors (the staggered direct method of
Caracotsios & Stewart, Comput. Chem. Eng. 9 (1985), here for the discrete equations themselves).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.equations import HALF, STAGE, Equations, Nodes, Numbers, Row
from stiffml.discretization.interpolation import Reading
from stiffml.gradients.adjoint import last_state, linearize, longest_segment
from stiffml.native.replay import Replay
from stiffml.run.checkpoints import Checkpoints
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.linearization import Linearization

Direction = Sequence[Tensor | None]
"""For each parameter of a system the change θ̇, or None for no change."""


@dataclass(frozen=True)
class Tangents:
    """Of the nodes of a segment: ẋ (P, M, size) at those of f and of g."""

    f: np.ndarray
    g: np.ndarray | None


class TangentSweep:
    """Tangents along a run.

    Parameters
    ----------
    replay : Replay
    u0 : ndarray
        (P, size) tangents of the initial state.
    parameters : sequence of Direction
        P changes of the parameters.

    Attributes
    ----------
    states : dict of int to ndarray
        Tangents (P, size) by the number of the state, as far as swept.
    """

    def __init__(self, replay: Replay, u0: np.ndarray, parameters: Sequence[Direction]) -> None:
        if replay.method.time_is_state:
            raise NotImplementedError(
                f"forward sensitivities and second derivatives are not available for {replay.method}, whose "
                "step contains a Jacobian; use a theta, BDF, DIRK, ARKIMEX or explicit method"
            )
        system = replay.system
        if system.mass_has_gradient and any(direction[-1] is not None for direction in parameters):
            raise NotImplementedError(
                "forward sensitivities and second derivatives with respect to the mass matrix are not "
                "available"
            )
        self._replay = replay
        self._parameters = [direction[: len(system.f.parameters)] for direction in parameters]
        self.states: dict[int, np.ndarray] = {0: u0}

    def run(self, checkpoints: Checkpoints, last: int) -> None:
        """Sweep all steps up to a state."""
        replay = self._replay
        longest = longest_segment(replay)
        for segment in checkpoints.forwards(replay, last, longest):
            segment = replay.with_stages(segment)
            equations = Equations(segment, replay.blocks(segment))
            f, g = linearize_both(equations, replay)
            self.segment(equations, f, g)

    def output(self, reading: Reading) -> np.ndarray:
        """The tangents (P, size) of an output."""
        pairs = zip(reading.weights.tolist(), reading.states.tolist(), strict=True)
        return np.asarray(sum(weight * self.states[state] for weight, state in pairs))

    def segment(self, equations: Equations, f: Linearization, g: Linearization | None) -> Tangents:
        """Sweep one segment, from the tangents of the states that it starts from."""
        system = self._replay.system
        parts = {"f": (f, system.f, equations.f_nodes)}
        if g is not None and system.g is not None:
            parts["g"] = (g, system.g, equations.g_nodes)
        through = {name: self._through_parameters(d, nodes) for name, (_, d, nodes) in parts.items()}
        found = {name: np.zeros_like(values) for name, values in through.items()}
        for number, block in enumerate(equations.blocks):
            step = _Step(equations, number, system, parts, through, found)
            for k in range(block.steps):
                step.take(k, self.states)
        for name, (_, _, nodes) in parts.items():
            for m in np.flatnonzero(nodes.states != STAGE):
                found[name][:, m] = self.states[int(nodes.states[m])]
        return Tangents(found["f"], found.get("g"))

    def _through_parameters(self, dynamics: Dynamics, nodes: Nodes) -> np.ndarray:
        """∂f/∂θ θ̇ at the nodes, (P, M, size)."""
        return dynamics.jvps(nodes.s, nodes.u, self._parameters).numpy()


def linearize_both(equations: Equations, replay: Replay) -> tuple[Linearization, Linearization | None]:
    """The Jacobians of f and g at the nodes of a segment."""
    method, system = replay.method, replay.system
    f = linearize(equations.f_nodes, method.implicit, system.f, replay)
    return f, None if system.g is None else linearize(equations.g_nodes, False, system.g, replay)


class _Step:
    """One step of a block, forwards."""

    def __init__(self, equations: Equations, number: int, system, parts, through, found) -> None:
        self.block, self.system = equations.blocks[number], system
        self.parts, self.through, self.found = parts, through, found
        self.index = {name: nodes.index[number] for name, (_, _, nodes) in parts.items()}
        numbers = self.block.numbers
        self.alpha, self.beta, self.epsilon = (
            values.tolist() for values in (numbers.alpha, numbers.beta, numbers.epsilon)
        )

    def take(self, k: int, states: dict[int, np.ndarray]) -> None:
        block, pattern = self.block, self.block.pattern
        self.x: dict[int, np.ndarray] = {c: states[int(block.known[k, c])] for c in range(pattern.history)}
        for row in pattern.rows:
            self.x[row.column] = value = self._solve(row, k)
            held = block.state_of(row.column)
            if held is not None:
                states[int(held[k])] = value
            else:
                for name, index in self.index.items():
                    where = index.get(row.column)
                    if where is not None:
                        self.found[name][:, where[k]] = value

    def _solve(self, row: Row, k: int) -> np.ndarray:
        alpha, beta, epsilon = self.alpha[k][row.index], self.beta[k][row.index], self.epsilon[k][row.index]
        total = -sum(alpha[c] * self.x[c] for c in row.alpha)
        if row.weighted:
            total = self.system.weigh(total)
        for c in row.beta:
            total = total + beta[c] * self._slope("f", c, k)
        for c in row.epsilon:
            total = total + epsilon[c] * self._slope("g", c, k)
        own = row.column
        if not row.solves:
            return total if row.output else total / alpha[own]
        node = int(self.index["f"][own][k])
        total = total + beta[own] * self.through["f"][:, node]
        return self.parts["f"][0].solve(node, alpha[own], beta[own], total)

    def _slope(self, name: str, c: int, k: int) -> np.ndarray:
        """ḟ or ġ at a column."""
        node = int(self.index[name][c][k])
        return self.parts[name][0].apply(node, self.x[c]) + self.through[name][:, node]


def output_tangents(
    replay: Replay,
    checkpoints: Checkpoints,
    readings: Sequence[Reading],
    u0: np.ndarray,
    parameters: Sequence[Direction],
) -> Tensor:
    """Tangents of the outputs, (n_outputs, P, size)."""
    sweep = TangentSweep(replay, u0, parameters)
    sweep.run(checkpoints, last_state(readings))
    return torch.from_numpy(np.stack([sweep.output(reading) for reading in readings]))


def end_time_tangents(replay: Replay, checkpoints: Checkpoints) -> dict[int, np.ndarray]:
    """How the states and outputs that a run's last step finds move with its end, (size,) by their numbers."""
    trajectory, system = replay.trajectory, replay.system
    segment = replay.with_stages(next(iter(checkpoints.segments(replay, trajectory.n_steps, 1))))
    equations = Equations(segment, replay.blocks(segment))
    (block,) = equations.blocks
    pattern, numbers = block.pattern, block.numbers
    f, g = linearize_both(equations, replay)
    moved = torch.zeros_like(block.times)
    moved[:, pattern.history] = 1
    rates = Numbers(*torch.func.jvp(block.scheme.numbers, (block.times,), (moved,))[1])
    parts = {"f": (f, system.f, equations.f_nodes, numbers.beta, rates.beta, rates.s_f)}
    if g is not None and system.g is not None:
        parts["g"] = (g, system.g, equations.g_nodes, numbers.epsilon, rates.epsilon, rates.s_g)
    values = {name: d.evaluate_many(n.s, n.u).numpy() for name, (_, d, n, *_) in parts.items()}
    wrt_s = {name: d.time_derivative(n.s, n.u).numpy() for name, (_, d, n, *_) in parts.items()}
    size = system.layout.size
    x = {c: np.zeros(size) for c in range(pattern.history)}

    def node_rate(name: str, c: int) -> float:
        states = block.state_of(c)
        if states is None:
            return float(parts[name][5][0, c])
        return {HALF: 0.5, segment.last: 1.0}.get(int(states[0]), 0.0)

    for row in pattern.rows:
        r, own = row.index, row.column
        total = np.zeros(size)
        for c, column in equations.moved_by_alpha(block, row):
            total -= float(rates.alpha[0, r, c]) * column[0]
        for c in row.alpha:
            total -= float(numbers.alpha[0, r, c]) * x[c]
        if row.weighted:
            total = system.weigh(total)
        for name, (jacobian, _, nodes, weights, weight_rates, _) in parts.items():
            others = row.beta if name == "f" else row.epsilon
            for c in (*others, *([own] if name == "f" and row.solves else [])):
                m = int(nodes.index[0][c][0])
                weight = float(weights[0, r, c])
                total = total + float(weight_rates[0, r, c]) * values[name][m]
                total = total + weight * node_rate(name, c) * wrt_s[name][m]
                if c != own:
                    total = total + weight * jacobian.apply(m, x[c])
        if row.output:
            x[own] = total
            continue
        alpha = float(numbers.alpha[0, r, own])
        if row.solves:
            m = int(equations.f_nodes.index[0][own][0])
            x[own] = f.solve(m, alpha, float(numbers.beta[0, r, own]), total)
        elif row.rosenbrock:
            m = int(equations.f_nodes.index[0][pattern.base][0])
            x[own] = f.solve(m, alpha, 1.0, total + float(rates.tau[0, r]) * wrt_s["f"][m])
        else:
            x[own] = total / alpha
    held = {c: block.state_of(c) for c in range(pattern.history, pattern.columns)}
    return {int(states[0]): x[c] for c, states in held.items() if states is not None}
