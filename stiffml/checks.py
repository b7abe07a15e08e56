"""Checks of single arguments: each message names the argument, what to pass, and what was passed."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LONGEST = 80


def described(value: object) -> str:
    """A short text for a value in a message: for tensors and arrays the shape and type, not the numbers."""
    if isinstance(value, Tensor | np.ndarray) and math.prod(value.shape) != 1:
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} of shape {tuple(value.shape)} and type {value.dtype}"
    try:
        text = repr(value)
    except Exception:  # a class of the caller's may fail here, which must not hide the error
        text = f"an object of type {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({type(value).__name__})"


def number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> float:
    """A finite real number as a float, from Python, numpy, or an array or tensor with one element.

    Parameters
    ----------
    name : str
        The argument, as in ``"Fixed: h"``.
    value
        Not a bool, a complex number or a text.
    above, below : float
        Bounds that are excluded.
    least, most : float
        Bounds that are included.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is not finite, or out of range.
    """
    wanted = f"{name} must {_range(above, below, least, most)}, not {described(value)}"
    try:
        if isinstance(value, Tensor):
            plain = value.detach()
            value = None if plain.is_complex() or plain.dtype is torch.bool else plain.item()
        elif isinstance(value, np.ndarray | np.generic):
            value = value.item() if np.asarray(value).dtype.kind in "fiu" else None
        if value is None or isinstance(value, bool | str | bytes | complex):
            raise TypeError(wanted)
        found = float(value)
    except OverflowError:  # an integer of 400 digits
        raise ValueError(wanted) from None
    except Exception:
        raise TypeError(wanted) from None
    if not (math.isfinite(found) and above < found < below and least <= found <= most):
        raise ValueError(wanted)
    return found


def _range(above: float, below: float, least: float, most: float) -> str:
    if below < math.inf:
        return f"lie between {above:g} and {below:g}"
    if most < math.inf:
        return f"lie in {f'[{least:g}' if above == -math.inf else f'({above:g}'}, {most:g}]"
    if above == 0:
        return "be positive and finite"
    if least == 0:
        return "not be negative nor infinite"
    return "be a finite number" + (f" above {above:g}" if above > -math.inf else "")


def whole(name: str, value: Any, least: int = 1, most: int = 2**63 - 1) -> int:
    """A whole number as an int, from Python, numpy, or an array or tensor with one element.

    Raises
    ------
    TypeError
        For a bool, a float (2.0 included), or anything else.
    ValueError
        If it is out of range.
    """
    bounds = f"at least {least}" if most >= 2**31 - 1 else f"from {least} to {most}"
    try:
        kind = getattr(value, "dtype", None)
        if isinstance(value, bool) or kind in (torch.bool, np.dtype(bool)):
            raise TypeError
        found = operator.index(value)
    except Exception:
        raise TypeError(f"{name} must be a whole number, {bounds}, not {described(value)}") from None
    if found < least:
        raise ValueError(f"{name} must be at least {least}, not {described(found)}")
    if found > most:
        raise ValueError(f"{name} must be at most {most}, not {described(found)}")
    return found


def texts(name: str, value: Any, count: int | None = None) -> tuple[str, ...]:
    """A sequence of texts, ``count`` of them if that is given.

    Raises
    ------
    TypeError
        For one text, or for anything else that is no sequence of texts.
    ValueError
        For another number of them.
    """
    wanted = f"{name} must be a sequence of {'' if count is None else f'{count} '}texts"
    if isinstance(value, str | bytes | Tensor) or not isinstance(value, Iterable):
        raise TypeError(f"{wanted}, not {described(value)}")
    found = tuple(value)
    for one in found:
        if not isinstance(one, str):
            raise TypeError(f"{wanted}, but there is {described(one)} among them")
    if count is not None and len(found) != count:
        raise ValueError(f"{wanted}, not {len(found)} of them")
    return found


def flag(name: str, value: Any) -> bool:
    """True or False, of Python or numpy; TypeError for anything else."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {described(value)}")
    return bool(value)


def with_numbers(name: str, tensor: Tensor) -> Tensor:
    """A dense tensor with data; a pending sign of a view is applied.

    Raises
    ------
    TypeError
        For a sparse tensor.
    ValueError
        For one on the meta device, which holds no numbers.
    """
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, not one of layout {tensor.layout}: pass .to_dense()")
    if tensor.device.type == "meta":
        raise ValueError(f"{name} must be on a device with data, not on meta")
    return tensor.resolve_neg()


