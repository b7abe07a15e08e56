"""Reading mechanism files: finding the file, the phase in it, and the species and reactions of the phase."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from problems.chemistry.elements import ATOMIC_WEIGHTS
from problems.chemistry.entries import field, read_reaction, read_species
from problems.chemistry.errors import MechanismError, UnsupportedMechanismError, located
from problems.chemistry.specification import Reaction, Species, Specification
from problems.chemistry.units import UnitSystem, number
from problems.chemistry.yaml12 import load
from stiffml.extras import to_install

_GAS_KINETICS = ("gas", "bulk")


def find_file(name: str | Path, beside: Path | None = None) -> Path:
    """A mechanism file: a path, a path beside another file, or one of those that Cantera ships.

    Cantera itself is not imported.

    Raises
    ------
    FileNotFoundError
        If there is none; the message says where it was looked for.
    """
    path = Path(name).expanduser()
    spec = importlib.util.find_spec("cantera")
    shipped = None if spec is None or spec.origin is None else Path(spec.origin).parent / "data"
    for folder in (beside, Path(), shipped):
        if folder is not None and (folder / path).is_file():
            return folder / path
    where = f"here or beside {beside}" if beside else "here"
    if shipped is None:
        raise FileNotFoundError(
            f"no file {str(path)!r} {where}; for the mechanisms that Cantera ships: {to_install('chemistry')}"
        )
    raise FileNotFoundError(f"no file {str(path)!r} {where}, nor in {shipped}, which Cantera ships")


def read(source: str | Path, phase: str | None = None) -> Specification:
    """Read a phase from a file, by default its first.

    Raises
    ------
    FileNotFoundError
        For a file that is not there.
    MechanismError
        For one that cannot be read; :class:`UnsupportedMechanismError` for what is not supported.
    """
    library = _Library()
    document = library.open(source)
    entry = _phase(document, phase)
    name = entry["name"]
    with located(f"{document.path}, section 'phases', phase {name!r}"):
        thermo, kinetics = entry.get("thermo"), entry.get("kinetics")
        if thermo != "ideal-gas":
            others = [
                repr(p.get("name")) for p in document.content["phases"] if p.get("thermo") == "ideal-gas"
            ]
            hint = f": pass phase={' or '.join(others)}" if others else ""
            raise UnsupportedMechanismError(f"the model {thermo!r} is not supported; 'ideal-gas' is{hint}")
        if kinetics not in (None, "none", *_GAS_KINETICS):
            raise UnsupportedMechanismError(f"the kinetics {kinetics!r} are not supported; 'gas' is")
        # It alters efficiencies.
        if entry.get("explicit-third-body-duplicates") == "modify-efficiency":
            raise UnsupportedMechanismError("'explicit-third-body-duplicates: modify-efficiency'")
        declared, weights = _elements(entry, document, library)
        sources = _sources(entry.get("species", "all"), "species", library, document)
        rules = entry.get("reactions", "all") if kinetics in _GAS_KINETICS else "none"
        rules = _sources(rules, "reactions", library, document)
    species = _species(sources, declared, weights, entry.get("skip-undeclared-elements") is True)
    skip = entry.get("skip-undeclared-third-bodies") is True
    return Specification(
        name=name,
        elements=declared
        or {e: weights[e] for e in dict.fromkeys(e for s in species.values() for e in s.composition)},
        species=tuple(species.values()),
        reactions=tuple(_reactions(rules, species, skip)),
    )


@dataclass(frozen=True)
class _Section:
    """A list of mappings in a file, and the units of its numbers."""

    where: str
    entries: tuple[dict[Any, Any], ...]
    units: UnitSystem


@dataclass(frozen=True)
class _Document:
    path: Path
    content: dict[Any, Any]

    def section(self, name: str) -> _Section:
        """A list of mappings; units that its first item declares are those of all."""
        where = f"{self.path}, section {name!r}"
        with located(where):
            entries = field(self.content, name, list, "a list")
            if any(not isinstance(entry, dict) for entry in entries):
                raise ValueError("every entry must be a mapping")
            units = UnitSystem()
            if "units" in self.content:
                units = units.updated(self.content["units"])
            if entries and list(entries[0]) == ["units"]:
                units = units.updated(entries[0]["units"])
                entries = entries[1:]
        return _Section(where, tuple(entries), units)


class _Library:
    """The files of one mechanism, each read once."""

    def __init__(self) -> None:
        self._documents: dict[Path, _Document] = {}

    def open(self, name: str | Path, beside: Path | None = None) -> _Document:
        path = find_file(name, beside)
        if path not in self._documents:
            self._documents[path] = _Document(path, load(path))
        return self._documents[path]

    def section(self, reference: str, document: _Document) -> _Section:
        """A section of the document, or of another file as in "gri30.yaml/species"."""
        file, slash, name = reference.rpartition("/")
        return (self.open(file, document.path.parent) if slash else document).section(name)


def _phase(document: _Document, name: str | None) -> dict[Any, Any]:
    """The phase's entry."""
    entries = document.section("phases").entries
    for place, entry in enumerate(entries, 1):
        with located(f"{document.path}, section 'phases', phase {place} (counted from 1)"):
            if field(entry, "name", str, "a name") == name or name is None:
                return entry
    known = ", ".join(str(entry["name"]) for entry in entries) or "none"
    raise MechanismError(f"{document.path}, section 'phases': no phase {name!r}; it has {known}")


