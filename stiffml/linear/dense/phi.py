"""The φ-functions of a matrix: φ₀(z) = exp(z), φ_k(z) = ∫₀¹ exp((1 − θ)z) θᵏ⁻¹ / (k − 1)! dθ.

z is scaled by a power of two until a Taylor polynomial gives φ_m(z), m the highest order, to rounding. The
lower orders follow by φ_{k−1}(z) = z φ_k(z) + 1/(k − 1)!, and those of 2z by

    φ₀(2z) = φ₀(z)²,   2ᵏ φ_k(2z) = φ₀(z) φ_k(z) + Σ_{j=1}^{k} φ_j(z)/(k − j)!.

Nothing is divided by z, so that small and singular z do not cancel. All is done by torch, which
differentiates it.

Source: Skaflestad & Wright, Appl. Numer. Math. 59 (2009), eqs. 2, 8 and 13.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

DEGREE = 15
"""Of the Taylor polynomial. Where |z| ≤ 1 the rest of φ_m is less than 1e-15 of it, for m ≥ 2."""


def phi_functions(z: Tensor, highest: int) -> Tensor:
    """φ₀(z) … φ_highest(z), (highest + 1, …, n, n), of matrices z (…, n, n); highest is at least 2."""
    halvings = halvings_of(z)
    found = _near_zero(z * 0.5**halvings, highest)
    for _ in range(halvings):
        found = doubled(found)
    return found


def halvings_of(z: Tensor) -> int:
    """How often z (…, n, n) is halved before the polynomial serves; 0 if it is not finite."""
    size = float(z.detach().abs().sum(dim=-2).max())
    return max(0, math.ceil(math.log2(size))) if 0 < size < math.inf else 0


def doubled(phi: Tensor) -> Tensor:
    """φ_k(2z) from the φ_k(z), k = 0 …"""
    added, halves = _of_doubling(len(phi))
    return (phi[0] @ phi) * halves.view(-1, *[1] * (phi.dim() - 1)) + torch.tensordot(added, phi, 1)


@cache
def _of_doubling(count: int) -> tuple[Tensor, Tensor]:
    """(count, count) the factors 2⁻ᵏ/(k − j)! of φ_j(z) in φ_k(2z), and (count,) the 2⁻ᵏ."""
    added = [
        [0.5**k / math.factorial(k - j) if 1 <= j <= k else 0.0 for j in range(count)] for k in range(count)
    ]
    halves = [0.5**k for k in range(count)]
    return torch.tensor(added, dtype=torch.float64), torch.tensor(halves, dtype=torch.float64)


@cache
def _of_polynomial(highest: int) -> Tensor:
    """(4, 4) the factors of 1, z, z², z³ in the polynomial's parts, to be multiplied by 1, z⁴, z⁸, z¹²."""
    factors = [1 / math.factorial(highest + m) for m in range(DEGREE + 1)]
    return torch.tensor(factors, dtype=torch.float64).view(4, 4)


def _near_zero(z: Tensor, highest: int) -> Tensor:
    """By the polynomial, which takes six products: Paterson & Stockmeyer, SIAM J. Comput. 2 (1973)."""
    unit = torch.eye(z.shape[-1], dtype=z.dtype).expand_as(z)
    square = z @ z
    parts = torch.tensordot(_of_polynomial(highest), torch.stack([unit, z, square, square @ z]), 1)
    fourth, found = square @ square, parts[3]
    for part in (parts[2], parts[1], parts[0]):
        found = found @ fourth + part
    phi = [found]
    for k in range(highest, 0, -1):
        phi.append(z @ phi[-1] + unit / math.factorial(k - 1))
    return torch.stack(phi[::-1])
