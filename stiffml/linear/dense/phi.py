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

import numpy as np
import torch
from torch import Tensor

DEGREE = 15
"""Of the Taylor polynomial. Where |z| ≤ 1 the rest of φ_m is less than 1e-15 of it, for m ≥ 2."""


def phi_functions(z: Tensor, highest: int) -> list[Tensor]:
    """φ₀(z) … φ_highest(z) of matrices z (…, n, n); highest is at least 2. Not finite if z is not."""
    halvings = halvings_of(z)
    found = _near_zero(z * 0.5**halvings, highest)
    for _ in range(halvings):
        found = doubled(found)
    return found


def halvings_of(z: Tensor) -> int:
    """How often z (…, n, n) is halved before the polynomial serves; 0 if it is not finite."""
    size = float(torch.linalg.matrix_norm(z.detach(), 1).max())
    return max(0, math.ceil(math.log2(size))) if 0 < size < math.inf else 0


def doubled(phi: list[Tensor]) -> list[Tensor]:
    """φ_k(2z) from the φ_k(z), k = 0 …"""
    found = [phi[0] @ phi[0]]
    for k in range(1, len(phi)):
        total = phi[0] @ phi[k]
        for j in range(1, k + 1):
            total = total + phi[j] / math.factorial(k - j)
        found.append(total * 0.5**k)
    return found


def _near_zero(z: Tensor, highest: int) -> list[Tensor]:
    """By the polynomial, which takes six products: Paterson & Stockmeyer, SIAM J. Comput. 2 (1973)."""
    unit = torch.eye(z.shape[-1], dtype=z.dtype).expand_as(z)
    square = z @ z
    powers = [unit, z, square, square @ z]
    fourth = square @ square
    found = torch.zeros_like(z)
    for first in range(DEGREE - 3, -1, -4):
        part = sum(power / math.factorial(highest + first + j) for j, power in enumerate(powers))
        found = found @ fourth + part if first < DEGREE - 3 else torch.as_tensor(part)
    phi = [found]
    for k in range(highest, 0, -1):
        phi.append(z @ phi[-1] + unit / math.factorial(k - 1))
    return phi[::-1]


def phi_of_numbers(z: np.ndarray, order: int) -> np.ndarray:
    """φ_order of complex numbers z of any shape; φ₀ overflows as exp does."""
    if order == 0:
        return np.exp(z)
    near = np.abs(z) <= 1
    small, large = np.where(near, z, 0), np.where(near, 1, z)
    found = sum(small**j / math.factorial(order + j) for j in range(20))
    far = np.exp(large)
    for k in range(order):
        far = (far - 1 / math.factorial(k)) / large
    return np.where(near, found, far)
