"""The side of diffrax and tinydiffeq in the comparison on small systems; see compare.py. Needs .venv-peers.

tinydiffeq's gradient goes through a loop of a fixed number of attempts at steps: it gets 5 % more than the
forward run took, which is the best a user could do.
"""

from __future__ import annotations

import functools
import sys
import time
from importlib.metadata import version

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import tinydiffeq
from diffrax_solve import diffrax_solve
from hydrogen import slopes
from jax import Array
from systems import load
from worker import Run, serve

jax.config.update("jax_enable_x64", True)

MAX_STEPS = 65536
FIRST_STEP = 1e-8
SOLVERS = {
    "diffrax Kvaerno3": diffrax.Kvaerno3,
    "diffrax Kvaerno5": diffrax.Kvaerno5,
    "tinydiffeq Rodas5P": tinydiffeq.Rodas5P,
}


def main(path: str) -> None:
    system, scale, _ = load(path)
    y0, p, t, threshold = (jnp.asarray(v) for v in (system.y0, system.p, system.t, system.threshold))
    weights = jnp.asarray(1 / scale)
    steps: dict[tuple[str, float], int] = {}

    constants = {name: jnp.asarray(value) for name, value in system.constants.items()}

    def rhs(t: Array, y: Array, p: Array) -> Array:
        if system.rhs is None:
            return slopes(jnp, constants, y, p)
        return jnp.stack(system.rhs(t, list(y), list(p)))

    def by_tinydiffeq(solver: str, y0: Array, p: Array, rtol: Array, most: int, loop: str) -> tuple:
        solution = tinydiffeq.solve_ode(
            lambda x, t, args, p: rhs(t, x, p),
            SOLVERS[solver](),
            t[0],
            t[-1],
            y0,
            p=p,
            dt_0=FIRST_STEP,
            save_at=tinydiffeq.SaveAt(ts=t),
            controller=tinydiffeq.PIController(rtol=rtol, atol=rtol * threshold),
            max_steps=most,
            adaptive_loop=loop,
        )
        return solution.xs, solution.ok, solution.num_accepted, solution.num_steps

    @functools.cache
    def compiled(solver: str, gradient: bool, most: int):
        def loss(inputs: tuple[Array, Array], rtol: Array):
            if solver.startswith("diffrax"):
                found = diffrax_solve(rhs, SOLVERS[solver](), *inputs, t, rtol, rtol * threshold, most)
            else:
                found = by_tinydiffeq(solver, *inputs, rtol, most, "bounded" if gradient else "forward")
            return jnp.mean((found[0] * weights) ** 2), found

        function = jax.value_and_grad(loss, has_aux=True) if gradient else loss
        began = time.perf_counter()
        program = jax.jit(function).lower((y0, p), 1e-5).compile()
        return program, time.perf_counter() - began

    def run(solver: str, rtol: float, gradient: bool) -> Run:
        most = MAX_STEPS
        if gradient and solver.startswith("tinydiffeq"):
            if (solver, rtol) not in steps:
                run(solver, rtol, False)
            most = int(1.05 * steps[solver, rtol]) + 2
        program, compiling = compiled(solver, gradient, most)
        began = time.process_time()
        found = jax.block_until_ready(program((y0, p), rtol))
        seconds = time.process_time() - began
        (_, (states, good, accepted, attempts)), slopes = found if gradient else (found, None)
        if not good:
            raise RuntimeError(f"no success, after {seconds:.1f} s")
        steps[solver, rtol] = int(attempts)
        arrays = None if slopes is None else {"gradient": np.concatenate([np.asarray(v) for v in slopes])}
        counts = {
            "accepted": int(accepted),
            "rejected": int(attempts - accepted),
            "compiling_ms": int(1e3 * compiling),
        }
        return Run(seconds, np.asarray(states), arrays, counts)

    about = {
        "versions": {
            name: version(name)
            for name in ("diffrax", "equinox", "jax", "lineax", "optimistix", "tinydiffeq")
        },
        "solvers": list(SOLVERS),
        "rhs": np.asarray(rhs(t[0], y0, p)).tolist(),
    }
    serve(about, run)


if __name__ == "__main__":
    main(sys.argv[1])
