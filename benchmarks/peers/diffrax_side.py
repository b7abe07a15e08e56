"""diffrax's side of the comparison; see brusselator.py, which runs it. Needs .venv-peers.

Kvaerno5 comes in three forms:

- "kvaerno5" as it is: ``VeryChord``, a chord iteration with one dense factorisation a step. It takes several
  times as many steps as the error asks for: with the step's first Jacobian the iteration often diverges, and
  the step is cut. More iterations or a looser test do not change that.
- "newton-gmres": Newton's method with lineax's GMRES, the fastest of what diffrax offers that worked.
  ``VeryChord`` and ``optimistix.Chord`` fail with any Krylov solver (TypeError: their state must be arrays),
  and ``lineax.BiCGStab`` returns NaN. The adjoint of a stage still factorises a dense Jacobian: no argument
  of diffrax reaches the linear solver there.
- "newton-gmres-both": GMRES in that adjoint too, by replacing a default argument of optimistix from outside.
  No documented way, but it shows what diffrax's gradient costs without the dense matrix.

"tsit5" is explicit: what the problem costs where it is not stiff enough to need more.
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
import time
from unittest import mock

import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optimistix
from definition import Definition
from jax import Array
from worker import Run, serve

jax.config.update("jax_enable_x64", True)

MAX_STEPS = 4096
"""From which diffrax takes the number of the gradient's checkpoints: more than any case here needs."""

STAGE = lineax.GMRES(rtol=1e-2, atol=1e-2, restart=5)
"""In Newton's iteration: the fastest of restarts 3 to 20 and tolerances 1e-1 to 1e-3, all of which gave the
same steps. lineax tests for convergence only at restarts, so short ones are good. optimistix has no argument
for a preconditioner."""
ADJOINT = lineax.GMRES(rtol=1e-5, atol=1e-5, restart=10)
"""In the adjoint of a stage, where its tolerance bounds the accuracy of the gradient."""


class KrylovAdjoint(diffrax.Kvaerno5):
    """Kvaerno5 whose stages are differentiated with ``ADJOINT``."""

    def step(self, *arguments, **named):
        adjoint = optimistix.ImplicitAdjoint(linear_solver=ADJOINT)
        find = functools.partial(optimistix.root_find, adjoint=adjoint)
        with mock.patch.object(optimistix, "root_find", find):
            return super().step(*arguments, **named)


def solvers() -> dict[str, diffrax.AbstractSolver]:
    newton = diffrax.with_stepsize_controller_tols(optimistix.Newton)(linear_solver=STAGE)
    return {
        "kvaerno5": diffrax.Kvaerno5(),
        "kvaerno5, newton-gmres": diffrax.Kvaerno5(root_finder=newton),
        "kvaerno5, newton-gmres-both": KrylovAdjoint(root_finder=newton),
        "tsit5": diffrax.Tsit5(),
    }


def rhs(t: Array, y: Array, p: dict[str, Array]) -> Array:
    neighbours = sum(jnp.roll(y, shift, axis) for axis in (1, 2) for shift in (1, -1))
    u, v = y
    made = u * u * v
    reaction = jnp.stack([1 + made - (p["B"] + 1) * u, p["B"] * u - made])
    hidden = jnp.tanh(p["W1"] @ y.reshape(2, -1) + p["b1"][:, None])
    closure = (p["W2"] @ hidden + p["b2"][:, None]).reshape(y.shape)
    return p["alpha"] * y.shape[-1] ** 2 * (neighbours - 4 * y) + reaction + closure


def main(path: str) -> None:
    definition = Definition.load(path)
    y0 = jnp.asarray(definition.y0)
    weights = {name: jnp.asarray(value) for name, value in definition.weights.items()}
    constants = {"alpha": definition.alpha, "B": definition.B}
    known = solvers()

    @functools.cache
    def compiled(name: str, gradient: bool):
        """Ahead of time, so that the first run is like any other; one program serves all tolerances."""

        def loss(inputs: dict[str, Array], rtol: Array):
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(rhs),
                known[name],
                t0=0.0,
                t1=definition.t_end,
                dt0=None,
                y0=inputs["y0"],
                args={**constants, **inputs},
                stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol),
                max_steps=MAX_STEPS,
                throw=False,
            )
            state = solution.ys[-1]
            success = solution.result == diffrax.RESULTS.successful
            return jnp.mean(state**2), (state, success, solution.stats)

        function = jax.value_and_grad(loss, has_aux=True) if gradient else loss
        return jax.jit(function).lower({"y0": y0, **weights}, 1e-5).compile()

    def run(solver: str, rtol: float, gradient: bool) -> Run:
        program = compiled(solver, gradient)
        began = time.perf_counter()
        found = jax.block_until_ready(program({"y0": y0, **weights}, rtol))
        seconds = time.perf_counter() - began
        (_, (state, success, stats)), slopes = found if gradient else (found, None)
        if not success:
            raise RuntimeError(f"no success within {MAX_STEPS} steps, after {seconds:.0f} s")
        counts = {name: int(stats[f"num_{name}_steps"]) for name in ("accepted", "rejected")}
        arrays = None if slopes is None else {name: np.asarray(value) for name, value in slopes.items()}
        return Run(seconds, np.asarray(state), arrays, counts)

    names = ("diffrax", "equinox", "jax", "lineax", "optimistix")
    about = {
        "versions": {name: importlib.metadata.version(name) for name in names},
        "solvers": list(known),
        "rhs": rhs(0.0, y0, {**constants, **weights}).ravel().tolist(),
    }
    serve(about, run)


if __name__ == "__main__":
    main(sys.argv[1])
