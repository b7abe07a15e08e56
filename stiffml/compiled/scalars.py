"""Functions of CasADi scalars whose values and derivatives are those of torch's operations, at kinks too.

Each takes floats as well. A branch that is not taken may not overflow: its derivative would be 0 · ∞.
"""

from __future__ import annotations

import math
from typing import Any

import casadi as ca

Scalar = Any
"""A float, or a CasADi SX of one element."""


def is_symbol(x: Scalar) -> bool:
    return isinstance(x, ca.SX)


def pick(condition: Scalar, a: Scalar, b: Scalar) -> Scalar:
    """a where the condition holds, else b."""
    if isinstance(condition, ca.SX):
        if not condition.is_constant():
            return ca.if_else(condition, a, b)
        condition = float(condition)
    return a if condition else b


def both(a: Scalar, b: Scalar) -> Scalar:
    return ca.logic_and(a, b) if is_symbol(a) or is_symbol(b) else bool(a) and bool(b)


def either(a: Scalar, b: Scalar) -> Scalar:
    return ca.logic_or(a, b) if is_symbol(a) or is_symbol(b) else bool(a) or bool(b)


def negation(a: Scalar) -> Scalar:
    return ca.logic_not(a) if is_symbol(a) else not a


def maximum(a: Scalar, b: Scalar) -> Scalar:
    """Where both are equal, each has half of the derivative; NaN passes through."""
    return pick(a > b, a, pick(b > a, b, (a + b) / 2))


def minimum(a: Scalar, b: Scalar) -> Scalar:
    return pick(a < b, a, pick(b < a, b, (a + b) / 2))


def at_least(x: Scalar, low: Scalar) -> Scalar:
    """Clamped from below; at the bound the derivative is that of x."""
    return pick(x < low, low, x)


def at_most(x: Scalar, high: Scalar) -> Scalar:
    return pick(x > high, high, x)


def relu(x: Scalar) -> Scalar:
    return pick(x <= 0, 0.0, x)


def power(a: Scalar, b: Scalar) -> Scalar:
    """aᵇ. At a = 0 its derivative with respect to b is zero, not 0 · log 0."""
    if not is_symbol(b):
        return 1.0 if b == 0 else a**b
    if not is_symbol(a) and a > 0:
        return a**b
    positive = pick(a == 0, 1.0, a)
    at_zero = pick(b == 1, a, pick(b > 1, 0.0, pick(b == 0, 1.0, pick(b > 0, ca.sqrt(a), 1 / a))))
    return pick(a == 0, at_zero, positive**b)


def sigmoid(x: Scalar) -> Scalar:
    small = ca.exp(pick(x < 0, x, -x))
    return pick(x < 0, small, 1.0) / (1 + small)


def softplus(x: Scalar, beta: float = 1.0, threshold: float = 20.0) -> Scalar:
    linear = beta * x > threshold
    return pick(linear, x, ca.log1p(ca.exp(beta * pick(linear, 0.0, x))) / beta)


def log_sigmoid(x: Scalar) -> Scalar:
    return pick(x < 0, x, 0.0) - ca.log1p(ca.exp(pick(x < 0, x, -x)))


def gelu(x: Scalar, approximate: str = "none") -> Scalar:
    if approximate == "tanh":
        return x / 2 * (1 + ca.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return x / 2 * (1 + ca.erf(x * math.sqrt(0.5)))


def elu(x: Scalar, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Scalar:
    below = pick(x > 0, 0.0, x)
    return pick(x > 0, scale * x, scale * alpha * ca.expm1(input_scale * below))


def mish(x: Scalar) -> Scalar:
    return x * ca.tanh(softplus(x))


def hardtanh(x: Scalar, low: float = -1.0, high: float = 1.0) -> Scalar:
    """Unlike a clamp, its derivative is zero at the bounds."""
    return pick(x <= low, low, pick(x >= high, high, x))


def log_add_exp(a: Scalar, b: Scalar) -> Scalar:
    return pick(a > b, a, b) + ca.log1p(ca.exp(pick(a > b, b - a, a - b)))


def truncated(x: Scalar) -> Scalar:
    return pick(x < 0, ca.ceil(x), ca.floor(x))


def remainder(a: Scalar, b: Scalar) -> Scalar:
    """With the sign of b, as Python's %."""
    return a - b * ca.floor(a / b)
