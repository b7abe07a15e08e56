"""Solving a problem with the tolerances, mass matrix and breakpoints that belong to it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

import stiffml
from problems.definition import Definition
from stiffml import Solution
from stiffml.checks import flag
from stiffml.interface.labels import Labels


def solve(
    problem: Definition,
    t: Tensor | None = None,
    *,
    method: Any = "bdf",
    rtol: float | None = None,
    atol: float | Tensor | None = None,
    split: bool = False,
    bounds: Any = None,
    **arguments: Any,
) -> Solution:
    """Integrate a problem; arguments, defaults and errors are those of :meth:`problems.Problem.solve`."""
    flag("split", split)
    if arguments.get("batch_dims"):
        raise ValueError(
            f"batch_dims: {problem.name} has one initial state of shape {problem.y0.shape}, whose components "
            "would be taken for samples. Try: stiffml.solve(problem.func(), y0, t, batch_dims=1) with y0 "
            f"of shape {('samples', *problem.y0.shape)}".replace("'", "")
        )
    t = output_times(problem) if t is None else t
    if isinstance(arguments.get("steps"), stiffml.Adaptive | None):
        rtol = 1e-6 if rtol is None else rtol
        atol = problem.atol(rtol) if atol is None else atol
    func = problem.split() if split else problem.func()
    if isinstance(bounds, bool):
        bounds = problem.limits() if bounds else None
    extra = {"bounds": bounds, "mass": problem.mass_matrix(), "breakpoints": problem.breakpoints or None}
    solution = stiffml.solve(
        func, problem.initial_state(), t, method=method, rtol=rtol, atol=atol, **{**extra, **arguments}
    )
    about = {
        "method": str(method),
        "split": int(split),
        "steps": repr(arguments.get("steps", stiffml.Adaptive())),
    }
    about |= {} if rtol is None else {"rtol": float(rtol)}
    about |= {} if atol is None else {"atol": atol_attribute(atol)}
    return dataclasses.replace(solution, labels=labels_of(problem, **about))


def output_times(problem: Definition) -> Tensor:
    """60 times over the span, and those of the references.

    Where two differ only by rounding, that of the reference is kept.
    """
    times = problem.times(60).numpy()
    known = np.array([r.t for r in problem.references if problem.t_span[0] < r.t <= problem.t_span[1]])
    same = np.isclose(times[:, None], known, rtol=1e-9, atol=0).any(axis=1)
    return torch.from_numpy(np.sort(np.concatenate([times[~same], known])))


def atol_attribute(atol: float | Tensor) -> Any:
    """Absolute tolerances as an attribute of a file: one number, or one of each component."""
    values = np.atleast_1d(np.asarray(atol, dtype=float))
    first = values.reshape(len(values), -1)[:, 0]
    return float(first[0]) if (values == first[0]).all() else first


def labels_of(problem: Definition, **about: Any) -> Labels:
    """Names and units of the states of a problem; ``about`` are further attributes."""
    numbers = {name: np.asarray(value).tolist() for name, value in problem.values.items()}
    known = {"problem": problem.name, "title": problem.title, "citation": problem.citation}
    return Labels(
        problem.components,
        tuple(problem.units_of(i) for i in range(len(problem.components))),
        problem.time_units,
        problem.grid,
        problem.grid_units,
        {**known, "parameters": json.dumps(numbers), **about},
    )
