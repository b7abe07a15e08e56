"""A CSV file like those that laboratories keep: runs of Robertson-like kinetics, with noise and gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

COLUMNS = ("conc_A", "conc_B", "conc_C")
NOISE = dict(zip(COLUMNS, (0.01, 4e-5, 0.01), strict=True))


def write_kinetics(path: Path, runs: int = 6, seed: int = 0, missing: float = 0.15) -> dict[str, np.ndarray]:
    """Write the file, rows in random order, and return by run what it holds: (n, 4), times first."""
    rng = np.random.default_rng(seed)
    tables = {}
    for index in range(runs):
        times = np.concatenate([[0], np.sort(10 ** rng.uniform(-4, 1.5, rng.integers(17, 39)))])
        a0 = rng.uniform(0.6, 1.4)
        y = solve_ivp(
            _rhs, (0, times[-1]), [a0, 0, 0], method="LSODA", t_eval=times, rtol=1e-8, atol=1e-10
        ).y.T
        y += rng.standard_normal(y.shape) * list(NOISE.values())
        y[rng.random(y.shape) < missing] = np.nan
        tables[f"exp{index:02d}"] = np.column_stack([times, y])
    lines = [
        ",".join([name, *("" if np.isnan(x) else f"{x:.17g}" for x in row)])
        for name, table in tables.items()
        for row in table
    ]
    rng.shuffle(lines)
    path.write_text("\n".join([",".join(["run", "t_s", *COLUMNS]), *lines, ""]))
    return tables


def _rhs(t: float, y: np.ndarray) -> list[float]:
    a, b, c = y
    back, slow, fast = 1e2 * b * c, 0.4 * a, 3e4 * b**2
    return [-slow + back, slow - back - fast, fast]
