"""Operations that take arrays element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import casadi as ca
import torch

from stiffml.compiled import scalars
from stiffml.compiled.arrays import Array, boxed, elementwise

aten = torch.ops.aten

_UNARY: dict[Any, Callable[..., Any]] = {
    aten.neg.default: lambda x: -x,
    aten.reciprocal.default: lambda x: 1 / x,
    aten.square.default: lambda x: x * x,
    aten.abs.default: ca.fabs,
    aten.sign.default: ca.sign,
    aten.sgn.default: ca.sign,
    aten.floor.default: ca.floor,
    aten.ceil.default: ca.ceil,
    aten.trunc.default: scalars.truncated,
    aten.sqrt.default: ca.sqrt,
    aten.rsqrt.default: lambda x: 1 / ca.sqrt(x),
    aten.exp.default: ca.exp,
    aten.exp2.default: lambda x: ca.exp(x * math.log(2)),
    aten.expm1.default: ca.expm1,
    aten.log.default: ca.log,
    aten.log2.default: lambda x: ca.log(x) / math.log(2),
    aten.log10.default: ca.log10,
    aten.log1p.default: ca.log1p,
    aten.sin.default: ca.sin,
    aten.cos.default: ca.cos,
    aten.tan.default: ca.tan,
    aten.asin.default: ca.asin,
    aten.acos.default: ca.acos,
    aten.atan.default: ca.atan,
    aten.sinh.default: ca.sinh,
    aten.cosh.default: ca.cosh,
    aten.tanh.default: ca.tanh,
    aten.asinh.default: ca.asinh,
    aten.acosh.default: ca.acosh,
    aten.atanh.default: ca.atanh,
    aten.erf.default: ca.erf,
    aten.sigmoid.default: scalars.sigmoid,
    aten.log_sigmoid_forward.default: scalars.log_sigmoid,
    aten.relu.default: scalars.relu,
    aten.silu.default: lambda x: x * scalars.sigmoid(x),
    aten.mish.default: scalars.mish,
    aten.gelu.default: scalars.gelu,
    aten.logical_not.default: scalars.negation,
    aten.bitwise_not.default: scalars.negation,
}

_BINARY: dict[Any, Callable[..., Any]] = {
    aten.mul.Tensor: lambda a, b: a * b,
    aten.mul.Scalar: lambda a, b: a * b,
    aten.div.Tensor: lambda a, b: a / b,
    aten.div.Scalar: lambda a, b: a / b,
    aten.pow.Tensor_Scalar: scalars.power,
    aten.pow.Tensor_Tensor: scalars.power,
    aten.pow.Scalar: scalars.power,
    aten.maximum.default: scalars.maximum,
    aten.minimum.default: scalars.minimum,
    aten.atan2.default: lambda a, b: ca.atan2(a, b),
    aten.hypot.default: lambda a, b: ca.sqrt(a * a + b * b),
    aten.logaddexp.default: scalars.log_add_exp,
    aten.remainder.Tensor: scalars.remainder,
    aten.remainder.Scalar: scalars.remainder,
    aten.clamp_min.default: scalars.at_least,
    aten.clamp_min.Tensor: scalars.maximum,
    aten.clamp_max.default: scalars.at_most,
    aten.clamp_max.Tensor: scalars.minimum,
    aten.logical_and.default: scalars.both,
    aten.bitwise_and.Tensor: scalars.both,
    aten.logical_or.default: scalars.either,
    aten.bitwise_or.Tensor: scalars.either,
}

_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}


def _add(a: Any, b: Any, alpha: float = 1) -> Array:
    return elementwise(lambda x, y: x + (y if alpha == 1 else alpha * y))(a, b)


def _subtract(a: Any, b: Any, alpha: float = 1) -> Array:
    return elementwise(lambda x, y: x - (y if alpha == 1 else alpha * y))(a, b)


def _divided(a: Any, b: Any, rounding_mode: str | None = None) -> Array:
    rounded = {None: lambda x: x, "floor": ca.floor, "trunc": scalars.truncated}[rounding_mode]
    return elementwise(lambda x, y: rounded(x / y))(a, b)


def _clamp(x: Any, low: Any = None, high: Any = None) -> Array:
    x = boxed(x)
    if low is not None:
        x = elementwise(scalars.at_least)(x, low)
    return x if high is None else elementwise(scalars.at_most)(x, high)


def _log_sigmoid(x: Any) -> list[Array]:
    return [elementwise(scalars.log_sigmoid)(x)] * 2


def _converted(x: Any, dtype: torch.dtype | None = None, **_: Any) -> Array:
    """To another type: whole numbers lose their fraction, conditions ask for anything but zero."""
    if dtype is None or dtype.is_floating_point:
        return boxed(x)
    if dtype is torch.bool:
        return elementwise(lambda v: v != 0)(x)
    return elementwise(scalars.truncated)(x)


ELEMENTWISE: dict[Any, Callable[..., Any]] = {
    **{operation: elementwise(function) for operation, function in (_UNARY | _BINARY).items()},
    **{
        getattr(getattr(aten, name), overload): elementwise(function)
        for name, function in _COMPARED.items()
        for overload in ("Tensor", "Scalar")
    },
    aten.add.Tensor: _add,
    aten.add.Scalar: _add,
    aten.sub.Tensor: _subtract,
    aten.sub.Scalar: _subtract,
    aten.rsub.Tensor: lambda a, b, alpha=1: _subtract(b, a, alpha),
    aten.rsub.Scalar: lambda a, b, alpha=1: _subtract(b, a, alpha),
    aten.div.Tensor_mode: _divided,
    aten.div.Scalar_mode: _divided,
    aten.clamp.default: _clamp,
    aten.clamp.Tensor: _clamp,
    aten.where.self: elementwise(scalars.pick),
    aten.where.ScalarOther: elementwise(scalars.pick),
    aten.where.ScalarSelf: elementwise(scalars.pick),
    aten.where.Scalar: elementwise(scalars.pick),
    aten.masked_fill.Scalar: elementwise(lambda x, m, v: scalars.pick(m, v, x)),
    aten.masked_fill.Tensor: elementwise(lambda x, m, v: scalars.pick(m, v, x)),
    aten.softplus.default: lambda x, beta=1.0, threshold=20.0: elementwise(
        lambda v: scalars.softplus(v, beta, threshold)
    )(x),
    aten.elu.default: lambda x, *settings: elementwise(lambda v: scalars.elu(v, *settings))(x),
    aten.celu.default: lambda x, alpha=1.0: elementwise(lambda v: scalars.elu(v, alpha, 1.0, 1 / alpha))(x),
    aten.leaky_relu.default: lambda x, slope=0.01: elementwise(lambda v: scalars.pick(v > 0, v, slope * v))(
        x
    ),
    aten.hardtanh.default: lambda x, *bounds: elementwise(lambda v: scalars.hardtanh(v, *bounds))(x),
    aten.threshold.default: lambda x, bound, value: elementwise(lambda v: scalars.pick(v <= bound, value, v))(
        x
    ),
    aten.addcmul.default: lambda x, a, b, value=1: elementwise(lambda x, a, b: x + value * a * b)(x, a, b),
    aten.addcdiv.default: lambda x, a, b, value=1: elementwise(lambda x, a, b: x + value * a / b)(x, a, b),
    aten.lerp.Scalar: elementwise(lambda a, b, w: a + w * (b - a)),
    aten.lerp.Tensor: elementwise(lambda a, b, w: a + w * (b - a)),
    aten.log_sigmoid_forward.default: _log_sigmoid,
    aten._to_copy.default: _converted,
}
"""By operation: a function of arrays, tensors and numbers to an array."""
