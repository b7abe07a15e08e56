"""The forward sweep: from tangents of u0 and θ to tangents of all states and stages.

Each row is linearised: (α L − β J) ẋ = −L Σ α_c ẋ_c + Σ β_c ḟ_c + Σ ε_c ġ_c + β ∂f/∂θ θ̇, with
ḟ_c = J_c ẋ_c + ∂f/∂θ θ̇. P tangents are solved for at once with the same factors.

Source: the staggered direct method of Caracotsios & Stewart, Comput. Chem. Eng. 9 (1985), here applied to the
discrete equations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.equations import Equations, Nodes, Numbers, Row
from stiffml.discretization.interpolation import Reading
from stiffml.discretization.numbering import HALF, STAGE
from stiffml.gradients.adjoint import last_state, linearize, longest_segment
from stiffml.gradients.tape import Tape
from stiffml.native.replay import Replay
from stiffml.run.checkpoints import Checkpoints
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.linearization import Linearization
from stiffml.system.system import System

Parts = dict[str, tuple[Linearization, Dynamics, Nodes]]
"""f, and g if there is one, by name: the Jacobians at the nodes, the function, and the nodes."""

Direction = Sequence[Tensor | None]
"""The tangent θ̇ of each parameter of a system; None for zero."""


@dataclass(frozen=True)
class Tangents:
    """The tangents ẋ (P, M, size) at the nodes of f and of g in a segment."""

    f: np.ndarray
    g: np.ndarray | None


class TangentSweep:
    """Computes P tangents along a run.

    Parameters
    ----------
    replay : Replay
    u0 : ndarray
        (P, size) tangents of the initial state; for several trajectories (P, trajectories · size).
    parameters : sequence of Direction
        P tangents of the parameters.

    Attributes
    ----------
    states : dict of int to ndarray
        The tangents (P, size) of the states reached so far, by number.

    Raises
    ------
    NotImplementedError
        For Rosenbrock methods, and for tangents of a mass matrix.
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
        starts = replay.trajectory.starts.tolist()
        self.states: dict[int, np.ndarray] = dict(zip(starts, np.split(u0, len(starts), axis=1), strict=True))

    def run(self, checkpoints: Checkpoints, last: int) -> None:
        """Sweep all steps up to state ``last``."""
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
        """Sweep one segment; ``states`` must have the tangents of the states that it starts from."""
        system = self._replay.system
        parts = _parts(equations, system, f, g)
        through = {name: self._through_parameters(d, nodes) for name, (_, d, nodes) in parts.items()}
        found = {name: np.zeros_like(values) for name, values in through.items()}
        for number, block in enumerate(equations.blocks):
            step = _TangentStep(equations, number, system, parts, through, found)
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


def _parts(equations: Equations, system: System, f: Linearization, g: Linearization | None) -> Parts:
    parts = {"f": (f, system.f, equations.f_nodes)}
    if g is not None and system.g is not None:
        parts["g"] = (g, system.g, equations.g_nodes)
    return parts


@dataclass(frozen=True)
class _MovedNumbers:
    """For each row of a step its derivative through the coefficients α, β, ε and τ.

    ``weighed`` (size,) is the part that L multiplies, ``added`` (size,) the other part.
    """

    weighed: list[np.ndarray]
    added: list[np.ndarray]


class _TangentStep:
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
        By name, (P, M, size) the direct change of f and g at their nodes, without that of the states.
    found : dict
        By name, (P, M, size), to be filled with the tangents of the stages.
    moved : _MovedNumbers, optional
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
        moved: _MovedNumbers | None = None,
    ) -> None:
        self.block, self.system = equations.blocks[number], system
        self.parts, self.through, self.found, self.moved = parts, through, found, moved
        self.index = {name: nodes.index[number] for name, (_, _, nodes) in parts.items()}
        numbers = self.block.numbers
        self.alpha, self.beta, self.epsilon = (
            values.tolist() for values in (numbers.alpha, numbers.beta, numbers.epsilon)
        )

    def take(self, k: int, states: dict[int, np.ndarray]) -> None:
        """Compute the tangents of step ``k`` of the block; those of new states go to ``states``."""
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
        if self.moved is not None:
            total = total - self.moved.weighed[row.index]
        if row.weighted:
            total = self.system.weigh(total)
        if self.moved is not None:
            total = total + self.moved.added[row.index]
        for c in row.beta:
            total = total + beta[c] * self._slope("f", c, k)
        for c in row.epsilon:
            total = total + epsilon[c] * self._slope("g", c, k)
        own = row.column
        if row.rosenbrock:  # only end_time_tangents gets here: there the old state and its Jacobian are fixed
            base = int(self.index["f"][self.block.pattern.base][k])
            return self.parts["f"][0].solve(base, alpha[own], 1.0, total)
        if not row.solves:
            return total if row.output else total / alpha[own]
        node = int(self.index["f"][own][k])
        total = total + beta[own] * self.through["f"][:, node]
        return self.parts["f"][0].solve(node, alpha[own], beta[own], total)

    def _slope(self, name: str, c: int, k: int) -> np.ndarray:
        """ḟ or ġ (P, size) at a column of step ``k``."""
        node = int(self.index[name][c][k])
        return self.parts[name][0].apply(node, self.x[c]) + self.through[name][:, node]


