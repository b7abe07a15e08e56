"""Compute the reference states that ship with the library: ``python -m problems.library.make_shipped``.

Each is computed twice, by Radau IIA and by the explicit DOP853, which differ in everything but the
right-hand side; what they agree to is what the states are said to be known to.
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

import problems
from problems.datasets import save_dataset, solution_dataset
from problems.trajectories import RTOL_FIELD, reference_trajectory

TIMES = {
    "burgers": (1.0, 5.0),
    "ks": (25.0, 50.0),
    "brusselator": (1.5, 11.5),
    "gray_scott": (1000.0, 2000.0),
}
FOLDER = Path(__file__).parent / "data"


def make(name: str) -> None:
    problem = problems.load(name).make()  # without references: those are what is made here
    times = np.array([problem.t_span[0], *TIMES[name]])
    before = time.perf_counter()
    y = reference_trajectory(problem, times)[1:]
    explicit = reference_trajectory(problem, times, method="DOP853")[1:]
    grid = tuple(range(2, y.ndim))
    difference = (np.abs(y - explicit).max(axis=grid) / np.abs(y).max(axis=grid)).max()
    data = solution_dataset(problem, times[1:], y)
    data.attrs.update(
        source=f"Radau IIA of scipy {version('scipy')} at rtol {RTOL_FIELD:g}",
        verified=f"DOP853 agrees to {difference:.1e} of the largest value of each component",
        rtol_valid=float(max(difference, 1e-12)),
        command="python -m problems.library.make_shipped",
    )
    data["state"].encoding.update(zlib=True, complevel=9, shuffle=True)
    FOLDER.mkdir(exist_ok=True)
    save_dataset(data, FOLDER / f"{name}.nc")
    print(f"{name}: agreement {difference:.1e}, {time.perf_counter() - before:.0f} s", flush=True)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or TIMES:
        make(chosen)
