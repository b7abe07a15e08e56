"""Parameters that are found, and functions that have changed, where states are spread over processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone  # several processes wait for one another

SCRIPT = Path(__file__).parents[1] / "helpers" / "field_parameters_script.py"
MPIEXEC = Path(sys.executable).with_name("mpiexec")


@pytest.mark.parametrize("processes", [1, 2])
def test_all_processes_decide_alike(processes: int) -> None:
    """One that waits for the others would wait for ever."""
    command = [MPIEXEC, "-n", str(processes), sys.executable, SCRIPT]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"on {processes} processes:\n{done.stdout}{done.stderr}"
