"""The site is built without a warning, a lesson run for it as the gallery runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.sweep
def test_the_site_with_a_lesson(tmp_path: Path) -> None:
    pytest.importorskip("sphinx_gallery")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "STIFFML_TUTORIALS": "quick",
    }
    one = "sphinx_gallery_conf.filename_pattern=/01_"
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-D", one, "-b", "html", "docs"]
    run = subprocess.run(
        [*command, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    lesson = (tmp_path / "learn" / "01_what_stiffness_does.html").read_text()
    assert "_images/sphx_glr_01_what_stiffness_does_001.png" in lesson, "its pictures are not there"
    assert "generated/api/stiffml.solve.html" in lesson, "its code does not link to the reference"
    solve = (tmp_path / "generated" / "api" / "stiffml.solve.html").read_text()
    assert "learn/01_what_stiffness_does.html" in solve, "the reference does not link to its lessons"
    assert "docs.pytorch.org/docs/stable/tensors.html#torch.Tensor" in solve, "types do not link to torch"
    assert "docs.pytorch.org/docs/stable/generated/torch.tensor.html" in lesson, "nor does code"
    assert "<blockquote>" not in "".join(
        path.read_text() for path in (tmp_path / "generated" / "api").iterdir()
    ), "an indented line of a docstring that no :: comes before"
