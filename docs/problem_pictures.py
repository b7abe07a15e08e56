"""A picture of each problem's solution, drawn when the site is built."""

from __future__ import annotations

from pathlib import Path

import problems

METHODS = {"beam": "dirk-es325sal"}
"""Where not the default: the eigenvalues of the beam are imaginary."""

RTOL = 1e-4
"""Of what is drawn: the eye sees two digits."""

DPI = 75


def draw_all(folder: Path) -> None:
    """Draw those that are not there yet; ``make clean`` removes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in problems.names():
        path = folder / f"{name}.png"
        if not path.exists():
            draw(name, path)


def draw(name: str, path: Path) -> None:
    """Solve one problem over its span and draw all of it; none where its mechanism is not installed."""
    try:
        problem = problems.load(name)
    except FileNotFoundError:
        return
    solution = problem.solve(method=METHODS.get(name, "bdf"), rtol=RTOL)
    problem.plot(solution).savefig(path, dpi=DPI)
