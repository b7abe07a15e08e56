"""The benchmarks run, at tiny sizes; what they say there is not judged."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import all_at_once
import checkpoint_planning
import compiled_steps
import eager_gradients
import ensembles
from large_fields import gradients, growth, memory, million, ranks
from large_fields.problem import Fourier, diffusion_matrix, whole_start

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
    found = [(row["preconditioner"], row["unknowns"]) for row in cases]
    assert found == [("gamg", 128), ("fft", 128), ("gamg", 512), ("fft", 512)]
    for row in cases:
        assert row["steps"] > 10
        assert row["adjoint_krylov_iterations"] > 0
        assert 0 < row["forward_outside"] < 1
        assert 0 < row["backward_outside"] < 1
    for multigrid, transforms in (cases[:2], cases[2:]):
        # Both solve the same steps, to Newton's tolerance, a part of rtol = 1e-5.
        assert transforms["gradient_norm"] == pytest.approx(multigrid["gradient_norm"], rel=1e-5)


@pytest.mark.parametrize("points", [7, 8])
def test_transforms_invert_the_diffusion(points: int) -> None:
    inverse, shift = Fourier(points), 0.7
    inverse.update(torch.tensor(0.0), whole_start(points), shift)
    residual = whole_start(points)
    for x in (inverse.apply(residual), inverse.apply_transpose(residual)):
        again = shift * x.flatten() - torch.from_numpy(diffusion_matrix(points) @ x.flatten().numpy())
        torch.testing.assert_close(again.view_as(residual), residual, rtol=1e-12, atol=1e-12)


def test_gradients(tmp_path: Path) -> None:
    gradients.main(["--grid", "4", "--t-end", "3e-4", "--out", str(tmp_path)])
    found = results(tmp_path, "field_gradients")
    assert len(found["cases"]) == len(gradients.METHODS) * len(gradients.PRECONDITIONERS)
    for bound in found["bounds"]:
        assert bound["met"], f"{bound}; look at linear/krylov/, then at gradients/sweep.py"


def test_memory(tmp_path: Path) -> None:
    small = ["--grid", "8", "--preconditioner", "ilu"]
    memory.main([*small, *SHORT, "--out", str(tmp_path)])
    few, every = results(tmp_path, "field_memory")["cases"]
    assert (few["checkpoints"], every["checkpoints"]) == ("10", "stages")
    assert few["steps"] > 10
    assert few["gradient_norm"] == pytest.approx(every["gradient_norm"], rel=1e-6)


def test_million(tmp_path: Path) -> None:
    small = ["--grids", "8", "--checkpoints", "3"]
    million.main([*small, *SHORT, "--rtol", "1e-5", "--out", str(tmp_path)])
    found = results(tmp_path, "field_million")
    assert [row["unknowns"] for row in found["cases"]] == [128]
    assert found["cases"][0]["steps"] > 3  # than are kept
    assert len(found["bounds"]) == 1
    for bound in found["bounds"]:
        assert bound["met"], f"{bound}; look at linear/krylov/, then at gradients/sweep.py"


@pytest.mark.alone
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


def test_planning(tmp_path: Path) -> None:
    for found in checkpoint_planning.run([40], 4):
        checkpoint_planning.store(found, checkpoint_planning.draw, tmp_path, "checkpoint_planning")
    (case,) = results(tmp_path, "checkpoint_planning")["cases"]
    assert case["taken_again"] > 40
    assert 0 < case["forward_planning_s"] < case["forward_s"]
    assert 0 < case["backward_planning_s"] < case["backward_s"]


def test_steps_in_c(tmp_path: Path) -> None:
    compiled_steps.store(compiled_steps.run(1), compiled_steps.draw, tmp_path, "compiled_steps")
    cases = results(tmp_path, "compiled_steps")["cases"]
    assert [row["way"] for row in cases] == ["bare", *compiled_steps.WAYS] * 2
    ways = len(compiled_steps.WAYS)
    for first in (0, ways + 1):
        assert len({row["steps"] for row in cases[first + 1 : first + 1 + ways]}) == 1


def test_ensembles(tmp_path: Path) -> None:
    asked = ["--samples", "2", "--repeats", "1", "--out", str(tmp_path)]
    threads = torch.get_num_threads()
    try:
        ensembles.main(asked)
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "ensembles.png").exists()
    rows = json.loads((tmp_path / "ensembles.json").read_text())["ensembles"]
    assert [(row["end"], row["method"]) for row in rows] == [
        (span, method) for span in ensembles.SPANS for method in ensembles.METHODS
    ]
    for row in rows:
        assert 0 < row["in_c_ms"] < row["forward_ms"]


def test_eager_gradients(tmp_path: Path) -> None:
    asked = ["--methods", "bdf3", "--systems", "robertson", "--repeats", "1", "--limit", "0.1"]
    eager_gradients.main([*asked, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "eager_gradients.json").read_text())
    assert [row["method"] for row in found["cases"]] == ["bdf3", "bdf3"]
    (adjoint,) = found["adjoint"]
    assert all("failure" in row for row in adjoint["torchdiffeq"])
    assert min(row["error"] for row in adjoint["stiffml"]) <= eager_gradients.TARGET


def test_steps_all_at_once(tmp_path: Path) -> None:
    all_at_once.main(["--repeats", "1", "--rounds", "1", "--out", str(tmp_path)])
    cases = results(tmp_path, "all_at_once")["cases"]
    assert [(row["case"], row["way"]) for row in cases] == [
        (case, way) for case in all_at_once.CASES for way in all_at_once.WAYS
    ]
    for case in all_at_once.CASES:
        rows = [row for row in cases if row["case"] == case]
        iterations = {row["way"]: row["newton_iterations"] for row in rows}
        together = {way: count for way, count in iterations.items() if count <= 40}
        alone = {"one by one"}
        if case != "samples":  # C takes the steps of a single state one by one
            alone |= {"compiled, cold", "compiled, with a guess"}
        assert iterations.keys() - together.keys() == alone, f"{case}, {iterations}: look at stepping"
        jacobians = {row["way"]: row["jacobians"] for row in rows}
        assert jacobians["all at once"] > jacobians["with a guess"] > 0, f"{case}: look at simplified.py"
        assert jacobians["compiled, with a guess"] > 0, f"{case}: look at guess"
        for row in rows:
            assert 0 < row["backward_f"] < row["total_f"]
