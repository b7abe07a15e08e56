"""Names of other projects lead to their documentation, without a network; what leads nowhere has a reason."""

from __future__ import annotations

import importlib
import re
import sys
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
try:
    names = importlib.import_module("outside_names")
    pages = importlib.import_module("generated_pages")
finally:
    sys.path.remove(str(ROOT / "docs"))

ENTRIES = [(project, *line.split(" ", 4)) for project in names.addresses() for line in names.entries(project)]
REGISTRIES = ("pypi.org", "anaconda.org", "conda-forge", "files.pythonhosted")


def test_every_project_has_an_address() -> None:
    addresses = names.addresses()
    assert {"python", "numpy", "scipy", "xarray", "torch", "matplotlib"} <= set(addresses)
    for title, address in addresses.values():
        assert title
        assert re.fullmatch(r"https://[\w.]+(/\w+)*/", address)
        assert not any(registry in address for registry in REGISTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry[0]}:{entry[1]}")
def test_an_entry_is_one_of_sphinx_and_its_name_exists(entry: tuple[str, ...]) -> None:
    _, name, role, priority, address, title = entry
    assert priority in {"-1", "0", "1"}
    assert "$" not in address[:-1], "Sphinx reads it as the name at the end alone"
    assert title
    kind, of = role.split(":")
    if kind == "py":
        assert of in {"class", "function", "data", "module"}
        assert _exists(name), f"there is no {name}"
    else:
        assert name in names.BY_NUMPYDOC | {"array_like"}


def _exists(name: str) -> bool:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError as error:
            if error.name == parts[0] and error.name in {"mpi4py", "pandas"}:
                pytest.skip(f"{parts[0]} is not installed")
            continue
        except ImportError:  # mpi4py without a library of MPI
            pytest.skip(f"{parts[0]} cannot be imported")
        for part in parts[count:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return hasattr(importlib.import_module("builtins"), name)


def test_inventories_have_what_the_site_uses_and_no_more() -> None:
    by_numpydoc = names.BY_NUMPYDOC | {"array_like", "numpy.ndarray"}
    spare = {name for _, name, *_ in ENTRIES} - names.used() - by_numpydoc
    assert not spare - {"matplotlib.style.use"}, "of plt.style.use, by its own name"
    missing = set(names.ALIASES.values()) - {name for _, name, *_ in ENTRIES}
    assert missing == {":term:`python:mapping`"}


def test_sphinx_reads_them(tmp_path: Path) -> None:
    inventory = pytest.importorskip("sphinx.util.inventory")
    mapping = names.write_all(tmp_path)
    read = {}
    for project, (address, file) in mapping.items():
        loaded = inventory.InventoryFile.loads(Path(file).read_bytes(), uri=address)
        read[project] = loaded.data if hasattr(loaded, "data") else loaded
        assert sum(map(len, read[project].values())) == len(names.entries(project))
    tensor = read["torch"]["py:class"]["torch.Tensor"]
    assert tensor.uri == "https://docs.pytorch.org/docs/stable/tensors.html#torch.Tensor"
    assert read["torch"]["py:function"]["torch.sin"].uri.endswith("/generated/torch.sin.html#torch.sin")


def test_small_ones_are_made_of_big_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small, big = tmp_path / "small", tmp_path / "big"
    small.mkdir()
    big.mkdir()
    first = {"scipy": "# SciPy, https://docs.scipy.org/doc/scipy/\n", "xarray": "# xarray, https://x/\n"}
    for name, text in first.items():
        (small / f"{name}.txt").write_text(text + ("# Written by hand\n" if name == "xarray" else ""))
    monkeypatch.setattr(names, "INVENTORIES", small)
    lines = ["scipy.integrate.solve_ivp py:function 1 a/$ -", "scipy.integrate.odeint py:function 1 b#$ -"]
    for title in ("SciPy", "xarray"):
        head = f"# Sphinx inventory version 2\n# Project: {title}\n# Version: 1\n"
        head += "# The remainder of this file is compressed using zlib.\n"
        (big / title).mkdir()
        (big / title / "objects.inv").write_bytes(head.encode() + zlib.compress("\n".join(lines).encode()))
    names.make(big)
    assert names.entries("scipy") == lines[:1]
    assert names.entries("xarray") == []


def test_code_is_read_for_its_names() -> None:
    code = "import numpy as np\nfrom torch import nn\nimport os\nnp.linalg.norm(nn.Linear(1, 2), os.sep, y.a)"
    found = set(names.names_of_code(code))
    assert found >= {"numpy.linalg.norm", "torch.nn.Linear", "os.sep"}
    assert not any(name.startswith("y") for name in found)


def test_prose_is_in_lower_case() -> None:
    words = names.prose(ROOT / "stiffml")
    assert {"of", "optional", "shape"} <= words
    assert not {word for word in words if not word.islower() or "." in word}


def test_every_exception_has_a_reason_and_is_still_one() -> None:
    classes = pages.classes()
    types = [
        of
        for room in ("stiffml", "problems")
        for path in (ROOT / room).rglob("*.py")
        for of in re.findall(r"^ *(?:[\w, *]+ : (.*)|([A-Z]\w+))$", path.read_text(), re.MULTILINE)
    ]
    words = set(re.findall(r"\w+", " ".join(map(" ".join, types))))
    for name, reason in names.WITHOUT_PAGE.items():
        assert len(reason.split()) > 4, name
        assert name not in classes, f"{name} has a page now"
        assert name in words, f"no type says {name}"
