"""``stiffml diagnose``: where a problem is stiff, which method suits it, what a gradient comes by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer

from stiffml.cli.screen import Settings, Size, console, errors, explained, load, results_folder

if TYPE_CHECKING:
    import xarray

    from problems import Problem
    from stiffml import Solution

MOST = 300
"""Unknowns up to which all eigenvalues are found, and gradients taken apart."""


def diagnose(
    name: Annotated[
        str,
        typer.Argument(
            help="A name that `stiffml problems` lists, a Python file that defines a problem, or a netCDF "
            "file that `solve` or `diagnose` has left."
        ),
    ],
    method: Annotated[str | None, typer.Option(help="Time stepping method. Default bdf.")] = None,
    rtol: Annotated[float | None, typer.Option(help="Relative tolerance of a step. Default 1e-4.")] = None,
    points: Annotated[int, typer.Option(min=2, help="Steps at which eigenvalues are computed.")] = 60,
    gradient: Annotated[
        bool, typer.Option("--gradient", help="Take a gradient by the parameters apart, by modes and steps.")
    ] = False,
    settings: Settings = None,
    size: Size = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for stiffness.nc and .png, gradient.nc and .png. Default: none."),
    ] = None,
) -> None:
    """Say how stiff a problem is along its solution, why, and which method suits it."""
    from stiffml import diagnostics

    with explained():
        path = Path(name) if name.endswith(".nc") else None
        stored = None if path is None else _opened(path)
        if stored is not None and "explicit_steps" in stored.attrs:
            if gradient or settings or out or method or rtol or size is not None:
                raise ValueError(f"{name}: it has eigenvalues and no problem, so it takes no options")
            _print(f"{stored.attrs.get('problem', name)}\n{diagnostics.advise(stored)}")
            _print("\n" + diagnostics.describe_stiffness(stored))
            return
        problem, given = _asked(name, stored, settings, size)
        method, rtol = method or given.get("method", "bdf"), rtol or given.get("rtol", 1e-4)
        with errors.status(f"solving {problem.name} with {method}"):
            solution = _solved(problem, method, rtol, gradient)
            found = diagnostics.stiffness(
                solution,
                points=points if problem.size <= MOST else min(points, 12),
                names=None if problem.grid else problem.components,
                time_units=problem.time_units,
            )
            found.attrs.update(problem=problem.name, rtol=rtol)
            parts = _by_mode(problem, solution) if gradient else None
        _print(f"{problem.name}, {method}, rtol {rtol:g}\n{diagnostics.advise(found)}")
        _print("\n" + diagnostics.describe_stiffness(found))
        if parts is not None:
            _print("\n" + diagnostics.describe_gradient(parts))
        if out is not None:
            _save(problem, out, found, parts)


def _print(text: str) -> None:
    console.print(text, markup=False, highlight=False)


def _opened(path: Path) -> xarray.Dataset:
    import xarray

    with xarray.open_dataset(path, engine="h5netcdf") as data:
        return data.load()


def _asked(
    name: str, stored: xarray.Dataset | None, settings: list[str] | None, size: int | None
) -> tuple[Problem, dict[str, Any]]:
    """The problem, and the method and tolerance that a file says."""
    if stored is None:
        return load(name, settings, size), {}
    if settings or size is not None:
        raise ValueError(f"{name}: --set and --size do not change a solution; leave them out")
    if "problem" not in stored.attrs or "state" not in stored:
        raise ValueError(f"{name} was left neither by `stiffml solve` nor by `stiffml diagnose`")
    import problems

    problem = problems.load(stored.attrs["problem"])
    if problem.grid:
        problem = problem.make(size=stored["state"].shape[-1])
    given = json.loads(stored.attrs.get("parameters", "{}"))
    values: dict[str, Any] = {k: np.array(v) if isinstance(v, list) else v for k, v in given.items()}
    return problem.make(**values), {
        key: stored.attrs[key] for key in ("method", "rtol") if key in stored.attrs
    }


def _solved(problem: Problem, method: str, rtol: float, gradient: bool) -> Solution:
    """From end to end, with steps chosen by accuracy alone; with trainable parameters for a gradient."""
    t = torch.tensor(problem.t_span, dtype=torch.float64)
    if not gradient:
        with torch.no_grad():
            return problem.solve(t, method=method, rtol=rtol)
    import stiffml

    if not problem.parameters:
        raise ValueError(f"--gradient: {problem.name} has no parameters")
    if problem.breakpoints:
        raise ValueError(f"--gradient: {problem.name} has breakpoints, between which it is solved anew")
    if problem.size > MOST:
        raise ValueError(f"--gradient: {problem.name} has {problem.size} unknowns, more than {MOST}")
    return stiffml.solve(
        problem.func(*_trainable(problem)),
        problem.initial_state(),
        t,
        method=method,
        rtol=rtol,
        atol=problem.atol(rtol),
        mass=problem.mass_matrix(),
    )


def _trainable(problem: Problem) -> list[str]:
    """The parameters that the right-hand side takes; others only the initial state depends on."""
    names = []
    for name in problem.parameters:
        try:
            problem.func(name)
        except ValueError:
            continue
        names.append(name)
    return names


def _by_mode(problem: Problem, solution: Solution) -> xarray.Dataset:
    """Of the squares of the last state, in units of the components' scale."""
    from stiffml import diagnostics

    last = solution.y[-1].detach().abs()  # type: ignore[union-attr]
    scale = torch.where(last > 0, last, torch.ones_like(last))
    found = diagnostics.gradient_by_mode(solution, lambda y: (y[-1] / scale).square().sum() / 2)  # type: ignore[index]
    return found.assign_attrs(problem=problem.name)


def _save(problem: Problem, out: Path, found: xarray.Dataset, parts: xarray.Dataset | None) -> None:
    from stiffml import diagnostics
    from stiffml.files import save_netcdf, save_picture

    with results_folder(problem, out) as folder:
        save_netcdf(folder / "stiffness.nc", found)
        save_picture(folder / "stiffness.png", diagnostics.plot_stiffness(found))
        if parts is not None:
            save_netcdf(folder / "gradient.nc", parts)
            save_picture(folder / "gradient.png", diagnostics.plot_gradient_by_mode(parts))
    _print(f"\nresults: {out}")
