"""The names of torchdiffeq's methods, and what they mean here."""

from __future__ import annotations

from stiffml.checks import described
from stiffml.compat.torchdiffeq.tableaux import TABLEAUX, Explicit, ImplicitMidpoint
from stiffml.compat.torchdiffeq.warning import warn_once
from stiffml.methods import METHODS, Method, resolve
from stiffml.methods.names import hint_for

ADAPTIVE = ("dopri8", "dopri5", "tsit5", "bosh3", "fehlberg2", "adaptive_heun")

ADAMS = ("explicit_adams", "implicit_adams", "fixed_adams")

IMPLICIT = {"implicit_euler": "beuler", "trapezoid": "cn", "sdirk2": "dirk-s212", "trbdf2": "dirk-es213sal"}
"""Of later versions, on a fixed grid, with their names in stiffml."""

INSTEAD = {
    **dict.fromkeys(ADAMS, ("dopri5", "no Adams methods", "of order 5")),
    "radauIIA3": ("sdirk3", "no coupled stages", "of order 3 and L-stable too"),
    "gl4": ("arkimex-4", "no coupled stages", "of order 4, L-stable"),
    "radauIIA5": ("arkimex-5", "no coupled stages", "of order 5 and A-stable"),
    "gl6": ("dirk-es648sa", "no coupled stages", "of order 6 and A-stable too"),
}
"""What takes the steps of a grid in place of methods that stiffml does not have, why, and what it shares."""

FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", *IMPLICIT, "implicit_midpoint", *INSTEAD)

SCIPY = "scipy_solver"

REFUSED = {
    "adams": "implicit_adams on a fixed grid, or dopri5",
}
"""What to use in place of methods of earlier versions."""


def method_of(name: object) -> Method:
    """The method that a name of torchdiffeq, or of stiffml, stands for.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, and for one of :data:`REFUSED`, with what to use in its place.
    """
    if not isinstance(name, str) or (name in METHODS and name not in (*TABLEAUX, *INSTEAD)):
        return resolve(name)  # type: ignore[arg-type]
    if name in TABLEAUX:
        return Explicit(name)
    if name in IMPLICIT:
        return METHODS[IMPLICIT[name]]
    if name == "implicit_midpoint":
        return ImplicitMidpoint()
    if name in INSTEAD:
        nearest, reason, shares = INSTEAD[name]
        warn_once(f"{name}: stiffml has {reason}; {nearest}, {shares}, takes the same steps")
        return METHODS[nearest]
    if name in REFUSED:
        raise ValueError(f"method: stiffml does not have {name}; use {REFUSED[name]}")
    own = (*ADAPTIVE, *FIXED, SCIPY)
    hint = hint_for(name, (*own, *METHODS))
    raise ValueError(
        f"method: unknown name {described(name)}. {hint}Known are {', '.join(own)}, and all of "
        "stiffml.METHODS"
    )


def is_fixed(name: object) -> bool:
    """Whether a method takes the steps of a grid: torchdiffeq's, and others without an error estimate."""
    return name in FIXED or not (name in ADAPTIVE or method_of(name).adaptive)
