"""Fits that are killed, by SIGKILL at random moments: they end with the same numbers, bit by bit."""

from __future__ import annotations

import json
import subprocess
import sys

import kill_script
import pytest
from fit_script import FITS

QUICK = ("adam", "lbfgs", "lm-ladder")


def run(*arguments: str) -> dict:
    command = [sys.executable, kill_script.__file__, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def require_same(name: str, count: int) -> None:
    found = run(name, str(count), "0")
    assert found["kills"] == count
    assert found["different"] == 0, f"look at the state_dict of Descent or Climb: {found}"


@pytest.mark.parametrize("name", QUICK)
def test_a_killed_fit_ends_the_same(name: str) -> None:
    require_same(name, 3)


@pytest.mark.sweep
@pytest.mark.parametrize("name", FITS)
def test_every_fit_killed_20_times_ends_the_same(name: str) -> None:
    """``kills.txt`` has what this gave; its first line says how it was made."""
    require_same(name, 20)


@pytest.mark.parametrize("name", ["adam"])
def test_a_kill_in_the_middle_of_writing_a_state(name: str) -> None:
    """With half of the file written, with all of it before it is renamed, and with no newest state."""
    found = run(name, "torn")
    assert found == {"killed": [True] * 3, "left": [], "same": True}
