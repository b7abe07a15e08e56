"""Tangents with respect to the end of the last step, which an event decides on."""

from __future__ import annotations

import numpy as np
import torch

from stiffml.discretization.equations import Equations, Nodes, Numbers
from stiffml.discretization.numbering import HALF, STAGE
from stiffml.gradients.tangent import linearize_both
from stiffml.gradients.tangent_steps import MovedNumbers, Parts, TangentStep, parts_of
from stiffml.gradients.tape import Tape
from stiffml.native.phi import moved_by_size, multiplied


def end_time_tangents(tape: Tape) -> dict[int, np.ndarray]:
    """d/d(end of the last step) of the states and outputs that this step computes, (size,) by number."""
    replay, system = tape.replay, tape.replay.system
    equations = replay.equations(tape.checkpoints.last_step(replay))
    (block,) = equations.blocks
    parts = parts_of(equations, system, *linearize_both(equations, replay))
    moved = torch.zeros_like(block.times)
    moved[:, block.pattern.history] = 1
    rates = Numbers(*torch.func.jvp(block.scheme.numbers, (block.times,), (moved,))[1])
    wrt_s = {name: d.time_derivative(nodes.s, nodes.u).numpy() for name, (_, d, nodes) in parts.items()}
    through = {
        name: (_node_rates(equations, name, nodes, rates)[:, None] * wrt_s[name])[..., None]
        for name, (_, _, nodes) in parts.items()
    }
    found = {name: np.empty((1, *wrt_s[name].shape)) for name in parts}
    numbers = _moved_numbers(equations, parts, rates, wrt_s["f"])
    step = TangentStep(equations, 0, system, parts, through, found, moved=numbers)
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


def _moved_numbers(equations: Equations, parts: Parts, rates: Numbers, wrt_s: np.ndarray) -> MovedNumbers:
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
        for c, phi in row.phi.items():
            jacobian, x = parts["f"][0], equations.column(block, c)
            of_alpha += float(rates.alpha[0, r, c]) * multiplied(jacobian, block, phi, x)[0]
            of_alpha += float(block.numbers.alpha[0, r, c]) * moved_by_size(jacobian, block, phi, x)[0]
        for name, rate, columns in (("f", rates.beta, of_f), ("g", rates.epsilon, row.epsilon)):
            for c in columns:
                of_slopes += float(rate[0, r, c]) * values[name][parts[name][2].index[0][c][0]]
        if row.rosenbrock:
            of_slopes += float(rates.tau[0, r]) * wrt_s[equations.f_nodes.index[0][pattern.base][0]]
        weighed.append(of_alpha)
        added.append(of_slopes)
    return MovedNumbers(weighed, added)
