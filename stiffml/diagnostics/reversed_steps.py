"""The reverse sweep step by step, what each step adds to the gradient taken apart by modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.diagnostics.eigen import Modes, modes_of
from stiffml.diagnostics.stability import factors_of
from stiffml.discretization.equations import Equations
from stiffml.gradients.directions import Along
from stiffml.gradients.linearized import curvatures_of, last_state, linearize
from stiffml.gradients.sweep import Pending, sweep
from stiffml.gradients.tape import Tape


@dataclass(frozen=True)
class Step:
    """One step: eigenvalues and factors (samples, width), and contributions (samples, width, P)."""

    number: int
    end: float
    size: float
    values: np.ndarray
    rounding: np.ndarray
    condition: np.ndarray
    amplification: np.ndarray
    derivative: np.ndarray
    forced: np.ndarray
    contribution: np.ndarray


def steps_backwards(tape: Tape, cotangents: Tensor, directions: Along) -> Iterator[Step]:
    """The steps from the last to the first, each reversed by itself."""
    replay, readings = tape.replay, tape.readings
    system, method = replay.system, replay.method
    layout, mass = system.layout, system.mass
    masses = None if mass is None else np.broadcast_to(mass.blocks, (layout.samples, *mass.blocks.shape[1:]))
    pending = Pending()
    for reading, row in zip(readings, cotangents.numpy(), strict=True):
        pending.read(reading, row)
    for segment in tape.checkpoints.segments(replay, last_state(readings), 1):
        equations = replay.equations(segment)
        f = linearize(equations.f_nodes, method.implicit, system.f, replay)
        curvatures = curvatures_of(equations, system.f)
        swept = sweep(equations, system, f, None, curvatures, pending, with_multipliers=True)
        if method.implicit:
            replay.solver.release_jacobian()
        pairs = [(swept.f, directions.through(system.f, equations.f_nodes.s, equations.f_nodes.u))]
        for curvature, multipliers in zip(curvatures, swept.multipliers, strict=True):
            if curvature is not None:
                pairs += [(multipliers[r], d) for r, d in directions.through_brackets(curvature).items()]
        yield _taken_apart(equations, system.f.jacobian_blocks, masses, pairs, layout.samples)


def _taken_apart(
    equations: Equations,
    jacobian_blocks: Callable[[Tensor, Tensor], Tensor],
    masses: np.ndarray | None,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    samples: int,
) -> Step:
    """A step from pairs of multipliers (M, size) and changes of f (M, size, P), whose products are summed."""
    (block,), segment = equations.blocks, equations.segment
    number = segment.first
    end = segment.times_at(np.array([number + 1]))
    blocks = jacobian_blocks(torch.from_numpy(end), torch.from_numpy(segment.states[-1:])).numpy()[0]
    found = [modes_of(b, None if masses is None else masses[i]) for i, b in enumerate(blocks)]
    width = blocks.shape[-1]
    shape = (samples, width)
    factors = np.full((3, *shape), np.nan + 0j)
    contribution = np.zeros((*shape, pairs[0][1].shape[-1]))
    for i, modes in enumerate(found):
        own = factors_of(block, modes.values[None, : modes.finite])
        factors[:, i, : modes.finite] = own.amplification[0], own.derivative[0], own.forced[0]
        for multipliers, changes in pairs:
            left = multipliers.reshape(len(multipliers), *shape)[:, i]
            right = changes.reshape(len(changes), *shape, -1)[:, i]
            contribution[i] += _by_mode(modes, None if masses is None else masses[i], left, right)
    return Step(
        number=number,
        end=float(end[0]),
        size=float(end[0] - segment.begin),
        values=np.stack([modes.values for modes in found]),
        rounding=np.stack([modes.rounding for modes in found]),
        condition=np.array([_condition(modes) for modes in found]),
        amplification=factors[0],
        derivative=factors[1],
        forced=factors[2],
        contribution=contribution,
    )


def _condition(modes: Modes) -> float:
    right = modes.right / np.linalg.norm(modes.right, axis=0)
    return float(np.linalg.cond(right))


def _by_mode(modes: Modes, mass: np.ndarray | None, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Σ over nodes of (leftᵀ M v)(wᵀ right), (width, P), from (M, width) and (M, width, P)."""
    weighed = modes.right if mass is None else mass @ modes.right
    parts = np.einsum("mj,mjp->jp", left @ weighed, np.einsum("kj,mkp->mjp", modes.left, right)).real
    found = np.zeros((len(modes.values), right.shape[-1]))
    found[: modes.finite] = parts
    if modes.finite < len(found):
        found[modes.finite] = np.einsum("mk,mkp->p", left, right) - parts.sum(axis=0)
    return found
