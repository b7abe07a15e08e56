"""Observations of a problem, made anew or read from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from problems.definition import Definition
from problems.solving import atol_attribute, labels_of, solve
from stiffml.checks import described, number, whole
from stiffml.checks import path as checked_path
from stiffml.checks import times as checked_times

if TYPE_CHECKING:
    import xarray


Sampler = Callable[[np.random.Generator], np.ndarray]


def make_dataset(
    problem: Definition,
    n: int,
    *,
    noise: float = 0.0,
    seed: int = 0,
    trajectories: int | None = None,
    sampler: Sampler | None = None,
    times: Tensor | None = None,
    method: str = "bdf",
    rtol: float = 1e-9,
) -> xarray.Dataset:
    """Observations at the start and at ``n`` later times. Equal arguments give equal data.

    Parameters
    ----------
    problem : Problem
    n : int
        Number of times, spread over the span as suits the problem.
    noise : float
        Standard deviation of normal errors, in units of the problem's ``scale``. Default 0.
    seed : int
        Seed of the random numbers for noise and sampler. Default 0.
    trajectories : int
        Number of trajectories, along a first dimension ``trajectory``. Default: one, without that dimension.
    sampler : callable
        sampler(rng) -> an initial state in the shape of y0; needed for ``trajectories``.
    times : Tensor
        (n + 1,) times in place of those of ``problem.times(n)``, the start first.
    method : str
    rtol : float
        Method and tolerance of the solves. Default ``"bdf"`` and 1e-9.

    Returns
    -------
    xarray.Dataset
        ``state``, the trajectory, and ``observed``, the same with noise, over ([trajectory,] time, component
        [, grid]), with units; ``noise``, its standard deviation, (component,), unless that is 0; attributes
        say what made it. ``stiffml.training.data.from_xarray`` makes runs of it, to split and to learn from.

    Raises
    ------
    ValueError
        For arguments out of range, or trajectories without a sampler.
    """
    n, seed = whole("n", n), whole("seed", seed, least=0)
    noise, rtol = number("noise", noise, least=0), number("rtol", rtol, above=0)
    trajectories = None if trajectories is None else whole("trajectories", trajectories)
    if sampler is not None and not callable(sampler):
        raise TypeError(f"sampler must be callable as sampler(rng), not {described(sampler)}")
    times = None if times is None else checked_times("times", times).detach().cpu()
    if noise > 0 and problem.scale is None:
        raise ValueError(f"noise is in units of the scale, and {problem.name} has none: give it scale=")
    if (trajectories is None) != (sampler is None):
        raise ValueError("trajectories and sampler go together: equal initial states make equal trajectories")
    t = problem.times(n) if times is None else times
    if len(t) != n + 1:
        raise ValueError(f"times must be n + 1 = {n + 1}, the start first, but there are {len(t)}")
    rng = np.random.default_rng(seed)
    starts = [problem.y0] if sampler is None else [sampler(rng) for _ in range(trajectories or 0)]
    states = np.stack([_trajectory(problem, start, t, method, rtol) for start in starts])
    scale = problem.per_component(1.0 if problem.scale is None else problem.scale)
    observed = states + noise * scale * rng.standard_normal(states.shape)
    if sampler is None:
        states, observed = states[0], observed[0]
    data = labels_of(problem).dataset(t.numpy(), {"state": states, "observed": observed})
    data["observed"].attrs["long_name"] = "state with noise"
    if noise > 0:
        deviation = {"long_name": "standard deviation of the errors of observations"}
        data["noise"] = ("component", noise * scale.ravel(), deviation)
    data.attrs.update(
        noise=noise, seed=seed, method=method, rtol=rtol, atol=atol_attribute(problem.atol(rtol))
    )
    return data


def solution_dataset(problem: Definition, t: np.ndarray, y: np.ndarray) -> xarray.Dataset:
    """States (time, \\*shape) of a problem as a Dataset with names and units."""
    return labels_of(problem).dataset(t, {"state": y})


def save_dataset(data: xarray.Dataset, path: str | Path) -> None:
    """Write a netCDF file; an old file is replaced only by a complete new one.

    Parameters
    ----------
    data : xarray.Dataset
    path : str or Path

    Raises
    ------
    OSError
        If it cannot be written; the message has the path, and the old file stays as it was.

    Examples
    --------
    >>> import os, tempfile, problems
    >>> data = problems.load("robertson").dataset(5, rtol=1e-4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     problems.save_dataset(data, os.path.join(folder, "robertson.nc"))
    ...     problems.load_dataset(os.path.join(folder, "robertson.nc")).equals(data)
    True
    """
    from stiffml.files import save_netcdf

    _require_dataset(data)
    save_netcdf(checked_path("path", path), data)


def load_dataset(path: str | Path) -> xarray.Dataset:
    """Read what :func:`save_dataset` wrote, into memory.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import os, tempfile, problems
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "decay.nc")
    ...     problems.save_dataset(stiffml.solve(func, y0, t).to_xarray(), path)
    ...     dict(problems.load_dataset(path).state.sizes)
    {'time': 2, 'state_dim0': 2}
    """
    import xarray

    return xarray.load_dataset(checked_path("path", path), engine="h5netcdf")


def _require_dataset(data: object) -> None:
    import xarray

    if not isinstance(data, xarray.Dataset):
        raise TypeError(f"data must be an xarray.Dataset, not {described(data)}")


def _trajectory(problem: Definition, y0: np.ndarray, t: Tensor, method: str, rtol: float) -> np.ndarray:
    with torch.no_grad():
        solution = solve(problem.make(y0=y0), t, method=method, rtol=rtol)
    assert isinstance(solution.y, Tensor)
    return solution.y.numpy()
