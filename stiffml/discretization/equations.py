"""The equations that a step solves, in one form for every method.

A step of any method determines a few vectors, its stages and the new state, one after the other. Each is
the solution of

    L Σ_c α_c x_c  =  Σ_c β_c f(s_c, x_c) + Σ_c ε_c g(s_c, x_c)  [+ J x + τ ∂f/∂s  at the old state]

with f the right-hand side or its implicit part, g its explicit part, L the mass matrix M or the identity,
and the x_c among the vectors the step starts from and those it has determined so far, the unknown x
itself included. The bracket belongs to Rosenbrock methods only. A method says which columns enter which
row (:class:`Pattern`) and with what numbers (:class:`Numbers`, functions of the times involved); repeating a
step, its adjoint, its tangent and the gradient with respect to times are then the same code for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.numbering import STAGE, half_step, output_state
from stiffml.discretization.trajectory import Segment


@dataclass(frozen=True)
class Row:
    """One equation: which columns enter it, besides its own."""

    index: int
    column: int
    alpha: tuple[int, ...]
    beta: tuple[int, ...]
    epsilon: tuple[int, ...]
    solves: bool  # f at its own column enters it
    weighted: bool  # L is the mass matrix
    rosenbrock: bool  # it has the bracket; its α are then all weighted
    output: bool  # it determines an output between the ends of the step; its own α is 1


class Pattern:
    """Which columns enter which equations of a step.

    Columns 0 … history − 1 are the vectors the step starts from, the newest state last of them; column
    history + r is determined by row r; the last one but for outputs is the new state. No row refers to the
    column of an output, and α, β, ε have none for it.

    Parameters
    ----------
    history : int
    alpha, beta, epsilon : array_like
        (rows, columns but those of outputs), non-zero where α, β, ε may be.
    weighted : array_like or bool
        (rows,), whether L is the mass matrix. Default True.
    rosenbrock : array_like or bool
        (rows,), whether the row has the Rosenbrock bracket. Default False.
    keeps_half : bool
        Whether row 0 determines the half step that later steps refer to. Default False.
    outputs : int
        How many rows at the end determine outputs between the ends of the step. Default 0.
    differences : bool
        Whether the α of every row sum to zero at all times, so that only differences of columns enter.
        Default False.

    Raises
    ------
    ValueError
        If a row refers to a column that a later row determines, as those of a fully implicit Runge-Kutta
        method do: rows are solved one after the other.
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
    ) -> None:
        self.history = history
        self.differences = differences
        self.keeps_half = keeps_half
        self.outputs = outputs
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
        self.rows = tuple(
            Row(
                index=r,
                column=history + r,
                alpha=_others(self.alpha[r], history + r),
                beta=_others(self.beta[r], history + r),
                epsilon=_others(self.epsilon[r], history + r),
                solves=r < count - outputs and bool(self.beta[r, history + r]),
                weighted=bool(weighted[r]),
                rosenbrock=bool(rosenbrock[r]),
                output=r >= count - outputs,
            )
            for r in range(count)
        )

    @property
    def columns(self) -> int:
        return self.alpha.shape[1] + self.outputs

    @property
    def new(self) -> int:
        """The column of the new state."""
        return self.columns - 1 - self.outputs

    @property
    def step_rows(self) -> tuple[Row, ...]:
        """The rows up to that of the new state."""
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
        """Columns that only this step knows of."""
        return range(self.history + self.keeps_half, self.new)

    @cached_property
    def evaluates_f(self) -> np.ndarray:
        """(columns but outputs,) where f is needed."""
        return self.beta.any(axis=0)

    @cached_property
    def evaluates_g(self) -> np.ndarray:
        return self.epsilon.any(axis=0)

    @cached_property
    def has_rosenbrock(self) -> bool:
        return any(row.rosenbrock for row in self.rows)


def _others(row: np.ndarray, own: int) -> tuple[int, ...]:
    return tuple(int(c) for c in np.flatnonzero(row) if c != own)


class Numbers(NamedTuple):
    """The numbers of K steps with one pattern; differentiable functions of the times.

    R rows; C columns, but those of outputs.

    ``alpha``, ``beta``, ``epsilon``: (K, R, C). ``s_f``, ``s_g``: (K, C), the times at which f and g are
    evaluated at stages. ``tau``: (K, R), of Rosenbrock rows.
    """

    alpha: Tensor
    beta: Tensor
    epsilon: Tensor
    s_f: Tensor
    s_g: Tensor
    tau: Tensor


class Scheme(NamedTuple):
    """A pattern, and its numbers for K steps: (K, history + 1) times of the columns that are states."""

    pattern: Pattern
    numbers: Callable[[Tensor], Numbers]


class Form(NamedTuple):
    """What a problem consists of besides f, as far as the equations of a step depend on it."""

    split: bool = False
    mass: bool = False


class Block:
    """Steps of a segment that have the same scheme, with their numbers; of one trajectory or several.

    Attributes
    ----------
    which : ndarray
        (steps,) int, increasing: which steps these are.
    known : ndarray
        (steps, history) int: the states the steps start from, half steps among them.
    times : Tensor
        (steps, history + 1 + outputs): times of these states, of the new one, and of outputs.
    outputs : ndarray
        (steps, outputs) int: numbers of the outputs.
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
        """How many."""
        return len(self.which)

    def differentiable_numbers(self) -> tuple[Tensor, Numbers]:
        """The times as a leaf, and the numbers as functions of them."""
        with torch.enable_grad():
            times = self.times.clone().requires_grad_()
            return times, self.scheme.numbers(times)

    def state_of(self, column: int) -> np.ndarray | None:
        """(steps,) which states a column holds; None for a stage."""
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
    """The points at which one part of the right-hand side was evaluated.

    ``s`` (M,), ``u`` (M, size); ``states`` (M,) which state a node is, for those that are one, else
    ``STAGE``; ``index[b][c]`` (steps,): the nodes of column c of block b, if it has any.
    """

    s: Tensor
    u: Tensor
    states: np.ndarray
    index: list[dict[int, np.ndarray]]


class Equations:
    """The equations of a segment, with the vectors that solve them.

    Parameters
    ----------
    segment : Segment
    blocks : list of Block
        All its steps.
    """

    def __init__(self, segment: Segment, blocks: list[Block]) -> None:
        self.segment, self.blocks = segment, blocks

    @property
    def size(self) -> int:
        return self.segment.states.shape[1]

    @cached_property
    def f_nodes(self) -> Nodes:
        return self._nodes([block.pattern.evaluates_f for block in self.blocks], "s_f")

    @cached_property
    def g_nodes(self) -> Nodes:
        return self._nodes([block.pattern.evaluates_g for block in self.blocks], "s_g")

    def column(self, block: Block, column: int) -> np.ndarray:
        """(steps, size) the vectors of one column."""
        states = block.state_of(column)
        if states is None:
            return self.segment.stage(block.which, column - block.pattern.stages.start)
        return self.segment.states_at(states)

    def moved_by_alpha(self, block: Block, row: Row) -> list[tuple[int, np.ndarray]]:
        """(c, (steps, size)): what α_c multiplies in a row; less the unknown, where only differences enter.

        α changes with the times. Where differences enter, steps may be so short that the rounding of a
        state is more than the difference, and must not be multiplied with derivatives of 1/step.
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
        return Nodes(torch.from_numpy(_joined(s)), torch.from_numpy(_joined(u)), which, index)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    filled = [part for part in parts if len(part)]
    if not filled:
        return parts[0]
    return filled[0] if len(filled) == 1 else np.concatenate(filled)
