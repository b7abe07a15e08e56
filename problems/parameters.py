"""A problem's named constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stiffml.checks import array, described, flag
from stiffml.display import readable

Values = Mapping[str, Any]
"""Parameter values by name: floats, or arrays where a parameter is one."""


@readable
@dataclass(frozen=True)
class Parameter:
    """A named constant of a problem: value (a number or an array), units, and what it is.

    Parameters
    ----------
    value : float or array_like
    units, description : str
        Default ``"1"`` and none.
    initial : bool
        Whether only the initial state depends on it. It cannot be trained through rhs then. Default False.

    Examples
    --------
    >>> import problems
    >>> problems.Parameter(0.04, "1/s", "slow reaction").value
    0.04
    >>> problems.load("robertson").parameters["k1"].value
    0.04
    """

    value: Any
    units: str = "1"
    description: str = ""
    initial: bool = False

    def __post_init__(self) -> None:
        array("Parameter: value", self.value)
        for name in ("units", "description"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"Parameter: {name} must be a text, not {described(getattr(self, name))}")
        flag("Parameter: initial", self.initial)
