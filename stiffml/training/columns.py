"""Rows of a history as columns: a state is written every few iterations, and has thousands of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import torch

TYPES = {"int": torch.int64, "float": torch.float64}

Kind = TypeVar("Kind")


def columns_of(kind: type, rows: Sequence[object]) -> dict[str, Any]:
    """By field of the dataclass ``kind``: a tensor (rows,) of its numbers, or a list of its texts."""
    found: dict[str, Any] = {}
    for one in fields(kind):
        values = [getattr(row, one.name) for row in rows]
        dtype = TYPES.get(str(one.type))
        found[one.name] = values if dtype is None else torch.tensor(values, dtype=dtype)
    return found


def rows_of(kind: type[Kind], columns: Mapping[str, Any]) -> list[Kind]:
    """The rows of these columns, which may be arrays too."""
    values = [one if isinstance(one, list) else one.tolist() for one in columns.values()]
    return [kind(**dict(zip(columns, row, strict=True))) for row in zip(*values, strict=True)]
