"""Benchmarks are seldom run: that each of them can be imported shows that what they take is still there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OTHERS = ("peers",)
"""Whose files need what only the environment of other tools has."""

SCRIPT = """
import runpy, sys
for path in sys.argv[1:]:
    sys.path.insert(0, path.rsplit("/", 1)[0])
    try:
        runpy.run_path(path, run_name="looked_at")
    except Exception as error:
        print(f"{path}: {type(error).__name__}: {error}")
"""


def test_every_benchmark_can_be_imported() -> None:
    files = [
        str(path)
        for path in sorted((ROOT / "benchmarks").rglob("*.py"))
        if not set(OTHERS) & set(path.relative_to(ROOT).parts)
    ]
    assert len(files) > 20
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    assert not done.stdout, done.stdout
