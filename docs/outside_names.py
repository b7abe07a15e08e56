"""Names of other projects that the site links to, from the small inventories in ``docs/inventories``.

The build needs no network: each file there is an inventory of Sphinx as text, its first line the project and
the address of its documentation. Those that Debian packages are made of the packages' own, repeated so::

    apt-get download python3.11-doc python-scipy-doc python-pandas-doc python-mpi4py-doc
    for one in *.deb; do dpkg -x $one FOLDER; done
    python docs/outside_names.py FOLDER

The others are written by hand: Debian 12 has no such package of torch, NumPy and matplotlib, and xarray's
lacks its classes.
"""

from __future__ import annotations

import ast
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
INVENTORIES = HERE / "inventories"

BY_HAND = "# Written by hand"

ALIASES = {
    "Tensor": "torch.Tensor",
    "Parameter": "torch.nn.Parameter",
    "nn.Module": "torch.nn.Module",
    "Path": "pathlib.Path",
    "mapping": ":term:`python:mapping`",
}
"""How the types of docstrings call them, beside the words that numpydoc knows."""

WITHOUT_PAGE = {
    "Method": "the base of methods; names choose them, and CONTRIBUTING.md says how to write one",
    "Steps": "short for Adaptive | Fixed | Grid | Recorded, which have pages",
    "Stats": "the counts of a solve; made by it, and printed by print(sol)",
    "Piece": "inside a solution: the run between two breakpoints",
    "Labels": "inside a solution: what its Dataset says of the components",
    "Form": "inside a solution: which structure of tensors its state has",
    "Identifiability": "a part of a TrainingReport, made by training_step alone",
    "TrialError": "of training_step alone, where no solve succeeds; its message says why",
    "ProblemFileError": "a ValueError, whose message names the file and what it lacks",
    "Rates": "a part of a Mechanism, made of its file: the structure of the reactions",
    "Space": "a part of a Field, made by it: which states a process has",
    "Decomposition": "a part of a Field, made by it: a box of points for each process",
}
"""Names in types of public docstrings that lead nowhere, each with the reason."""

BY_NUMPYDOC = {
    *("None", "True", "False", "bltin-boolean-values", "list", "tuple", "str", "dict", "float", "int"),
    *("callable", "iterable", "sequence", "mapping", "generator"),
}
"""What it links words such as ``bool`` to."""


def addresses() -> dict[str, tuple[str, str]]:
    """By project its title and the address of its documentation."""
    found = {}
    for path in sorted(INVENTORIES.glob("*.txt")):
        title, _, address = path.read_text().partition("\n")[0].removeprefix("# ").rpartition(", ")
        found[path.stem] = title, address
    return found


def entries(project: str) -> list[str]:
    """The lines of its inventory: name, domain:role, priority, address (``$`` is the name), title."""
    text = (INVENTORIES / f"{project}.txt").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def write_all(folder: Path) -> dict[str, tuple[str, str]]:
    """Leave each as ``objects.inv`` in the folder, and say what ``intersphinx_mapping`` is."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for name, (title, address) in addresses().items():
        head = (
            f"# Sphinx inventory version 2\n# Project: {title}\n# Version: \n"
            "# The remainder of this file is compressed using zlib.\n"
        )
        path = folder / f"{name}.inv"
        path.write_bytes(head.encode() + zlib.compress("\n".join([*entries(name), ""]).encode()))
        mapping[name] = (address, str(path))
    return mapping


def prose(*rooms: Path) -> set[str]:
    """Words in lower case: types are half sentences, and these are no names unless an alias says so."""
    files = [path for room in rooms for path in room.rglob("*.py")]
    return {word for path in files for word in re.findall(r"[a-z_]\w*", path.read_text()) if word.islower()}


def used() -> set[str]:
    """The full names that types, the guide and the code of lessons have."""
    root = HERE.parent
    found = BY_NUMPYDOC | set(ALIASES.values())
    for path in (root / "tutorials").glob("*.py"):
        found |= set(names_of_code(path.read_text()))
    for room in ("stiffml", "problems"):  # dotted names in the types of docstrings
        for path in (root / room).rglob("*.py"):
            types = re.findall(r"^ *[\w, *]+ : (.*)$", path.read_text(), re.MULTILINE)
            found |= {name for of in types for name in re.findall(r"\b[a-z]\w*(?:\.\w+)+", of)}
    for path in [*HERE.glob("*.md"), *HERE.glob("guide/*.md"), *HERE.glob("coming_from/*.md")]:
        found |= set(re.findall(r"\(inv:\w+#([\w.]+)\)", path.read_text()))
    return found


def names_of_code(text: str) -> Iterator[str]:
    """The full names of what it takes from the modules that it imports."""
    tree, known = ast.parse(text), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {one.asname: one.name for one in node.names if one.asname}
            known |= {one.name: one.name for one in node.names if not one.asname}
        elif isinstance(node, ast.ImportFrom):
            known |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    for node in ast.walk(tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id in known:
            yield ".".join([known[inner.id], *reversed(parts)])


def make(folder: Path) -> None:
    """Write anew the small inventories of projects whose own lie somewhere under the folder."""
    wanted = used()
    for big in folder.rglob("objects.inv"):
        head, data = big.read_bytes().split(b"\n# The remainder of this file is compressed using zlib.\n")
        title = re.search(r"# Project: (.*)", head.decode())[1]
        for name, (known, address) in addresses().items():
            if known == title and not (INVENTORIES / f"{name}.txt").read_text().count(BY_HAND):
                lines = [line for line in zlib.decompress(data).decode().splitlines() if _is_of(wanted, line)]
                text = "\n".join([f"# {title}, {address}", "# Made by docs/outside_names.py.", *lines, ""])
                (INVENTORIES / f"{name}.txt").write_text(text)


def _is_of(wanted: set[str], line: str) -> bool:
    name, role, *_ = line.split(" ")
    return name in wanted and (role.startswith("py:") or role == "std:term" or name == "bltin-boolean-values")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
