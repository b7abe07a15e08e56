"""One equation of a step: which columns enter it, and how; see :mod:`stiffml.discretization.equations`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Phi(NamedTuple):
    """The matrix φ_order(fraction·h·J) of a step of size h, with the constant Jacobian J of f.

    φ₀(z) = exp(z), and φ_k(z) = ∫₀¹ exp((1 − θ)z) θᵏ⁻¹ / (k − 1)! dθ.
    """

    order: int
    fraction: float


@dataclass(frozen=True)
class Row:
    """One equation of a step."""

    index: int
    column: int  # of its unknown
    alpha: tuple[int, ...]  # the other columns that enter it with α, β, ε
    beta: tuple[int, ...]
    epsilon: tuple[int, ...]
    solves: bool  # the row is implicit: f of its unknown enters
    weighted: bool  # L is the mass matrix
    rosenbrock: bool  # the row has the bracket; the mass matrix then multiplies all its α
    output: bool  # its unknown is an output inside the step; the α of the unknown is then 1
    phi: Mapping[int, Phi]  # by further column: what its α is multiplied by
