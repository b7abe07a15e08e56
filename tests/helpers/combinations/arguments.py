"""The arguments of ``solve`` that a drawn combination stands for."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import stiffml
from combinations.functions import Function
from stiffml import GMRES, Adaptive, Assembled, Discrete, Disk, Fixed, Grid, Krylov, PointBlock, Recorded

if TYPE_CHECKING:
    from combinations.runs import Run

NAMES = set(inspect.signature(stiffml.solve).parameters)
"""The arguments that there are."""


class Own:
    """A preconditioner of one's own: the shift alone."""

    def update(self, t: Tensor, y: Any, shift: float) -> None:
        self._shift = shift

    def apply(self, residual: Any) -> Any:
        if isinstance(residual, tuple):
            return tuple(part / self._shift for part in residual)
        return residual / self._shift

    apply_transpose = apply


def arguments_of(run: Run, steps: Any = None, *, repeated: bool = False) -> dict[str, Any]:
    """Of ``solve``; with other ``steps``, or for steps that are ``repeated`` and must not be cut."""
    c, kind = run.c, run.c.kind
    chosen: dict[str, Any] = {"method": c.method, "steps": steps_of(run) if steps is None else steps}
    chosen |= {"outputs": c.outputs, "batch_dims": len(c.batch)}
    if c.adaptive and steps is None:
        chosen |= tolerances(run)
    if kind.newton and (c.newton == "tight" or repeated):
        tight = (1e-6, 1e-7) if run.dtype is torch.float32 else (1e-13, 1e-16)
        chosen["newton"] = stiffml.Newton(*tight, max_iterations=50)
    if c.has_mass or c.is_dae:
        chosen["mass"] = run.mass.to(run.dtype)
    if not c.consistent:
        chosen["make_consistent"] = True
    if c.event:
        chosen["event"] = run.event
    if c.breakpoints:
        chosen["breakpoints"] = run.breaks
    params = [*([run.q] if c.given == "params" else []), *([run.level] if c.event else [])]
    if params:
        chosen["params"] = params
    kept: Any = Disk(tempfile.gettempdir()) if c.checkpoints == "disk" else c.checkpoints
    if kept != "stages":
        chosen["adjoint"] = Discrete(kept)
    chosen |= linear_of(run)
    if c.bounds and "bounds" in NAMES:
        chosen["bounds"] = (-100.0, 100.0)
    if c.stepping != "auto":
        chosen["stepping"] = c.stepping
    if c.through and "through" in NAMES:
        chosen["through"] = run.through
    return chosen


def tolerances(run: Run) -> dict[str, Any]:
    """Of adaptive steps."""
    atol: Any = run.c.rtol / 10
    if run.c.atol == "tensor":
        y0 = run.y0.detach()
        atol = atol * (1 + 0.5 * torch.linspace(0, 1, y0.numel(), dtype=y0.dtype).reshape(y0.shape))
    return {"rtol": run.c.rtol, "atol": atol}


def steps_of(run: Run) -> Any:
    c, span = run.c, run.problem.span
    finer = 1 if c.precision == "coarse" else 3
    intervals = run.intervals
    if c.steps == "recorded":
        counts = finer * (9 // len(intervals)) + (run.recorded[: len(intervals) - 1] * 3 * finer).astype(int)
        counts = np.maximum(counts, 1)
        cuts = [np.cumsum(1 + 0.3 * run.recorded[: n * 2 : 2]) for n in counts]
        return Recorded(tuple(np.append((cut / cut[-1])[:-1], 1.0) for cut in cuts))
    return {
        "adaptive": Adaptive(),
        "bounded": Adaptive(initial=span / 200, maximum=span / 8),
        "fixed": Fixed(span / (7.3 * finer)),
        "grid": Grid(finer * max(1, 9 // len(intervals))),
    }[c.steps]


def linear_of(run: Run) -> dict[str, Any]:
    c, chosen = run.c, {}
    if c.linear == "lu":
        chosen["linear"] = stiffml.LU()
    elif c.linear in ("gmres", "bcgs"):
        single = run.dtype is torch.float32
        exact = not c.kind.newton or c.form == "split linear"
        rtol = 1e-5 if single else 1e-12 if exact else 1e-6
        settings = {"preconditioner": preconditioner_of(run), "rtol": rtol}
        settings["adjoint_rtol"] = 1e-5 if single else 1e-11
        chosen["linear"] = GMRES(**settings) if c.linear == "gmres" else Krylov("bcgs", **settings)
    if c.jacobian == "sparsity":
        chosen["jacobian"] = stiffml.Sparsity(pattern_of(run))
    elif c.jacobian.startswith("given"):
        chosen["jacobian"] = given_jacobian(run)
    elif c.jacobian != "auto":
        chosen["jacobian"] = c.jacobian
    return chosen


def given_jacobian(run: Run) -> Callable[[Tensor, Any], Any]:
    """∂func/∂y, of the implicit part where the method splits, with no more than autograd."""
    func, width = (run.func.implicit if run.c.is_split else run.func), run.problem.width

    def jacobian(t: Tensor, y: Any) -> Any:
        def slopes(rows: Tensor) -> Tensor:
            return run.as_rows(func(t, run.as_state(rows)))

        rows = run.as_rows(y)
        found = torch.autograd.functional.jacobian(slopes, rows, vectorize=True).reshape(
            -1, width, rows[..., 0].numel(), width
        )
        blocks = torch.stack([found[k, :, k] for k in range(len(found))])
        if run.c.jacobian == "given sparse":
            return torch.block_diag(*blocks).to_sparse()
        return blocks.reshape(*run.c.batch, width, width)

    return jacobian


def pattern_of(run: Run) -> np.ndarray:
    pattern = run.problem.pattern()
    return np.ones_like(pattern) if run.c.mass == "dense" else pattern


def preconditioner_of(run: Run) -> Any:
    sparsity = stiffml.Sparsity(pattern_of(run))
    part = Function(run, "slopes" if run.c.is_dae else "stiff")
    choices: dict[str, Callable[[], Any]] = {
        "none": lambda: None,
        "ilu": lambda: Assembled(sparsity=sparsity),
        "lu": lambda: Assembled(solver="lu", sparsity=sparsity),
        "jacobi of a part": lambda: Assembled(part, "jacobi", sparsity=sparsity),
        "points": lambda: PointBlock(0),
        "own": Own,
    }
    return choices[run.c.preconditioner]()
