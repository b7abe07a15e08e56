"""Peak memory and wall time of a solve and its backward pass, by what ``Discrete(checkpoints=…)`` keeps.

    python benchmarks/checkpoint_memory.py [--size 1000000] [--steps 200] [--methods cn bdf2]

A reaction A ⇌ 2 B with a stiff rate in each of size/2 independent samples; gradients with respect to the rate
and to all initial values. Every case runs in a process of its own. Memory is the growth of the process from
just before the solve to its peak, in states (8 bytes a number): kept states, PETSc's vectors, Jacobians,
factors and torch's temporaries alike.

Writes benchmarks/results/checkpoint_memory.json and checkpoint_memory.png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
METHODS = ("cn", "beuler", "bdf2", "dirk-s212", "rosw-2m")
CHECKPOINTS = ("stages", "solutions", "disk", "10", "20")

EXTRA = 30
"""States that a run with k checkpoints may take besides those k."""
EACH = 1.1
"""States that a further checkpoint may take."""
SLOWDOWN = 2.5
"""Times the wall time of storing everything."""


@dataclass(frozen=True)
class Cost:
    """Growth of the process up to its peak, in states; wall times in seconds; dL/d(rate)."""

    method: str
    checkpoints: str
    size: int
    steps: int
    forward_states: float
    peak_states: float
    forward_s: float
    backward_s: float
    gradient: float

    @property
    def wall_s(self) -> float:
        return self.forward_s + self.backward_s


def measure(method: str, checkpoints: str, size: int, steps: int) -> Cost:
    """One case in a fresh process: ``checkpoints`` is a number, "stages", "solutions" or "disk"."""
    command = [sys.executable, __file__, "--case", method, checkpoints, str(size), str(steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _case(method: str, checkpoints: str, size: int, steps: int) -> Cost:
    import torch

    from stiffml import Discrete, Disk, Fixed, solve

    torch.set_num_threads(1)
    rate = torch.tensor(40.0, dtype=torch.float64, requires_grad=True)

    def reaction(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        a, b = y.unbind(-1)
        speed = rate * (a - b**2)
        return torch.stack([-speed, 2 * speed], dim=-1)

    def run(samples: int, count: int, folder: str) -> tuple[int, float, float, float]:
        kept = int(checkpoints) if checkpoints.isdecimal() else checkpoints
        adjoint = Discrete(checkpoints=Disk(folder) if kept == "disk" else kept)
        y0 = torch.rand(samples, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y0.requires_grad_()
        t = torch.tensor([0, 1.0], dtype=torch.float64)
        before, began = _memory("VmRSS"), time.perf_counter()
        y = solve(
            reaction,
            y0,
            t,
            method=method,
            steps=Fixed(1 / count),
            batch_dims=1,
            params=[rate],
            adjoint=adjoint,
        ).y
        between, forward = time.perf_counter(), _memory("VmHWM")
        (y[-1] ** 2).mean().backward()
        return before, forward, between - began, time.perf_counter() - between

    with tempfile.TemporaryDirectory() as folder:
        run(2, 3, folder)  # imports, PETSc's own start, code that torch compiles at its first use
        rate.grad = None
        before, forward, forward_s, backward_s = run(size // 2, steps, folder)
    state = size * 8
    return Cost(
        method,
        checkpoints,
        size,
        steps,
        (forward - before) / state,
        (_memory("VmHWM") - before) / state,
        forward_s,
        backward_s,
        float(rate.grad),
    )


def _memory(name: str) -> int:
    """Bytes; Linux only. Unlike getrusage's, the peak here is not inherited from the parent process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        m, c, n, k = sys.argv[2:]
        print(json.dumps(asdict(_case(m, c, int(n), int(k)))))
