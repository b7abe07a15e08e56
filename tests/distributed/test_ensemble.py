"""Ensemble on one and several processes; what is checked there is in helpers/ensemble_script.py."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from small_problems import SmallNetwork, times

from stiffml import Grid, ODEBlock
from stiffml.distributed import Ensemble

SCRIPT = Path(__file__).parents[1] / "helpers" / "ensemble_script.py"
PATIENCE = 120  # seconds, on a busy machine


def launch(launcher: str, count: int, *arguments: str) -> tuple[int, str, str]:
    """Run the script on several processes: exit code, stdout, stderr; a failed test if it does not end."""
    if launcher == "mpiexec":
        beside = Path(sys.executable).with_name("mpiexec")
        mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
        if mpiexec is None or importlib.util.find_spec("mpi4py") is None:
            pytest.skip("needs mpiexec and mpi4py")
        command = [mpiexec, "-n", str(count), sys.executable]
    else:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    process = subprocess.Popen(
        [*command, str(SCRIPT), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"{launcher} {arguments[0]} does not end\n{out}\n{err}")
    return process.returncode, out, err


VALUES = ("uneven_shares", "one_sample", "tuple_state", "training")


@pytest.mark.alone
@pytest.mark.parametrize(
    ("launcher", "count", "checks"),
    [("mpiexec", 1, VALUES), ("mpiexec", 2, ["all"]), ("torchrun", 2, ["all"])],
)
def test_several_processes_do_what_one_does(launcher: str, count: int, checks: Sequence[str]) -> None:
    code, out, err = launch(launcher, count, "together", *checks)
    assert code == 0, out + err
    for rank in range(count):
        assert f"done: rank {rank} of {count}" in out


SAID = {
    "raise": "rank 1 (samples 3 to 4) failed with ValueError: the rate is negative",
    "exit": "rank 2 of 3 exits with 3",
    "leave": "rank 1 at the end of the program",
    "kill": "",
}


@pytest.mark.alone
@pytest.mark.parametrize(
    ("launcher", "count", "how", "checks"),
    [
        ("mpiexec", 2, "raise", ()),
        ("mpiexec", 2, "kill", ()),
        ("mpiexec", 2, "leave", ()),
        ("mpiexec", 3, "exit", VALUES),  # in one go, to start fewer processes
        ("torchrun", 2, "kill", ()),
    ],
)
def test_an_end_of_one_process_ends_all(launcher: str, count: int, how: str, checks: Sequence[str]) -> None:
    code, out, err = launch(launcher, count, how, *checks)
    assert f"done: rank 0 of {count}" in out, out + err
    assert "went on" not in out
    assert code != 0
    assert SAID[how] in err, err


def test_one_process(network: SmallNetwork) -> None:
    block = ODEBlock(network, times(0, 1), batch_dims=1, method="cn", steps=Grid(4))
    layer = Ensemble(block)
    y0 = torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(layer(y0), block(y0))
    layer(y0).sum().backward()
    assert network.out.bias.grad is not None
    assert set(layer.state_dict()) == {f"module.{name}" for name in block.state_dict()}
    assert sys.excepthook is sys.__excepthook__ or "stiffml" not in sys.excepthook.__module__
