"""The names of torchdiffeq's methods, and what they mean here."""

from __future__ import annotations

from stiffml.checks import described
from stiffml.compat.torchdiffeq.tableaux import TABLEAUX, Explicit
from stiffml.compat.torchdiffeq.warning import warn_once
from stiffml.methods import METHODS, Method, resolve
from stiffml.methods.names import hint_for

ADAPTIVE = ("dopri8", "dopri5", "tsit5", "bosh3", "fehlberg2", "adaptive_heun")

ADAMS = ("explicit_adams", "implicit_adams", "fixed_adams")

IMPLICIT = {"implicit_euler": "beuler", "trapezoid": "cn", "sdirk2": "dirk-s212", "trbdf2": "dirk-es213sal"}
"""Of later versions, on a fixed grid, with their names in stiffml."""

FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", *ADAMS, *IMPLICIT)

SCIPY = "scipy_solver"

REFUSED = {
    "implicit_midpoint": "trapezoid, of the same order and stability",
    "gl2": "trapezoid, of the same order and stability",
    "radauIIA3": "trbdf2, of order 2, or stiffml's sdirk3, of order 3",
    "radauIIA5": "stiffml's bdf5, or rosw-rodaspr2 with adaptive steps",
    "gl4": "stiffml's bdf4, or arkimex-4 with adaptive steps",
    "gl6": "stiffml's bdf6, or dirk-657a on a fixed grid",
    "adams": "implicit_adams on a fixed grid, or dopri5",
}
"""What to use in place of methods that stiffml does not have."""


def method_of(name: object) -> Method:
    """The method that a name of torchdiffeq, or of stiffml, stands for.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, and for one of :data:`REFUSED`, with what to use in its place.
    """
    if not isinstance(name, str) or (name in METHODS and name not in (*TABLEAUX, *ADAMS)):
        return resolve(name)  # type: ignore[arg-type]
    if name in TABLEAUX:
        return Explicit(name)
    if name in IMPLICIT:
        return METHODS[IMPLICIT[name]]
    if name in ADAMS:
        warn_once(f"{name}: stiffml has no Adams methods; dopri5, of order 5, takes the same steps")
        return METHODS["dopri5"]
    if name in REFUSED:
        raise ValueError(f"method: stiffml does not have {name}; use {REFUSED[name]}")
    own = (*ADAPTIVE, *FIXED, SCIPY)
    nearest = hint_for(name, (*own, *METHODS))
    raise ValueError(
        f"method: unknown name {described(name)}. {nearest}Known are {', '.join(own)}, and all of "
        "stiffml.METHODS"
    )


def is_fixed(name: object) -> bool:
    """Whether a method takes the steps of a grid: torchdiffeq's, and others without an error estimate."""
    return name in FIXED or not (name in ADAPTIVE or method_of(name).adaptive)
