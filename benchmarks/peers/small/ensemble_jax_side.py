"""diffrax's side of the comparison of ensembles, under vmap; see ensembles.py. Needs .venv-peers."""

from __future__ import annotations

import functools
import sys
import time
from importlib.metadata import version

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from diffrax_solve import diffrax_solve
from ensemble_systems import START, THRESHOLD, Ensemble
from jax import Array
from worker import Run, serve

jax.config.update("jax_enable_x64", True)

MAX_STEPS = 4096
SOLVERS = {"diffrax Kvaerno3": diffrax.Kvaerno3, "diffrax Kvaerno5": diffrax.Kvaerno5}


def rhs(t: Array, y: Array, log_rates: Array) -> Array:
    k = jnp.exp(log_rates)
    first, second, third = k[0] * y[0], k[1] * y[1] * y[2], k[2] * y[1] * y[1]
    return jnp.stack([second - first, first - second - third, third])


def main(path: str) -> None:
    given = Ensemble.load(path)
    t, log_rates = jnp.asarray(given.t), jnp.asarray(given.log_rates)
    start = jnp.broadcast_to(jnp.asarray(START), log_rates.shape)
    scale = jnp.array([1.0, 3e-5, 1.0])

    @functools.cache
    def compiled(solver: str, gradient: bool):
        def one(y0: Array, log_rates: Array, rtol: Array) -> tuple:
            atol = rtol * jnp.asarray(THRESHOLD)
            return diffrax_solve(rhs, SOLVERS[solver](), y0, log_rates, t, rtol, atol, MAX_STEPS)

        def loss(inputs: tuple[Array, Array], rtol: Array):
            found = jax.vmap(one, in_axes=(0, 0, None))(*inputs, rtol)
            return jnp.mean((found[0] / scale) ** 2), found

        function = jax.value_and_grad(loss, has_aux=True) if gradient else loss
        return jax.jit(function).lower((start, log_rates), 1e-5).compile()

    def run(solver: str, rtol: float, gradient: bool) -> Run:
        program = compiled(solver, gradient)
        began = time.perf_counter()
        found = jax.block_until_ready(program((start, log_rates), rtol))
        seconds = time.perf_counter() - began
        (_, (states, good, accepted, _)), slopes = found if gradient else (found, None)
        if not bool(good.all()):
            raise RuntimeError(f"{int((~good).sum())} samples without success, after {seconds:.1f} s")
        arrays = None
        if slopes is not None:
            arrays = {"gradient": np.concatenate([np.asarray(slope) for slope in slopes], axis=-1)}
        return Run(seconds, np.asarray(states), arrays, {"accepted": int(accepted.sum())})

    versions = {name: version(name) for name in ("diffrax", "equinox", "jax", "lineax", "optimistix")}
    serve({"versions": versions, "solvers": list(SOLVERS)}, run)


if __name__ == "__main__":
    main(sys.argv[1])
