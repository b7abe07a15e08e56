"""Steps, calls of f, Jacobians and Newton iterations of stiff problems: more than a tenth off is an alarm.

Counts that change for a reason are written down anew:

    PYTHONPATH=tests/helpers .venv/bin/python tests/costs/test_counts.py
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import problems
from stiffml import solve

COUNTS = Path(__file__).with_name("counts.json")
RTOL = 1e-5
ENDS = {"robertson": 100.0, "vanderpol": 0.9, "hires": 300.0, "pollu": 60.0, "h2air": 1e-4}
"""The ends of the solves. Van der Pol's oscillator jumps at 0.8; the mixture has not ignited."""

SHORT = {"robertson": 1e-3, "vanderpol": 2e-3, "hires": 2e-3, "pollu": 1e-5, "h2air": 1e-5}
"""The same for methods of second order, which take many more steps."""

METHODS = {"bdf": ENDS, "rosw-rodaspr2": ENDS, "cn": SHORT, "dirk-s212": SHORT}
SLACK = 0.1


def counted(name: str, method: str) -> dict[str, int]:
    """The counts of a solve that is not compiled."""
    problem = problems.load(name)
    begin = problem.t_span[0]
    t = torch.tensor([begin, begin + METHODS[method][name]], dtype=torch.float64)
    with torch.no_grad():
        stats = solve(
            problem.func(), problem.initial_state(), t, method=method, rtol=RTOL, atol=problem.atol(RTOL)
        ).stats
    return {
        "steps": stats.accepted,
        "rejected": stats.rejected,
        "f": stats.rhs_evals,
        "jacobians": stats.jacobians,
        "newton": stats.newton_iterations,
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ENDS)
def test_counts(name: str, method: str) -> None:
    known, found = json.loads(COUNTS.read_text())[name][method], counted(name, method)
    for what, count in known.items():
        # Rounding differs between processors, and a few steps with it.
        assert abs(found[what] - count) <= SLACK * count + 3, (
            f"{what}: {found[what]}, and {count} before. If it is meant, write the counts anew; if not, see "
            "run/kept_jacobian.py, methods/growth.py and the tolerances of Newton's iteration"
        )


if __name__ == "__main__":
    found = {name: {method: counted(name, method) for method in METHODS} for name in ENDS}
    rows = ",\n".join(
        f' "{name}": {{\n'
        + ",\n".join(f'  "{method}": {json.dumps(counts)}' for method, counts in by_method.items())
        + "\n }"
        for name, by_method in found.items()
    )
    COUNTS.write_text(f"{{\n{rows}\n}}\n")