def times(name: str, value: Any) -> Tensor:
    """Times as a floating-point tensor: a tensor as it is, numbers in double precision.

    Raises
    ------
    TypeError
        For what is neither a tensor nor numbers.
    ValueError
        Unless there is one dimension, with at least one time.
    """
    found = times_of_samples(name, value)
    if found.dim() != 1:
        raise ValueError(
            f"{name} must be one-dimensional with at least one time, not of shape {tuple(found.shape)}"
        )
    return found


def times_of_samples(name: str, value: Any) -> Tensor:
    """The same with any number of dimensions, at least one, the last of which has at least one time."""
    wanted = f"{name} must be a tensor of times, such as torch.linspace(0, 1, 11, dtype=torch.float64), not "
    if not isinstance(value, Tensor):
        try:
            found = None if value is None else np.asarray(value)
        except (TypeError, ValueError, RuntimeError, NotImplementedError):
            found = None
        if found is None or found.dtype.kind not in "fiu":
            raise TypeError(wanted + described(value)) from None
        value = torch.from_numpy(found.astype(float))
    value = with_numbers(name, value)
    if value.is_complex() or value.dtype is torch.bool:
        raise TypeError(wanted + described(value))
    if value.dim() == 0 or value.numel() == 0:
        raise ValueError(
            f"{name} must be one-dimensional with at least one time, not of shape {tuple(value.shape)}"
        )
    return value if value.is_floating_point() else value.double()


def positive(name: str, value: Any) -> float | Tensor:
    """One positive number, or a tensor of positive numbers from a tensor, an array or a list.

    Raises
    ------
    TypeError
        For what is no number.
    ValueError
        For numbers that are not positive and finite; the message has the index of the first.
    """
    wanted = f"{name} must be a number or a tensor shaped like y0, not {described(value)}"
    if isinstance(value, np.ndarray | list | tuple):
        try:
            values = np.asarray(value)
        except Exception:
            raise TypeError(wanted) from None
        if values.dtype.kind not in "fiu":
            raise TypeError(wanted)
        value = torch.from_numpy(values.astype(float))
    if not isinstance(value, Tensor) or value.dim() == 0:
        return number(name, value, above=0)
    value = with_numbers(name, value)
    if value.is_complex() or value.dtype is torch.bool:
        raise TypeError(wanted)
    if value.numel() == 0:
        raise ValueError(wanted)
    wrong = ~((value > 0) & torch.isfinite(value))
    if wrong.any():
        at = wrong.nonzero()[0].tolist()
        raise ValueError(f"{name} must be positive and finite, not {float(value[tuple(at)]):g} as at {at}")
    return value


def several_times(name: str, values: Any) -> Tensor:
    """One time or several as a floating-point tensor of one dimension, which may be empty.

    The tensors in a sequence keep their gradients.

    Raises
    ------
    TypeError, ValueError
        For anything else, or for times that are not finite.
    """
    if not isinstance(values, Tensor):
        try:
            single = not isinstance(values, Iterable) or isinstance(values, str | bytes | Mapping | Set)
            single = single or (isinstance(values, np.ndarray) and values.ndim == 0)
            parts: Any = [values] if single else list(values)
            if any(isinstance(part, Tensor) for part in parts):
                values = torch.stack(
                    [times(name, torch.as_tensor(part).reshape(1))[0].double() for part in parts]
                )
            else:
                values = np.asarray(parts)
        except Exception:
            values = None  # explained below
        if values is not None and len(values) == 0:
            return torch.zeros(0, dtype=torch.float64)
    elif values.layout is torch.strided:
        if values.numel() == 0:
            return torch.zeros(0, dtype=torch.float64)
        values = values.reshape(1) if values.dim() == 0 else values
    found = times(name, values)
    if not torch.isfinite(found).all():
        raise ValueError(f"{name} must be finite")
    return found


def array(name: str, value: Any, *, finite: bool = True) -> np.ndarray:
    """Real numbers in double precision, from a number, nested sequences, an array or a tensor.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        For NaN, and for infinite numbers unless ``finite`` is false.
    """
    try:
        found = np.asarray(value.detach().cpu().resolve_neg() if isinstance(value, Tensor) else value)
    except Exception:
        found = np.empty((), dtype=object)
    if found.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, not {described(value)}")
    found = found.astype(float)
    wrong = ~np.isfinite(found) if finite else np.isnan(found)
    if wrong.any():
        at = f" at {[int(i) for i in np.argwhere(wrong)[0]]}" if found.ndim else ""
        raise ValueError(f"{name} must be finite, not {found[wrong][0]}{at}")
    return found


def path(name: str, value: Any) -> Path:
    """A path from a text or a path.

    Raises
    ------
    TypeError
        For anything else: ``open`` would take a number for a file descriptor.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise TypeError(f'{name} must be a path, such as "data.nc", not {described(value)}')
    return Path(value)
