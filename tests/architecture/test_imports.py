"""What imports what: no circles, and rooms in the order that CONTRIBUTING.md draws.

Read from the source, with imports for typing and those inside functions.
"""

from __future__ import annotations

import ast
import itertools
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("stiffml", "problems")
LONGEST = 350

ORDER: tuple[tuple[str, ...], ...] = (
    (
        "checks",
        "display",
        "errors",
        "extras",
        "files",
        "memory",
        "stats",
        "steps",
        "settings",
        "threads",
        "version",
    ),
    ("discretization",),
    ("methods",),
    ("parameters", "compiled"),
    ("system",),
    ("run",),
    ("petsc",),
    ("linear",),
    ("native",),
    ("all_at_once",),
    ("gradients",),
    ("plotting",),
    ("interface",),
    ("steady",),
    ("training", "distributed", "compat"),
    ("diagnostics", "closures"),
    ("__init__",),
    ("problems",),
    ("experiments",),
    ("cli",),
    ("__main__",),
)
"""The rooms from the ground up: those of stiffml, its own ``__init__``, and ``problems``. A room imports from
those in lines above its own."""


@dataclass(frozen=True)
class Import:
    """One module imports another, in a line of its file."""

    module: str
    imported: str
    line: int


@cache
def files() -> dict[str, Path]:
    """The modules by name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def statements(path: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def named_by(module: str, path: Path, node: ast.Import | ast.ImportFrom) -> list[str]:
    """The names that a statement asks for, in full, relative ones resolved."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
    return [f"{base}.{alias.name}" for alias in node.names]


def resolved(name: str, modules: Collection[str]) -> str | None:
    """The module that a name stands for or is in; None where that is none of ours."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


@cache
def imports() -> tuple[Import, ...]:
    found = []
    for module, path in files().items():
        for node in statements(path):
            targets = {resolved(name, files()) for name in named_by(module, path, node)} - {None, module}
            found += [Import(module, target, node.lineno) for target in sorted(map(str, targets))]
    return tuple(found)


def room(module: str) -> str:
    """The top-level file or folder that a module is in; all of ``problems`` is one."""
    package, _, rest = module.partition(".")
    if package != "stiffml":
        return package
    return rest.partition(".")[0] or "__init__"


def shortest_circle(edges: Iterable[tuple[str, str]]) -> list[str]:
    """The nodes of a shortest circle, the first one again at its end; empty where there is none."""
    graph: dict[str, list[str]] = {}
    for a, b in edges:
        graph.setdefault(a, []).append(b)
    circles = [circle for start in sorted(graph) if (circle := _back_to(start, graph))]
    return min(circles, key=len, default=[])


def _back_to(start: str, graph: Mapping[str, list[str]]) -> list[str]:
    """A shortest way from a node to itself, by breadth first."""
    before: dict[str, str] = {}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for follower in graph.get(node, ()):
            if follower == start:
                way = [node]
                while way[-1] != start:
                    way.append(before[way[-1]])
                return [*way[::-1], start]
            if follower not in before:
                before[follower] = node
                queue.append(follower)
    return []


def described(found: Iterable[Import]) -> str:
    return "\n".join(f"  {files()[i.module].relative_to(ROOT)}:{i.line} imports {i.imported}" for i in found)


def test_circles_are_found() -> None:
    edges = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a"), ("c", "b"), ("x", "a")]
    assert shortest_circle(edges) == ["b", "c", "b"]
    assert shortest_circle([("a", "b"), ("b", "c"), ("a", "c")]) == []
    source = "if TYPE_CHECKING:\n    from .b import C\ndef f():\n    import p.d.e\n    from q import g\n"
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = [name for node in nodes for name in named_by("p.a", Path("p/a.py"), node)]
    assert sorted(names) == ["p.b.C", "p.d.e", "q.g"]
    assert [resolved(name, {"p", "p.b", "p.d"}) for name in sorted(names)] == ["p.b", "p.d", None]


def test_no_file_imports_itself_by_way_of_others() -> None:
    circle = shortest_circle((i.module, i.imported) for i in imports())
    steps = [i for a, b in itertools.pairwise(circle) for i in imports() if (i.module, i.imported) == (a, b)]
    assert not circle, f"a circle of files, {' → '.join(circle)}:\n{described(steps)}"


def test_no_room_imports_itself_by_way_of_others() -> None:
    between = [i for i in imports() if room(i.module) != room(i.imported)]
    circle = shortest_circle((room(i.module), room(i.imported)) for i in between)
    pairs = list(itertools.pairwise(circle))
    steps = [i for i in between if (room(i.module), room(i.imported)) in pairs]
    assert not circle, f"a circle of rooms, {' → '.join(circle)}:\n{described(steps)}"


def test_every_room_has_its_place() -> None:
    rooms = {room(module) for module in files()}
    placed = [name for level in ORDER for name in level]
    assert len(placed) == len(set(placed))
    missing = rooms - set(placed)
    assert not missing, f"{missing}: give it a place in ORDER and in the picture of CONTRIBUTING.md"
    gone = set(placed) - rooms
    assert not gone, f"{gone} is in ORDER and nowhere else"


def test_rooms_import_from_those_below() -> None:
    level = {name: number for number, names in enumerate(ORDER) for name in names}
    ground = set(ORDER[0])  # which may import from one another
    upwards = []
    for i in imports():
        a, b = room(i.module), room(i.imported)
        if a in level and b in level and a != b and level[b] >= level[a] and not {a, b} <= ground:
            upwards.append(i)
    assert not upwards, f"imports against the order of rooms:\n{described(upwards)}"


@pytest.mark.parametrize("forbidden", ["petsc", "native", "gradients", "linear"])
def test_a_run_knows_no(forbidden: str) -> None:
    """What takes steps, solves systems or differentiates is handed in."""
    wrong = [i for i in imports() if room(i.module) == "run" and room(i.imported) == forbidden]
    assert not wrong, f"run/ imports {forbidden}/:\n{described(wrong)}"


def test_one_file_imports_petsc4py() -> None:
    found = {
        str(path.relative_to(ROOT))
        for module, path in files().items()
        for node in statements(path)
        for name in named_by(module, path, node)
        if name.partition(".")[0] == "petsc4py"
    }
    assert found == {"stiffml/petsc/library.py"}


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_no_file_is_long(folder: str) -> None:
    lengths = {p.relative_to(ROOT): len(p.read_text().splitlines()) for p in (ROOT / folder).rglob("*.py")}
    long = {str(path): lines for path, lines in lengths.items() if lines > LONGEST}
    assert not long, f"over {LONGEST} lines, to be divided by role: {long}"
