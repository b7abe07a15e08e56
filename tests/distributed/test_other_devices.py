"""States on a device that is not the host: the same results. The device is that of elsewhere.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "helpers" / "elsewhere_script.py"
MPIEXEC = [str(Path(sys.executable).with_name("mpiexec")), "-n", "2", sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.mark.parametrize(
    ("launcher", "which", "bound"),
    [
        ([sys.executable], "alone", 1e-14),
        # Sums over samples in another order.
        pytest.param(MPIEXEC, "together", 1e-12, marks=pytest.mark.alone),
        pytest.param(TORCHRUN, "together", 1e-12, marks=pytest.mark.alone),
    ],
    ids=["one process", "mpiexec", "torchrun"],
)
def test_results_are_those_on_the_host(launcher: list[str], which: str, bound: float) -> None:
    if launcher is MPIEXEC and not Path(MPIEXEC[0]).exists():
        pytest.skip("needs the mpiexec beside Python")
    done = subprocess.run(
        [*launcher, str(SCRIPT), which],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout)
    assert len(results) >= 5
    for name, off in results.items():
        assert not isinstance(off, str), f"{name}: {off}"
        assert off <= bound, f"{name} is off by {off:.1e}; look for what is made on the host and stays there"
