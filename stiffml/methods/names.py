"""Names of methods in other packages, and the nearest here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

_BDF = "variable-step BDF of order 5; "
_RODAS = "a stiffly accurate Rosenbrock method that keeps its order 4 on stiff problems"
_ESDIRK = "a stiffly accurate method with an explicit first stage and one diagonal entry, "

ELSEWHERE: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("radau", "radau5", "radauiia5"), ("rosw-rodaspr2", f"one-step too: {_RODAS}")),
    **dict.fromkeys(("rodas", "rodas4", "rodas5", "rodas5p", "rodasp"), ("rosw-rodaspr2", _RODAS)),
    **dict.fromkeys(
        ("ros", "ros3", "ros3p", "ros34pw2", "rosenbrock"),
        ("rosw-ra34pw2", "a Rosenbrock-W method of order 3, stiffly accurate"),
    ),
    **dict.fromkeys(("ode23s", "rosenbrock23"), ("rosw-2p", "a Rosenbrock method of two stages and order 2")),
    "kvaerno3": ("dirk-es324sal", f"{_ESDIRK}of order 3"),
    **dict.fromkeys(("kvaerno", "kvaerno4", "kencarp4"), ("arkimex-4", f"{_ESDIRK}of order 4")),
    **dict.fromkeys(("kvaerno5", "kencarp5"), ("arkimex-5", f"{_ESDIRK}of order 5")),
    **dict.fromkeys(("trbdf2", "ode23tb"), ("dirk-es213sal", f"{_ESDIRK}of order 2, as TR-BDF2 is")),
    **dict.fromkeys(("lsoda", "lsode", "adams"), ("bdf", f"{_BDF}there is no Adams method to switch to")),
    **dict.fromkeys(
        ("cvode", "vode", "zvode", "ode15s", "ida", "qndf"), ("bdf", f"{_BDF}BDF(k) has order k")
    ),
    **dict.fromkeys(("trapezoid", "trapezoidal", "ode23t", "cranknicolson"), ("cn", "the trapezoidal rule")),
    **dict.fromkeys(("impliciteuler", "backwardeuler"), ("beuler", "the implicit Euler method")),
    **dict.fromkeys(("expliciteuler", "forwardeuler"), ("euler", "the explicit Euler method")),
    **dict.fromkeys(("heun", "heun2", "rk2"), ("midpoint", "explicit, with two stages and order 2 too")),
    **dict.fromkeys(("rk45", "ode45", "dp5", "dopri"), ("dopri5", "the same pair of Dormand and Prince")),
    **dict.fromkeys(("rk23", "ode23", "bs3"), ("bosh3", "the same pair of Bogacki and Shampine")),
    **dict.fromkeys(
        ("etd2rk", "etdrk2", "etd3rk", "etdrk3", "etdrk4", "exprk4", "lawson4", "ifrk4"),
        ("etd3", "exponential time differencing of order 3, for a linear part as Split(…, linear=True)"),
    ),
    "bs5": ("bosh5", "the same pair of Bogacki and Shampine"),
    **dict.fromkeys(("dop853", "rk8", "dp8"), ("dopri8", "a pair of order 8 of Prince and Dormand")),
    **{f"vern{order}": (f"verner{order}", f"a pair of Verner's of order {order}") for order in (6, 7, 8)},
}
"""Names in other packages, in small letters and digits only: the nearest here, and a reason."""

FAMILIES = (
    "BDF ('bdf', 'bdf1' … 'bdf6'), theta methods ('beuler', 'cn'), Rosenbrock ('rosw-rodaspr2'), diagonally "
    "implicit ('dirk-es325sal', 'sdirk3'), implicit and explicit parts ('arkimex-4'), exponential ('etd3'), "
    "explicit ('dopri5')"
)


def unknown(name: str, known: Collection[str]) -> str:
    """The message for a name that is not among the ``known``."""
    hint = hint_for(name, known)
    return f"method: unknown name {name!r}. {hint}Families: {FAMILIES}; stiffml.METHODS has all"


def hint_for(name: str, known: Collection[str]) -> str:
    """A sentence with the name that was probably meant, and a space after it; empty if there is none."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    close = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    if plain in ELSEWHERE:
        nearest, reason = ELSEWHERE[plain]
        hint = f"The nearest here is {nearest!r}: {reason}. "
    return hint
