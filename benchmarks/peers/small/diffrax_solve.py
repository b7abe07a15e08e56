"""How diffrax is asked for a solution, in all comparisons on small systems."""

from __future__ import annotations

from collections.abc import Callable

import diffrax
from jax import Array


def diffrax_solve(
    rhs: Callable,
    solver: diffrax.AbstractSolver,
    y0: Array,
    args: Array,
    t: Array,
    rtol: Array,
    atol: Array,
    max_steps: int,
) -> tuple[Array, Array, Array, Array]:
    """States at the times ``t``, whether it succeeded, accepted steps, and steps tried."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(rhs),
        solver,
        t0=t[0],
        t1=t[-1],
        dt0=None,
        y0=y0,
        args=args,
        saveat=diffrax.SaveAt(ts=t),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )
    good = solution.result == diffrax.RESULTS.successful
    return solution.ys, good, solution.stats["num_accepted_steps"], solution.stats["num_steps"]
