"""What the benchmarks share: processes of their own, memory, facts of the machine, bounds, result files."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "200000"}
"""Environment in which large arrays go back to the system."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def memory(name: str) -> int:
    """Bytes; Linux only. Unlike getrusage's, the peak here is not inherited from the parent process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def machine() -> dict[str, str | int]:
    """Where numbers were taken."""
    import torch

    return {
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 0,
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def in_own_process(
    script: str,
    arguments: Sequence[object],
    environment: Mapping[str, str | None],
    launcher: Sequence[str] = (),
) -> dict:
    """Run a script with ``environment`` added to this one; what it printed last, as JSON.

    A variable that is None is taken out.
    """
    changed = {**os.environ, **environment}
    inherited = {name: value for name, value in changed.items() if value is not None}
    command = [*launcher, sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=inherited)
    return json.loads(done.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Bound:
    """A measured value and what it may be at most, or with ``at_least`` at least."""

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def row(self) -> dict:
        """For a JSON file."""
        return {**asdict(self), "met": self.met}

    def __str__(self) -> str:
        most = "at least" if self.at_least else "at most"
        return f"{self.what}: {self.value:.3g} ({most} {self.limit:g}): {'met' if self.met else 'missed'}"


def spaced(number: int) -> str:
    """12 345"""
    return f"{number:,}".replace(",", "\u202f")


def store(result: dict, draw: Callable[[dict, Path], None], folder: Path, name: str) -> None:
    """Write NAME.json and NAME.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(result, folder / f"{name}.png")
