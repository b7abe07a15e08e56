"""A device of torch's that is not the host, for machines that have none: its tensors hold host tensors.

As on any other device, tensors of numpy and of the host cannot be mixed with its own: what forgets to copy
fails. It says nothing of streams and memory of a real one. ``register`` is for a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
"""Operations that take tensors of several devices."""


class There(Tensor):
    """A tensor on the device."""

    data_there: Tensor

    @staticmethod
    def __new__(cls, data: Tensor) -> There:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            data.shape,
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, data: Tensor) -> None:
        self.data_there = data

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.data_there})"

    @classmethod
    def __torch_dispatch__(
        cls, op: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        stays = device is None or torch.device(device).type == NAME
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        if op not in COPIES:
            _require_one_device(op, [*args, *kwargs.values()])
        found = op(*tree_map(_data, args), **tree_map(_data, kwargs))
        if op._schema.is_mutable and op._schema.name.endswith("_"):
            return args[0]
        return tree_map(lambda x: There(x) if isinstance(x, Tensor) and stays else x, found)


def _data(x: Any) -> Any:
    return x.data_there if isinstance(x, There) else x


def _require_one_device(op: Any, arguments: Iterable[Any]) -> None:
    for argument in arguments:
        for x in argument if isinstance(argument, list | tuple) else [argument]:
            if isinstance(x, Tensor) and not isinstance(x, There) and x.dim():
                raise RuntimeError(f"{op}: tensors on {NAME} and on the host")


def _empty(size: Sequence[int], *, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
    return There(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(size: Sequence[int], stride: Sequence[int], *, dtype: Any = None, **_: Any) -> Tensor:
    return There(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _data(target).copy_(_data(source))
    return target


def register() -> torch.library.Library:
    """Make the device known to torch, for as long as the result is kept."""
    _setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    return library
