"""The benchmarks of large fields run, at tiny sizes; what they say there is not judged."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from large_fields import growth, memory, ranks

SHORT = ["--t-end", "0.003"]


def results(folder: Path, name: str) -> dict[str, Any]:
    """The JSON file, all of whose numbers are finite; there is a picture too."""
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((folder / f"{name}.json").read_text())
    for row in [*found["cases"], *found["bounds"]]:
        numbers = [value for value in row.values() if isinstance(value, int | float)]
        assert numbers
        assert all(map(math.isfinite, numbers)), row
    assert found["machine"]["cores"] > 0
    return found


def test_growth(tmp_path: Path) -> None:
    growth.main(["--grids", "8", "16", "--ilu-up-to", "0", "--repeats", "1", *SHORT, "--out", str(tmp_path)])
    cases = results(tmp_path, "field_growth")["cases"]
    assert [row["unknowns"] for row in cases] == [128, 512]
    for row in cases:
        assert row["steps"] > 10
        assert row["adjoint_krylov_iterations"] > 0
        assert 0 < row["forward_outside"] < 1
        assert 0 < row["backward_outside"] < 1


def test_memory(tmp_path: Path) -> None:
    small = ["--grid", "8", "--preconditioner", "ilu"]
    memory.main([*small, *SHORT, "--out", str(tmp_path)])
    few, every = results(tmp_path, "field_memory")["cases"]
    assert (few["checkpoints"], every["checkpoints"]) == ("10", "stages")
    assert few["steps"] > 10
    assert few["gradient_norm"] == pytest.approx(every["gradient_norm"], rel=1e-6)


def test_ranks(tmp_path: Path) -> None:
    if importlib.util.find_spec("mpi4py") is None or not (
        Path(sys.executable).with_name("mpiexec").exists() or shutil.which("mpiexec")
    ):
        pytest.skip("needs mpiexec and mpi4py")
    ranks.main(["--grid", "8", *SHORT, "--out", str(tmp_path)])
    found = results(tmp_path, "field_ranks")
    assert [row["ranks"] for row in found["cases"]] == [1, 2]
    differences = [bound for bound in found["bounds"] if "difference" in bound["what"]]
    assert len(differences) == 3
    for bound in differences:
        assert bound["met"], bound
