"""What the first use of an environment needs is there after the set-up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "environment" / "first_use.py"

USE = """
from stiffml.compiled import cache

def refused(*_):
    raise AssertionError("a library is made that the set-up has left out")

cache._make = refused

from stiffml.all_at_once.in_c.library import library as known_steps
from stiffml.compiled.factors import has_factors
from stiffml.native.compiled_run.library import library as samples
from stiffml.petsc.compiled_run.library import library as steps

assert has_factors()
assert not any(isinstance(find(), Exception) for find in (known_steps, samples, steps))
"""


def test_the_set_up_makes_what_does_not_depend_on_a_function(tmp_path: Path) -> None:
    places = {"STIFFML_CACHE": str(tmp_path / "code"), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    environment = {**os.environ, **places}
    (tmp_path / "matplotlib").mkdir()
    subprocess.run([sys.executable, SCRIPT], check=True, env=environment)
    assert len(list((tmp_path / "code").glob("*.so"))) == 4
    assert list((tmp_path / "matplotlib").glob("fontlist*"))
    subprocess.run([sys.executable, "-c", USE], check=True, env=environment)
