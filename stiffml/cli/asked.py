"""What is asked for on the command line, and what it becomes: a fit that is ready to begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from stiffml.training import Runs


@dataclass(frozen=True)
class SetUp:
    """A fit that is ready to begin.

    Attributes
    ----------
    title, name : str
        In words, and as the name of a folder.
    model : callable
        seed -> module; other processes can get it.
    data, validate : Runs
        To fit to; held out, or None.
    arguments : dict
        Of ``fit``, as they suit the model, by optimizer: ``"lm"`` or ``"descent"``, and ``"all"``.
    compiles_unasked : bool
        Whether the command has chosen compiled functions by itself.
    """

    title: str
    name: str
    model: Callable[[int], nn.Module]
    data: Runs
    validate: Runs | None
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    compiles_unasked: bool = False

    def of(self, optimizer: str) -> dict[str, Any]:
        """The arguments of a fit by this optimizer."""
        kind = "lm" if optimizer == "lm" else "descent"
        return {**self.arguments.get("all", {}), **self.arguments.get(kind, {})}


@dataclass(frozen=True)
class Asked:
    """What the command line says of the set-up.

    Attributes
    ----------
    name : str
        Of a problem, or a path that ends in .py.
    settings, size
        As for other commands.
    learn : str or None
        ``"network"``, ``"constants"``, or names of constants with commas.
    data : Path or None
        A table in place of the problem's or the file's own data.
    time, run : str or None
        Columns of the table.
    points, noise, data_seed
        Of data that a problem makes.
    hold_out : float
        The share of runs that are held out, where there are several.
    """

    name: str
    settings: Sequence[str] = ()
    size: int | None = None
    learn: str | None = None
    data: Path | None = None
    time: str | None = None
    run: str | None = None
    points: int = 40
    noise: float = 0.0
    data_seed: int = 0
    hold_out: float = 0.25
