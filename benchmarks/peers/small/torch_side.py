"""CVODE, and scipy's Radau and BDF, on stiffml's own function: the side of compare.py --functions eager.

Runs where torch and stiffml are; scikit-SUNDAE is taken from .venv-peers. The function is the torch module
that stiffml solves, without gradients; Jacobians are the integrators' own, by differences.
"""

from __future__ import annotations

import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import scipy
import torch
from systems import load
from torch_model import model_of
from worker import Run, serve

ROOT = Path(__file__).resolve().parents[3]
# Last, so that everything else is the environment's own.
sys.path += [str(found) for found in (ROOT / ".venv-peers/lib").glob("python*/site-packages")]

from sksundae.cvode import CVODE  # noqa: E402

SOLVERS = ("CVODE", "scipy Radau", "scipy BDF")


def main(path: str) -> None:
    torch.set_num_threads(1)
    system, *_ = load(path)
    model, t = model_of(system), system.t

    def slopes(t: float, y: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.tensor(t, dtype=torch.float64), torch.tensor(y)).numpy()

    def fill(t: float, y: np.ndarray, into: np.ndarray) -> None:
        into[:] = slopes(t, y)

    def run(solver: str, rtol: float, gradient: bool) -> Run:
        if gradient:
            raise RuntimeError(f"{solver} has no gradients")
        atol = rtol * system.threshold
        began = time.process_time()
        if solver == "CVODE":
            integrator = CVODE(fill, method="BDF", rtol=rtol, atol=atol, max_num_steps=100_000)
            solution = integrator.solve(t, system.y0)
            states, message = np.asarray(solution.y), str(solution.message)
        else:
            with warnings.catch_warnings(action="ignore"):
                solution = scipy.integrate.solve_ivp(
                    slopes,
                    (t[0], t[-1]),
                    system.y0,
                    method=solver.removeprefix("scipy "),
                    t_eval=t,
                    rtol=rtol,
                    atol=atol,
                )
            states, message = solution.y.T, solution.message
        seconds = time.process_time() - began
        if not solution.success:
            raise RuntimeError(message)
        return Run(seconds, states, None, {"rhs_evals": int(solution.nfev)})

    about = {
        "versions": {"scikit-sundae": version("scikit-sundae"), "scipy": scipy.__version__},
        "solvers": list(SOLVERS),
        "rhs": slopes(0.0, system.y0).tolist(),
    }
    serve(about, run)


if __name__ == "__main__":
    main(sys.argv[1])