def _sources(
    value: Any, default: str, library: _Library, document: _Document
) -> list[tuple[_Section, str | list[str]]]:
    """A phase's ``species`` or ``reactions``: sections, with the names or the rule to take from each.

    The value is a rule for the default section, a list of names of species in it, a list of sections of
    reactions, or a list of mappings of a section to names or a rule.
    """
    rules = ("all", "declared-species", "none") if default == "reactions" else ("all",)
    pairs: list[tuple[str, Any]] = []
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        pairs = [pair for item in value for pair in item.items()]
    elif isinstance(value, list) and default == "reactions":
        pairs = [(section, "all") for section in value]
    else:
        pairs = [(default, value)]
    for section, names in pairs:
        listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not (isinstance(section, str) and (names in rules or (default == "species" and listed))):
            raise ValueError(f"cannot read {default!r}: {value!r}")
    return [(library.section(section, document), names) for section, names in pairs if names != "none"]


def _elements(
    phase: Mapping[Any, Any], document: _Document, library: _Library
) -> tuple[dict[str, float] | None, dict[str, float]]:
    """The weights of the elements that the phase declares, None if it declares none, and of all known."""

    def weights(section: _Section) -> dict[str, float]:
        with located(section.where):
            return {
                field(entry, "symbol", str, "a symbol"): number(entry.get("atomic-weight"))
                for entry in section.entries
            }

    known = dict(ATOMIC_WEIGHTS)
    if "elements" in document.content:
        known.update(weights(document.section("elements")))
    value = phase.get("elements")
    if value is None:
        return None, known
    declared: dict[str, float] = {}
    for item in value if isinstance(value, list) else [value]:
        # A symbol, or a mapping of sections to symbols; "default" stands for the table here.
        for source, symbols in item.items() if isinstance(item, dict) else [("", [item])]:
            table = known
            if source == "default":
                table = ATOMIC_WEIGHTS
            elif source:
                table = weights(library.section(source, document))
            for symbol in symbols:
                if symbol not in table:
                    raise ValueError(f"no weight of the element {symbol!r}; 'elements' can give one")
                declared[symbol] = table[symbol]
    return declared, known


def _species(
    sources: list[tuple[_Section, Any]],
    declared: Mapping[str, float] | None,
    weights: Mapping[str, float],
    skip: bool,
) -> dict[str, Species]:
    """The species of the phase, by name and in its order."""
    found: dict[str, Species] = {}
    for section, names in sources:
        entries: dict[Any, dict[Any, Any]] = {}
        for place, entry in enumerate(section.entries, 1):
            with located(f"{section.where}, species {place} (counted from 1)"):
                entries[field(entry, "name", str, "a name")] = entry
        for name in entries if names == "all" else names:
            with located(f"{section.where}, species {name!r}"):
                if name not in entries:
                    raise ValueError("it is not there, but the phase names it")
                entry = entries[name]
                composition = field(entry, "composition", dict, "a mapping")
                unknown = [e for e in composition if e not in (weights if declared is None else declared)]
                if unknown and skip:
                    continue
                if unknown:
                    raise ValueError(f"the phase does not have the element {', '.join(map(str, unknown))}")
                if name in found:
                    raise ValueError("the phase has it twice")
                units = section.units.updated(entry["units"]) if "units" in entry else section.units
                found[name] = read_species(entry, units)
    return found


def _reactions(
    sources: list[tuple[_Section, Any]], species: Mapping[str, Species], skip: bool
) -> list[Reaction]:
    """The reactions of the phase, in its order."""
    found = []
    for section, rule in sources:
        for place, entry in enumerate(section.entries, 1):
            equation = entry.get("equation", "without an equation")
            with located(f"{section.where}, reaction {place} (counted from 1), {equation!r}"):
                reaction = read_reaction(entry, section.units, species, rule == "declared-species", skip)
            if reaction is not None:
                found.append(reaction)
    return found
