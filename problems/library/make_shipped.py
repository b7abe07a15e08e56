"""Compute the reference states that ship with the library: ``python -m problems.library.make_shipped``.

Each is computed twice, by independent integrators: fields by Radau IIA and the explicit DOP853, ignitions by
LSODA and by Cantera's own rates and CVODE, others by LSODA and Radau IIA, the Oregonator's DAE with bromide
eliminated by hand.
Their difference is the relative error stated for the state.
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

import problems
from problems import Problem
from problems.datasets import save_dataset, solution_dataset
from problems.trajectories import RTOL, RTOL_FIELD, reference_trajectory

TIMES = {
    "h2air": (3e-4, 1e-3),
    "ch4air": (3e-3, 1e-2),
    "burgers": (1.0, 5.0),
    "ks": (25.0, 50.0),
    "brusselator": (1.5, 11.5),
    "gray_scott": (1000.0, 2000.0),
    "allen_cahn": (20.0, 70.0),
    "fitzhugh_nagumo": (100.0, 200.0),
    "lotka_volterra": (5.0, 10.0),
    "spiral": (12.5, 25.0),
    "orego_dae": (180.0, 360.0),
}
MECHANISMS = {"h2air": "h2o2.yaml", "ch4air": "gri30.yaml"}
FLOOR = 1e-9
"""Mass fractions below this do not count."""
FOLDER = Path(__file__).parent / "data"


def make(name: str) -> None:
    """Compute, compare, and write ``data/<name>.nc``."""
    problem = problems.load(name).make()  # without references: those are what is made here
    times = np.array([problem.t_span[0], *TIMES[name]])
    before = time.perf_counter()
    y = (quasi_steady_oregonator if name == "orego_dae" else reference_trajectory)(problem, times)[1:]
    if name == "orego_dae":
        source = f"LSODA of scipy {version('scipy')} at rtol {RTOL:g}, without bromide"
        floor, other, others = 0.0, "Radau IIA", quasi_steady_oregonator(problem, times, "Radau")[1:]
    elif name in MECHANISMS:
        source = f"LSODA of scipy {version('scipy')} at rtol {RTOL:g}"
        floor, other, others = FLOOR, "CVODE", by_cantera(problem, MECHANISMS[name], times[1:])
    elif problem.kind != "pde":
        source = f"LSODA of scipy {version('scipy')} at rtol {RTOL:g}"
        floor, other, others = 0.0, "Radau IIA", reference_trajectory(problem, times, method="Radau")[1:]
    else:
        source = f"Radau IIA of scipy {version('scipy')} at rtol {RTOL_FIELD:g}"
        floor, other, others = 0.0, "DOP853", reference_trajectory(problem, times, method="DOP853")[1:]
    grid = tuple(range(2, y.ndim))
    size = np.maximum(np.abs(y).max(axis=grid, keepdims=True), floor)
    difference = float((np.abs(y - others) / size).max())
    data = solution_dataset(problem, times[1:], y)
    data.attrs.update(
        source=source,
        verified=f"{other} agrees to {difference:.1e}",
        rtol_valid=max(difference, 1e-12),
        floor=floor,
        command="python -m problems.library.make_shipped",
    )
    data["state"].encoding.update(zlib=True, complevel=9, shuffle=True)
    FOLDER.mkdir(exist_ok=True)
    save_dataset(data, FOLDER / f"{name}.nc")
    print(f"{name}: agreement {difference:.1e}, {time.perf_counter() - before:.0f} s", flush=True)


def quasi_steady_oregonator(problem: Problem, times: np.ndarray, method: str = "LSODA") -> np.ndarray:
    """The states (len(times), 3), from x and z alone: y = z/(1 + x)."""
    s, q, w = (problem.values[name] for name in ("s", "q", "w"))

    def slope(t: float, state: np.ndarray) -> list[float]:
        x, z = state
        return [s * (z / (1 + x) + x * (1 - q * x - z / (1 + x))), w * (x - z)]

    span, start = (times[0], times[-1]), problem.y0[[0, 2]]
    x, z = solve_ivp(slope, span, start, method=method, t_eval=times, rtol=RTOL, atol=1e-14).y
    return np.stack([x, z / (1 + x), z], axis=-1)


def by_cantera(problem: Problem, file: str, times: np.ndarray) -> np.ndarray:
    """The states (len(times), 1 + species) of the same reactor with Cantera's rates and integrator."""
    import cantera

    gas = cantera.Solution(file)
    gas.TPY = problem.y0[0], problem.parameters["pressure"].value, problem.y0[1:]
    reactor = cantera.IdealGasConstPressureReactor(gas, clone=False)
    network = cantera.ReactorNet([reactor])
    network.rtol, network.atol = 1e-12, 1e-22
    network.max_steps = 10**6
    states = []
    for t in times:
        network.advance(t)
        states.append(np.concatenate([[reactor.T], reactor.phase.Y]))
    return np.array(states)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or TIMES:
        make(chosen)
