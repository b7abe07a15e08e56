"""Solves of fields on several processes against the same on one: states and all gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.alone  # several processes wait for one another

SCRIPT = Path(__file__).parents[1] / "helpers" / "field_solve_script.py"
MPIEXEC = Path(sys.executable).with_name("mpiexec")
TOGETHER = 1e-10
"""Systems are solved to 1e-13 in another norm on other numbers of processes; sums differ by rounding."""


def run(processes: int, folder: Path, few: bool = False) -> dict[str, np.ndarray]:
    out = folder / f"{processes}.npz"
    command = [MPIEXEC, "-n", str(processes), sys.executable, SCRIPT, out, *(["--few"] if few else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, f"on {processes} processes:\n{done.stdout}{done.stderr}"
    with np.load(out) as found:
        return dict(found)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return run(1, tmp_path_factory.mktemp("fields"))


@pytest.mark.parametrize(("processes", "few"), [(2, False), pytest.param(4, True, marks=pytest.mark.sweep)])
def test_processes_agree(processes: int, few: bool, alone: dict[str, np.ndarray], tmp_path: Path) -> None:
    # Four processes on two cores wait for one another more than they work: a few cases do.
    together = run(processes, tmp_path, few)
    assert few or together.keys() == alone.keys()
    assert "event: dL/dinflow" in together
    for name in together:
        expected = alone[name]
        off = np.abs(together[name] - expected).max() / np.abs(expected).max()
        assert off <= TOGETHER, (
            f"{name} is off by {off:.1e} on {processes} processes; look at what is summed over processes "
            "(system/space.py and its uses) and at distributed/exchange.py"
        )