def output_tangents(tape: Tape, u0: np.ndarray, parameters: Sequence[Direction]) -> Tensor:
    """The tangents (n_outputs, P, size) of the outputs, from those of u0 (P, size) and of the parameters."""
    sweep = TangentSweep(tape.replay, u0, parameters)
    sweep.run(tape.checkpoints, last_state(tape.readings))
    return torch.from_numpy(np.stack([sweep.output(reading) for reading in tape.readings]))


def end_time_tangents(tape: Tape) -> dict[int, np.ndarray]:
    """d/d(end of the last step) of the states and outputs that this step computes, (size,) by number."""
    replay, system = tape.replay, tape.replay.system
    segment = replay.with_stages(tape.checkpoints.last_step(replay))
    equations = Equations(segment, replay.blocks(segment))
    (block,) = equations.blocks
    parts = _parts(equations, system, *linearize_both(equations, replay))
    moved = torch.zeros_like(block.times)
    moved[:, block.pattern.history] = 1
    rates = Numbers(*torch.func.jvp(block.scheme.numbers, (block.times,), (moved,))[1])
    wrt_s = {name: d.time_derivative(nodes.s, nodes.u).numpy() for name, (_, d, nodes) in parts.items()}
    through = {
        name: (_node_rates(equations, name, nodes, rates)[:, None] * wrt_s[name])[None]
        for name, (_, _, nodes) in parts.items()
    }
    found = {name: np.empty_like(values) for name, values in through.items()}
    numbers = _moved_numbers(equations, parts, rates, wrt_s["f"])
    step = _TangentStep(equations, 0, system, parts, through, found, numbers)
    begin = {state: np.zeros((1, system.layout.size)) for state in block.known[0].tolist()}
    states = dict(begin)
    step.take(0, states)
    return {state: tangent[0] for state, tangent in states.items() if state not in begin}


def _node_rates(equations: Equations, name: str, nodes: Nodes, rates: Numbers) -> np.ndarray:
    """(M,) d(node times)/d(step end), for a segment of one step."""
    moving = {HALF: 0.5, equations.segment.last: 1.0}
    found = np.array([moving.get(state, 0.0) for state in nodes.states.tolist()])
    of_columns = rates.s_f if name == "f" else rates.s_g
    for column, which in nodes.index[0].items():
        if nodes.states[which[0]] == STAGE:
            found[which[0]] = float(of_columns[0, column])
    return found


def _moved_numbers(equations: Equations, parts: Parts, rates: Numbers, wrt_s: np.ndarray) -> _MovedNumbers:
    """The derivative of the rows of a single step through its coefficients.

    ``rates`` are the derivatives of α, β, ε and τ. ``wrt_s`` (M, size) is ∂f/∂s at the nodes.
    """
    (block,) = equations.blocks
    pattern, weighed, added = block.pattern, [], []
    values = {name: d.evaluate_many(nodes.s, nodes.u).numpy() for name, (_, d, nodes) in parts.items()}
    for row in pattern.rows:
        r, of_alpha, of_slopes = row.index, np.zeros(equations.size), np.zeros(equations.size)
        for c, column in equations.moved_by_alpha(block, row):
            of_alpha += float(rates.alpha[0, r, c]) * column[0]
        of_f = [*row.beta, *([row.column] if row.solves else [])]
        for name, rate, columns in (("f", rates.beta, of_f), ("g", rates.epsilon, row.epsilon)):
            for c in columns:
                of_slopes += float(rate[0, r, c]) * values[name][parts[name][2].index[0][c][0]]
        if row.rosenbrock:
            of_slopes += float(rates.tau[0, r]) * wrt_s[equations.f_nodes.index[0][pattern.base][0]]
        weighed.append(of_alpha)
        added.append(of_slopes)
    return _MovedNumbers(weighed, added)
