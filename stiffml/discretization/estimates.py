"""The local error of a step, as one more row of the step.

The row is an output: explicit in the columns of the step, and its unknown is the estimated error itself. So
whatever evaluates rows evaluates errors, of one step or of many side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.dense_output import Dense
from stiffml.discretization.equations import Block, Numbers, Pattern, Scheme
from stiffml.settings import Tolerances


class Estimate(NamedTuple):
    """Steps with their local error: an output row of the block, the only one.

    The error is the new state minus another result of the step, both (size,). ``order`` is the power of h
    that a step size controller takes it to be proportional to.
    """

    block: Block
    order: int


def estimated(
    scheme: Scheme, which: np.ndarray, known: np.ndarray, times: np.ndarray, order: int
) -> Estimate:
    """The estimate of steps by a scheme with an error row; the arguments as those of a block without it."""
    at_end = np.concatenate([times, times[:, -1:]], axis=1)
    return Estimate(Block(scheme, which, known, at_end, np.zeros((len(which), 1), dtype=int)), order)


@lru_cache(maxsize=256)
def with_embedded(scheme: Scheme, embedded: Dense) -> Scheme:
    """The scheme with the row u₁ − û, where û is an output at the end of the step (θ = 1).

    Source: Hairer, Nørsett & Wanner, Solving ODEs I, section II.4.
    """
    base = scheme.pattern
    alpha, beta, epsilon = (part.sum(axis=0) for part in (embedded.alpha, embedded.beta, embedded.epsilon))
    alpha = -alpha
    alpha[base.base] += 1
    alpha[base.new] -= 1
    fixed, of_f, of_g = (torch.from_numpy(part) for part in (alpha, -beta, -epsilon))

    def row(times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = times[:, base.history : base.history + 1] - times[:, base.history - 1 : base.history]
        return fixed.expand(len(times), len(fixed)), h * of_f, h * of_g

    return _with_row(scheme, 0, (alpha != 0, beta != 0, epsilon != 0), row)


def with_difference(scheme: Scheme, older: int, weights: Callable[[Tensor], Tensor]) -> Scheme:
    """The scheme with a row that is a combination of states, for multistep formulas.

    ``older`` states before those of the scheme enter too. ``weights`` takes the times (K, history + 1) and
    returns the weights (K, C) of all columns in the error, both with the older states first.
    """
    count = scheme.pattern.columns + older
    every, none = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)

    def row(times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha = -weights(times)
        return alpha, 0 * alpha, 0 * alpha

    return _with_row(scheme, older, (every, none, none), row)


def _with_row(
    scheme: Scheme,
    older: int,
    entries: tuple[np.ndarray, np.ndarray, np.ndarray],
    row: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
) -> Scheme:
    """The scheme with one output row, and with ``older`` columns in front.

    ``entries`` says where α, β and ε of the row, (C,) each, may differ from zero; ``row`` takes the times
    of the states and returns their values (K, C).
    """
    base = scheme.pattern

    def extended(of_steps: np.ndarray, of_row: np.ndarray) -> np.ndarray:
        return np.concatenate([np.pad(of_steps, ((0, 0), (older, 0))), of_row[None]])

    pattern = Pattern(
        base.history + older,
        extended(base.alpha, entries[0]),
        extended(base.beta, entries[1]),
        extended(base.epsilon, entries[2]),
        weighted=[*(each.weighted for each in base.rows), False],
        rosenbrock=[*(each.rosenbrock for each in base.rows), False],
        keeps_half=base.keeps_half,
        outputs=1,
        differences=base.differences,
        phi={(r, c + older): one for (r, c), one in base.phi.items()},
    )

    def numbers(times: Tensor) -> Numbers:
        states = times[:, : pattern.history + 1]
        inner = scheme.numbers(states[:, older:])
        alpha, beta, epsilon = row(states)
        pad = torch.nn.functional.pad

        def joined(of_steps: Tensor, of_row: Tensor) -> Tensor:
            return torch.cat([pad(of_steps, (older, 0)), of_row[:, None]], dim=1)

        return Numbers(
            joined(inner.alpha, alpha),
            joined(inner.beta, beta),
            joined(inner.epsilon, epsilon),
            pad(inner.s_f, (older, 0)),
            pad(inner.s_g, (older, 0)),
            pad(inner.tau, (0, 1)),
        )

    return Scheme(pattern, numbers)


def scaled(errors: np.ndarray, new: np.ndarray, old: np.ndarray, tolerances: Tolerances) -> np.ndarray:
    """Errors (…, size) in units of what ``tolerances`` allow at the ends of their steps, ``old`` and ``new``.

    The root mean square over the components is the norm that controls steps: at most 1 for a step that is
    good enough. Source: Hairer, Nørsett & Wanner, Solving ODEs I, section II.4, eqs. 4.10 and 4.11.
    """
    sizes = np.maximum(np.abs(new), np.abs(old))
    return errors / (tolerances.atol + tolerances.rtol * sizes)
