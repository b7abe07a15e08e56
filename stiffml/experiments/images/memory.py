"""Peak memory of a gradient by the number of steps, measured in a process of its own for each way.

It is the growth of the process (Linux only) from just before the solve to its peak, which is reset before
each number of steps, with an allocator that returns large arrays to the system at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

METHOD = "rk4"
SHAPE = (16, 7, 7)
"""Of the state of an image of 28×28 pixels."""
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "100000", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PROCESS = Path("/proc/self")


def peaks(way: str, steps: Sequence[int], batch: int) -> list[int]:
    """Bytes that the gradient of a solve takes for each number of steps, for a batch of images."""
    start = f"from {__name__} import measure; measure()"
    command = [sys.executable, "-c", start, way, str(batch), *map(str, steps)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | ENVIRONMENT
    )
    return json.loads(done.stdout)


def measure() -> None:
    """What the process of its own does, with its arguments from the command line."""
    import torch

    from stiffml.experiments.images.networks import Convolutions
    from stiffml.experiments.images.ways import solve

    way, (batch, *steps) = sys.argv[1], map(int, sys.argv[2:])
    torch.manual_seed(0)
    func = Convolutions()

    def grown(samples: int, count: int) -> int:
        y0 = torch.randn(samples, *SHAPE, requires_grad=True)
        (PROCESS / "clear_refs").write_text("5")  # the peak so far is forgotten
        before = _status("VmRSS")
        (solve(way, func, y0, METHOD, count) ** 2).mean().backward()
        return _status("VmHWM") - before

    grown(2, 2)  # what is imported and set up at the first use
    print(json.dumps([grown(batch, count) for count in steps]))


def _status(name: str) -> int:
    for line in (PROCESS / "status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")
