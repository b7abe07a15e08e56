"""Experiments run in each form, say what they found, and use the public names alone."""

from __future__ import annotations

import ast
import importlib
import json
import math
from pathlib import Path

import pytest
import xarray
from typer.testing import CliRunner

from stiffml import experiments
from stiffml.cli import app

ROOT = Path(__file__).resolve().parents[2]
ROOM = ROOT / "stiffml" / "experiments"
STORED = ROOT / "benchmarks" / "results" / "experiments"
FRAMEWORK = {"catalogue", "experiment", "running"}
PUBLIC = ("stiffml", "problems", "problems.chemistry", "problems.trajectories", "stiffml.experiments")
ROOMS = ("training", "training.data", "closures", "diagnostics", "distributed", "plotting")

each = pytest.mark.parametrize("name", experiments.names())


@pytest.mark.parametrize(
    "form", ["quick", *(pytest.param(form, marks=pytest.mark.sweep) for form in ("medium",))]
)
@each
def test_it_runs(name: str, form: experiments.Form, tmp_path: Path) -> None:
    for package in experiments.load(name).requires:
        pytest.importorskip(package)
    outcome = experiments.run(name, form, tmp_path)
    assert outcome.findings, "an experiment finds something"
    for finding in outcome.findings:
        assert finding.met is not False or finding.differs, f"{finding}: say why the bound is missed"
    with xarray.open_dataset(tmp_path / "result.nc", engine="h5netcdf") as data:
        assert data.attrs["form"] == form
        for variable in data.data_vars.values():
            assert "long_name" in variable.attrs, f"{variable.name}: give its long_name and units"
            assert "units" in variable.attrs, f"{variable.name}: give its units"
    told = json.loads((tmp_path / "findings.json").read_text())
    assert told["command"] == f"stiffml experiment {name} --form {form}"
    assert [row["met"] for row in told["findings"]] == [finding.met for finding in outcome.findings]
    pictures = list(tmp_path.glob("*.png"))
    assert pictures, "an experiment shows something"
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


@each
def test_its_full_form_is_stored(name: str) -> None:
    """With the command, the machine, a picture; and what is missed has a reason."""
    told = json.loads((STORED / name / "findings.json").read_text())
    assert told["form"] == "full"
    assert told["title"] == experiments.load(name).title, "run the full form again"
    assert told["machine"]["torch"]
    for row in told["findings"]:
        assert row["met"] is not False or row["differs"], f"{row['what']}: say why it is missed"
    assert list((STORED / name).glob("*.png"))


def test_experiments_use_public_names() -> None:
    """Readers can do what experiments do."""
    for path in sorted(ROOM.rglob("*.py")):
        if path.stem in FRAMEWORK or path.name == "__init__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            module = node.module
            if not module.startswith(("stiffml", "problems")) or module.startswith("stiffml.experiments."):
                continue
            known = {*PUBLIC, *(f"stiffml.{room}" for room in ROOMS)}
            assert module in known, f"{path.name}:{node.lineno}: {module} is private"
            if module != "problems.trajectories":
                public = importlib.import_module(module).__all__
                for alias in node.names:
                    assert alias.name in public, (
                        f"{path.name}:{node.lineno}: {module}.{alias.name} is private"
                    )


@pytest.mark.parametrize(
    ("value", "bounds", "met", "text"),
    [
        (1.0, {}, None, ""),
        (1.0, {"at_most": 1.0}, True, "≤ 1"),
        (2.0, {"at_most": 1.0}, False, "≤ 1"),
        (0.5, {"at_least": 0.9, "at_most": 1.0}, False, "≥ 0.9, ≤ 1"),
        (math.nan, {"at_most": 1.0}, False, "≤ 1"),
    ],
)
def test_findings(value: float, bounds: dict[str, float], met: bool | None, text: str) -> None:
    finding = experiments.Finding("a number", value, **bounds)
    assert finding.met is met
    assert finding.bound == text


def test_the_command(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["experiment", "list"])
    assert listed.exit_code == 0
    for name in experiments.names():
        assert name in listed.output
    wrong = CliRunner().invoke(app, ["experiment", "pendulam", "--out", str(tmp_path / "new")])
    assert wrong.exit_code == 2
    assert "Did you mean 'pendulum'" in wrong.stderr
    assert not (tmp_path / "new").exists()
    form = CliRunner().invoke(app, ["experiment", "pendulum", "--form", "huge"])
    assert form.exit_code == 2
    assert "quick, medium, full" in form.stderr
