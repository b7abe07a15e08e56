"""CVODE's side of the comparison on small systems, through scikit-SUNDAE; see compare.py. Needs .venv-peers.

Its right-hand side is a Python function that reads and writes numpy arrays; the Jacobian is CVODE's own, by
differences. It has no gradients.
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version

import numpy as np
from sksundae.cvode import CVODE
from systems import load
from worker import Run, serve


def main(path: str) -> None:
    system, *_ = load(path)
    p, t = system.p, system.t

    def rhs(t: float, y: np.ndarray, into: np.ndarray) -> None:
        into[:] = system.slopes(t, y, p)

    def run(solver: str, rtol: float, gradient: bool) -> Run:
        if gradient:
            raise RuntimeError("CVODE, as scikit-SUNDAE has it, has no gradients")
        began = time.process_time()
        # Its own test of errors is with weights rtol·|y| + atol too.
        integrator = CVODE(rhs, method="BDF", rtol=rtol, atol=rtol * system.threshold, max_num_steps=100_000)
        solution = integrator.solve(t, system.y0)
        seconds = time.process_time() - began
        if not solution.success:
            raise RuntimeError(str(solution.message))
        return Run(seconds, np.asarray(solution.y), None, {"rhs_evals": int(solution.nfev)})

    into = np.empty(len(system.y0))
    rhs(0.0, system.y0, into)
    about = {
        "versions": {"scikit-sundae": version("scikit-sundae")},
        "solvers": ["CVODE"],
        "rhs": into.tolist(),
    }
    serve(about, run)


if __name__ == "__main__":
    main(sys.argv[1])
