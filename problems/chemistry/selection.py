"""Parts of a mechanism: which reactions a text means, and what is left without some of them."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from problems.chemistry.rates import Rates
from problems.chemistry.specification import Reaction, Specification


def places_of(equations: Sequence[str], texts: Iterable[str]) -> list[int]:
    """The reactions that texts name, whatever the spacing and with "=" for "<=>"; all that are written alike.

    Raises
    ------
    TypeError
        For what is no text.
    ValueError
        For one that names no reaction; the message has the nearest.
    """
    known = [_squeezed(equation) for equation in equations]
    found: set[int] = set()
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f'a reaction is named by its equation, such as "H + O2 <=> O + OH", not {text!r}')
        matching = [i for i, equation in enumerate(known) if equation == _squeezed(text)]
        if not matching:
            near = difflib.get_close_matches(_squeezed(text), known, n=1, cutoff=0.0)
            hint = f"; did you mean {equations[known.index(near[0])]!r}?" if near else ""
            raise ValueError(f"there is no reaction {text!r}{hint}")
        found.update(matching)
    return sorted(found)


def _squeezed(equation: str) -> str:
    return re.sub(r"\s+", "", equation).replace("<=>", "=")


def selected(
    specification: Specification, reactions: Iterable[int], species: Sequence[str]
) -> tuple[Specification, list[int]]:
    """A specification of these species, and of those of the reactions in which no other takes part.

    The other species are no third bodies either; a reaction whose only third body is one of them is left out.
    Returned with the places of the reactions that are left.
    """
    kept, places = [], []
    for i in sorted(reactions):
        reaction = _among(specification.reactions[i], set(species))
        if reaction is not None:
            kept.append(reaction)
            places.append(i)
    wanted = tuple(s for s in specification.species if s.name in set(species))
    return dataclasses.replace(specification, species=wanted, reactions=tuple(kept)), places


def _among(reaction: Reaction, species: set[str]) -> Reaction | None:
    if not {*reaction.reactants, *reaction.products} <= species:
        return None
    body = reaction.third_body
    if body is None:
        return reaction
    efficiencies = {name: value for name, value in body.efficiencies.items() if name in species}
    if not efficiencies and not body.default:
        return None
    return dataclasses.replace(reaction, third_body=dataclasses.replace(body, efficiencies=efficiencies))


def selected_parameters(
    values: Mapping[str, Tensor], old: Rates, new: Rates, places: Sequence[int], columns: Sequence[int]
) -> dict[str, Tensor]:
    """The rate parameters of reactions at ``places`` and species at ``columns`` of the old mechanism."""

    def rows(of_old: Sequence[int], of_new: Sequence[int]) -> list[int]:
        return [list(of_old).index(places[i]) for i in of_new]

    falloff = rows(old.falloff_reactions, new.falloff_reactions)
    chosen = {
        **{name: places for name in ("log_A", "b", "Ea")},
        **{name: falloff for name in ("log_A_low", "b_low", "Ea_low")},
        "troe": rows(old.troe_reactions, new.troe_reactions),
        "efficiencies": rows(old.third_body_reactions, new.third_body_reactions),
    }
    found = {name: value.detach()[_indices(chosen[name])] for name, value in values.items()}
    found["efficiencies"] = found["efficiencies"][:, _indices(columns)]
    return found


def _indices(places: Sequence[int]) -> Tensor:
    return torch.tensor(list(places), dtype=torch.long)
