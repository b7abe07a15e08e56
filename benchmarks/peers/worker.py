"""One side of a comparison in a process of its own: a line of JSON asks for a run, a line answers.

Processes stay, so that what was imported and compiled stays too, and runs of both sides can take turns.
Every process is bound to the same one core, which holds any library to one thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np

THREADS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}


@dataclass(frozen=True)
class Run:
    """Seconds, the final state, the gradient by y0 and by the weights or None, and counts such as steps."""

    seconds: float
    state: np.ndarray
    gradient: dict[str, np.ndarray] | None
    counts: dict[str, int]


class Worker:
    """The asking end.

    ``definition`` tells the side what to solve; arrays are exchanged through a file in ``folder``.
    """

    def __init__(self, python: Path, script: Path, definition: Path | str, folder: Path) -> None:
        core = max(os.sched_getaffinity(0))
        self.exchange = folder / f"{script.stem}-exchange.npz"
        found = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [python, script, definition],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **THREADS, "PYTHONPATH": os.pathsep.join(found)},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        self.about = self._read()
        """What the side says of itself at its start: versions, its rhs at y0."""

    def ask(self, solver: str, rtol: float, gradient: bool) -> Run:
        """
        Raises
        ------
        RuntimeError
            If the solve failed; with the side's own words.
        """
        request = {"solver": solver, "rtol": rtol, "gradient": gradient, "exchange": str(self.exchange)}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        with np.load(self.exchange) as file:
            arrays = dict(file)
        return Run(answer["seconds"], arrays.pop("state"), arrays or None, answer["counts"])

    def _read(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[1]} ended with status {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve(about: dict, run: Callable[[str, float, bool], Run]) -> None:
    """The answering end: say what this is, then run (solver, rtol, gradient) as asked."""
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        print(json.dumps(about), file=out, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            exchange = request.pop("exchange")
            try:
                done = run(**request)
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
            else:
                np.savez(exchange, state=done.state, **(done.gradient or {}))
                answer = {"seconds": done.seconds, "counts": done.counts}
            print(json.dumps(answer), file=out, flush=True)
