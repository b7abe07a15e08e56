"""Equations such as "H + O2 (+M) <=> HO2 (+M)", and which of their species is a third body."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_GENERIC = ("M", "(+M)")


@dataclass(frozen=True)
class Equation:
    """Coefficients by species; ``collider`` is taken out of them: "M", a species, "(+M)", "(+N2)" or None."""

    reactants: Mapping[str, float]
    products: Mapping[str, float]
    reversible: bool
    collider: str | None


def parse(text: str, kind: str | None = None, efficiencies: Mapping[str, float] | None = None) -> Equation:
    """Reads an equation; ``kind`` is the reaction's ``type``, None where the file gives none.

    Which species counts as a third body follows Cantera (3.0 and later): M; a species on both sides, if it
    is the only one, all coefficients are whole and one side has three molecules, or if the type says
    "three-body"; of several such species the only one that ``efficiencies`` names.

    Raises
    ------
    ValueError
        For text that is no equation, or an ambiguous third body.
    """
    sides: tuple[dict[str, float], dict[str, float]] = ({}, {})
    arrow = None
    term: list[str] = []
    closed = False  # after "(+M)", which needs no "+" in front
    for token in [*re.sub(r"\(\+\s+", "(+", text).split(), "+"]:
        is_arrow, is_falloff = token in ("<=>", "=", "=>"), token.startswith("(+")
        if not (is_arrow or is_falloff or token == "+"):
            term.append(token)
            continue
        if is_arrow and arrow is not None:
            raise ValueError(f"{text!r} has two arrows")
        side = sides[arrow is not None]
        if term or not closed:
            _add(side, term, text)
        if is_falloff:
            _add(side, [token], text)
        closed, term = is_falloff, []
        arrow = token if is_arrow else arrow
    if arrow is None:
        raise ValueError(f"{text!r} has none of the arrows '<=>', '=' and '=>'")
    reactants, products = sides
    collider = None if kind == "elementary" else _collider(reactants, products, kind, efficiencies)
    if collider is not None:
        for side in sides:
            side[collider] -= 1
            if not side[collider]:
                del side[collider]
    for name in (*reactants, *products):
        if name == "M" or name.startswith("(+"):
            raise ValueError(f"{name} must stand once on each side, in a reaction that takes a third body")
    return Equation(reactants, products, arrow != "=>", collider)


def _add(side: dict[str, float], term: list[str], text: str) -> None:
    """Adds a term, a species or a coefficient and a species, to a side."""
    if len(term) not in (1, 2):
        raise ValueError(f"cannot read {' '.join(term)!r} in {text!r}: spaces separate terms and signs")
    try:
        coefficient = float(term[0]) if len(term) == 2 else 1.0
    except ValueError:
        coefficient = 0.0
    if not 0 < coefficient < math.inf:
        raise ValueError(f"{term[0]!r} is not a coefficient, in {text!r}")
    side[term[-1]] = side.get(term[-1], 0.0) + coefficient


def _collider(
    reactants: Mapping[str, float],
    products: Mapping[str, float],
    kind: str | None,
    efficiencies: Mapping[str, float] | None,
) -> str | None:
    """The third body by Cantera's rules."""
    both = [name for name in reactants if name in products]
    named = kind == "three-body"
    generic = [name for name in both if name in _GENERIC]
    if generic:
        return generic[0]
    if not both:
        if named:
            raise ValueError("a three-body reaction needs a third body on both sides")
        return None
    # A species twice on both sides could be the third body or take part: it counts as two.
    if len(both) > 1 or (reactants[both[0]] > 1 and products[both[0]] > 1):
        if efficiencies is not None:
            if len(efficiencies) == 1 and (only := next(iter(efficiencies))) in both:
                return only
            raise ValueError(f"{', '.join(both)} could be the third body: efficiencies must name one of them")
        if named:
            raise ValueError(f"{', '.join(both)} could be the third body: efficiencies must name it")
        return None
    if named or both[0].startswith("(+"):
        return both[0]
    sides = (reactants, products)
    whole = all(value == int(value) for side in sides for value in side.values())
    return both[0] if whole and any(sum(side.values()) == 3 for side in sides) else None
