"""The equations that a step solves, in one form for every method.

A step computes a few vectors, one after the other: its stages, then the new state. Each vector x solves one
equation, called a row:

    L Σ_c α_c x_c  =  Σ_c β_c f(s_c, x_c) + Σ_c ε_c g(s_c, x_c)  [+ J x + τ ∂f/∂s  at the old state]

f is the right-hand side, or its implicit part. g is the explicit part. L is the mass matrix M or the
identity. The vectors x_c are called columns: the states that the step starts from, the vectors that earlier
rows have computed, and the unknown x itself. Only Rosenbrock methods have the bracket. Only exponential ones
have matrices in place of some α: α times a φ-function of h·J, with the constant Jacobian J of f.

A method says which columns enter each row (:class:`Pattern`) and with which coefficients
(:class:`Numbers`, functions of the times). Replay, adjoint, tangent and time gradient are then the same code
for all methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.numbering import STAGE, half_step, output_state
from stiffml.discretization.row import Phi, Row
from stiffml.discretization.trajectory import Segment


class Pattern:
    """Which columns enter which rows of a step.

    Columns 0 … history − 1 are the states that the step starts from, oldest first. Column history + r is the
    unknown of row r. The new state is the last column before those of outputs. No row refers to the column
    of an output, so α, β and ε have no entries for outputs.

    Parameters
    ----------
    history : int
        Number of states that the step starts from.
    alpha, beta, epsilon : array_like
        (rows, columns without outputs), non-zero where α, β, ε may be. By default all ε are zero.
    weighted : array_like or bool
        (rows,), whether L is the mass matrix. Default True.
    rosenbrock : array_like or bool
        (rows,), whether the row has the Rosenbrock bracket. Default False.
    keeps_half : bool
        Whether row 0 computes the half step with which BDF starts. Default False.
    outputs : int
        Number of output rows; they come last. Default 0.
    differences : bool
        Whether the α of every row sum to zero, so that only differences of columns enter. Default False.
    phi : mapping of (int, int) to Phi, optional
        By row and column, the matrices by which α are multiplied. By default there are none.

    Raises
    ------
    ValueError
        If a row refers to a column of a later row, as in fully implicit Runge-Kutta methods.
    """

    def __init__(
        self,
        history: int,
        alpha,
        beta,
        epsilon=None,
        weighted=True,
        rosenbrock=False,
        keeps_half=False,
        outputs=0,
        differences=False,
        phi: Mapping[tuple[int, int], Phi] | None = None,
    ) -> None:
        self.history = history
        self.differences = differences
        self.keeps_half = keeps_half
        self.outputs = outputs
        self.phi = {} if phi is None else dict(phi)
        self.alpha = np.asarray(alpha) != 0
        self.beta = np.asarray(beta) != 0
        self.epsilon = np.zeros_like(self.alpha) if epsilon is None else np.asarray(epsilon) != 0
        count = len(self.alpha)
        for name, entries in (("alpha", self.alpha), ("beta", self.beta), ("epsilon", self.epsilon)):
            for r, c in np.argwhere(entries).tolist():
                if c > history + r and r < count - outputs:
                    raise ValueError(
                        f"{name}: row {r} determines column {history + r} and refers to column {c}, that of "
                        f"row {c - history}; rows are solved one after the other, so each stage may refer to "
                        "itself and earlier ones only"
                    )
        weighted = np.broadcast_to(weighted, count)
        rosenbrock = np.broadcast_to(rosenbrock, count)
        of_rows = [{c: one for (r, c), one in self.phi.items() if r == row} for row in range(count)]
        self.rows = tuple(
            Row(
                index=r,
                column=history + r,
                alpha=tuple(c for c in _others(self.alpha[r], history + r) if c not in of_rows[r]),
                beta=_others(self.beta[r], history + r),
                epsilon=_others(self.epsilon[r], history + r),
                solves=r < count - outputs and bool(self.beta[r, history + r]),
                weighted=bool(weighted[r]),
                rosenbrock=bool(rosenbrock[r]),
                output=r >= count - outputs,
                phi=of_rows[r],
            )
            for r in range(count)
        )

    @property
    def columns(self) -> int:
        """The number of columns, outputs included."""
        return self.alpha.shape[1] + self.outputs

    @property
    def new(self) -> int:
        """The column of the new state."""
        return self.columns - 1 - self.outputs

    @property
    def step_rows(self) -> tuple[Row, ...]:
        """The rows of the stages and of the new state, without outputs."""
        return self.rows[: len(self.rows) - self.outputs]

    @property
    def output_rows(self) -> tuple[Row, ...]:
        return self.rows[len(self.rows) - self.outputs :]

    @property
    def base(self) -> int:
        """The column of the state the step starts from."""
        return self.history - 1

    @cached_property
    def stages(self) -> range:
        """The columns of the stages: the vectors that no other step uses."""
        return range(self.history + self.keeps_half, self.new)

    @cached_property
    def evaluates_f(self) -> np.ndarray:
        """(columns without outputs,) bool: the columns at which f is evaluated."""
        return self.beta.any(axis=0)

    @cached_property
    def evaluates_g(self) -> np.ndarray:
        """(columns without outputs,) bool: the columns at which g is evaluated."""
        return self.epsilon.any(axis=0)

    @cached_property
    def has_rosenbrock(self) -> bool:
        return any(row.rosenbrock for row in self.rows)


def _others(row: np.ndarray, own: int) -> tuple[int, ...]:
    return tuple(int(c) for c in np.flatnonzero(row) if c != own)


class Numbers(NamedTuple):
    """The coefficients of K steps with one pattern, as differentiable functions of the times.

    R is the number of rows, C the number of columns without outputs.
    """

    alpha: Tensor  # (K, R, C)
    beta: Tensor
    epsilon: Tensor
    s_f: Tensor  # (K, C), the times at which f and g are evaluated at stages
    s_g: Tensor
    tau: Tensor  # (K, R), zero for rows without the bracket


class Scheme(NamedTuple):
    """A pattern, and the function from times (K, history + 1) to the coefficients of K steps.

    The times are those of the states that a step starts from, then that of the new state.
    """

    pattern: Pattern
    numbers: Callable[[Tensor], Numbers]


class Form(NamedTuple):
    """The form of a problem: whether it has an explicit part g (``split``) and a mass matrix (``mass``)."""

    split: bool = False
    mass: bool = False


class Block:
    """Steps of a segment that share a scheme, with their coefficients; of one or several trajectories.

    Attributes
    ----------
    which : ndarray
        (steps,) int, increasing: the numbers of the steps.
    known : ndarray
        (steps, history) int: the numbers of the states that the steps start from; may include half steps.
    times : Tensor
        (steps, history + 1 + outputs): the times of these states, of the new state, and of the outputs.
    outputs : ndarray
        (steps, outputs) int: the numbers of the outputs.
    """

    def __init__(
        self,
        scheme: Scheme,
        which: np.ndarray,
        known: np.ndarray,
        times: np.ndarray,
        outputs: np.ndarray | None = None,
    ) -> None:
        self.pattern, self.which, self.known = scheme.pattern, which, known
        self.outputs = np.empty((len(known), 0), dtype=int) if outputs is None else outputs
        self.times = torch.from_numpy(times)
        self.scheme = scheme
        self.numbers = scheme.numbers(self.times)

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.which)

    @cached_property
    def sizes(self) -> np.ndarray:
        """(steps,) the sizes h of the steps."""
        history = self.pattern.history
        return (self.times[:, history] - self.times[:, history - 1]).numpy()

    def differentiable_numbers(self) -> tuple[Tensor, Numbers]:
        """The times as a torch leaf, and the coefficients with the graph that leads back to it."""
        with torch.enable_grad():
            times = self.times.clone().requires_grad_()
            return times, self.scheme.numbers(times)

    def state_of(self, column: int) -> np.ndarray | None:
        """(steps,) the numbers of the states in a column; None for the column of a stage."""
        pattern = self.pattern
        if column < pattern.history:
            return self.known[:, column]
        if column == pattern.new:
            return self.which + 1
        if column > pattern.new:
            return output_state(self.outputs[:, column - pattern.new - 1])
        if pattern.keeps_half and column == pattern.history:
            return half_step(self.known[:, pattern.base])
        return None


@dataclass(frozen=True)
class Nodes:
    """The M points at which one part of the right-hand side, f or g, was evaluated.

    ``index[b][c]`` (steps,) are the nodes of column c of block b. Columns without nodes are missing.
    """

    s: Tensor  # (M,)
    u: Tensor  # (M, size)
    states: np.ndarray  # (M,) int, the number of the state that a node is; ``STAGE`` for stages
    index: list[dict[int, np.ndarray]]


class Equations:
    """The equations of all steps of a segment, with the states and stages that solve them.

    Parameters
    ----------
    segment : Segment
    blocks : list of Block
        Together they hold every step of the segment.
    """

    def __init__(self, segment: Segment, blocks: list[Block]) -> None:
        self.segment, self.blocks = segment, blocks

    @property
    def size(self) -> int:
        return self.segment.states.shape[1]

    @cached_property
    def f_nodes(self) -> Nodes:
        """Where f was evaluated."""
        return self._nodes([block.pattern.evaluates_f for block in self.blocks], "s_f")

    @cached_property
    def g_nodes(self) -> Nodes:
        """Where g was evaluated."""
        return self._nodes([block.pattern.evaluates_g for block in self.blocks], "s_g")

    def column(self, block: Block, column: int) -> np.ndarray:
        """(steps, size) the vectors of one column of a block."""
        states = block.state_of(column)
        if states is None:
            return self.segment.stage(block.which, column - block.pattern.stages.start)
        return self.segment.states_at(states)

    def moved_by_alpha(self, block: Block, row: Row) -> list[tuple[int, np.ndarray]]:
        """(c, x_c) for the columns c with α in a row, x_c (steps, size); for the gradient by times.

        If only differences of columns enter, it has x_c − x instead, with x the unknown of the row. On very
        short steps rounding errors of x_c exceed this difference. Derivatives of α by the times, which are
        proportional to 1/h, would amplify them.
        """
        own = None if row.output else self.column(block, row.column)
        if block.pattern.differences and own is not None:
            return [(c, self.column(block, c) - own) for c in row.alpha]
        return [
            *((c, self.column(block, c)) for c in row.alpha),
            *([] if own is None else [(row.column, own)]),
        ]

    def _nodes(self, evaluates: list[np.ndarray], times: str) -> Nodes:
        segment, wanted = self.segment, set()
        for block, columns in zip(self.blocks, evaluates, strict=True):
            for c in np.flatnonzero(columns).tolist():
                states = block.state_of(c)
                if states is not None:
                    wanted.update(states.tolist())
        states = np.array(sorted(wanted), dtype=int)
        s = [segment.times_at(states)]
        u = [segment.states_at(states)]
        count = len(states)
        index: list[dict[int, np.ndarray]] = []
        for block, columns in zip(self.blocks, evaluates, strict=True):
            rows: dict[int, np.ndarray] = {}
            for c in np.flatnonzero(columns).tolist():
                held = block.state_of(c)
                if held is not None:
                    rows[c] = np.searchsorted(states, held)
                else:
                    rows[c] = np.arange(count, count + block.steps)
                    count += block.steps
                    s.append(getattr(block.numbers, times)[:, c].numpy())
                    u.append(self.column(block, c))
            index.append(rows)
        which = np.concatenate([states, np.full(count - len(states), STAGE)])
        return Nodes(torch.from_numpy(_concatenated(s)), torch.from_numpy(_concatenated(u)), which, index)


def _concatenated(parts: list[np.ndarray]) -> np.ndarray:
    filled = [part for part in parts if len(part)]
    if not filled:
        return parts[0]
    return filled[0] if len(filled) == 1 else np.concatenate(filled)
