"""A problem, and what one does with it: solve it, check solutions, draw them, make data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from problems.checking import Report, check
from problems.datasets import make_dataset
from problems.definition import Definition
from problems.solving import solve
from problems.spectrum import eigenvalues
from stiffml import Solution
from stiffml.checks import array, number
from stiffml.display import FEW, Table, printed, short, table

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


@printed
@dataclass(frozen=True)
class Problem(Definition):
    __doc__ = Definition.__doc__  # the fields are all there

    def __str__(self) -> str:
        start, end = self.t_span
        names = ", ".join(self.components[:FEW]) + (", …" if len(self.components) > FEW else "")
        points = " x ".join(str(len(x)) for x in self.grid.values())
        unit = "" if self.time_units == "1" else f" {self.time_units}"
        rows = [
            ("unknowns", f"{self.size}: {names}" + (f" on {points} points" if points else "")),
            ("kind", self.kind),
            ("span", f"{start:g} to {end:g}{unit}"),
            ("parameters", ", ".join(f"{name} = {short(value)}" for name, value in self.values.items())),
            ("split", self.stiff_part and f"a {self.stiff_part} implicit part"),
            ("invariants", ", ".join(self.invariants)),
            ("references", ", ".join(f"t = {one.t:g}" for one in self.references)),
            ("stiffness", self.stiffness),
            ("source", self.citation),
        ]
        return table(f"Problem {self.name}: {self.title}", [(name, text) for name, text in rows if text])

    def _table(self) -> Table:
        lines = [line.strip().partition("  ") for line in str(self).splitlines()[1:]]
        return (self.name, self.title), [(name, text.strip()) for name, _, text in lines]

    def solve(
        self,
        t: Tensor | None = None,
        *,
        method: Any = "bdf",
        rtol: float | None = None,
        atol: float | Tensor | None = None,
        split: bool = False,
        bounds: Any = None,
        **arguments: Any,
    ) -> Solution:
        """Integrate with ``stiffml.solve``, which takes the further ``arguments``.

        Parameters
        ----------
        t : Tensor
            Output times. Default: 60 over the span, spaced as ``time_grid`` says, and the times of the
            references.
        method : str or Method
            Default ``"bdf"``.
        rtol, atol : float, or for atol a Tensor
            Default 1e-6 and :meth:`atol` where steps are adaptive.
        split : bool
            Whether to solve with the two parts of the right-hand side. Default False.
        bounds : bool or tuple
            As for ``stiffml.solve``; True: those of the problem. Default: none.

        Raises
        ------
        ValueError
            For wrong arguments, ``split=True`` for a problem that has no parts, ``bounds=True`` for one
            without bounds, or ``batch_dims``, since the initial state is a single one.
        SolveError
            If the solve stops early.
        """
        return solve(self, t, method=method, rtol=rtol, atol=atol, split=split, bounds=bounds, **arguments)

    def check(self, solution: Solution) -> Report:
        """Digits against the references, drift of the invariants, excess over the bounds; prints as a table.

        Examples
        --------
        >>> import problems
        >>> problem = problems.load("robertson")
        >>> report = problem.check(problem.solve(rtol=1e-6))
        >>> report.digits > 4
        True
        """
        return check(self, solution)

    def dataset(self, n: int, **arguments: Any) -> xarray.Dataset:
        """Observations at the start and at ``n`` later times, to learn from; equal arguments give equal data.

        Parameters
        ----------
        n : int
            Times after the start, spread over the span as ``time_grid`` says.
        noise : float
            Standard deviation of normal errors, in units of ``scale``. Default 0.
        seed : int
            Of noise and sampler. Default 0.
        trajectories, sampler : int and callable
            How many trajectories, and sampler(rng) -> the initial state of each. Default: one, from y0.
        times : Tensor
            (n + 1,) in place of those of ``n``, the start first.
        method, rtol : str and float
            Of the solves. Default ``"bdf"`` and 1e-9.

        Returns
        -------
        xarray.Dataset
            ``state`` and ``observed``, the same with noise, over ([trajectory,] time, component [, grid]);
            ``stiffml.training.data.from_xarray`` makes runs of it.

        Raises
        ------
        ValueError
            For arguments out of range, or trajectories without a sampler.

        Examples
        --------
        >>> import problems
        >>> data = problems.load("robertson").dataset(10, noise=0.01, rtol=1e-4)
        >>> dict(data.state.sizes)
        {'time': 11, 'component': 3}
        """
        return make_dataset(self, n, **arguments)

    def plot(self, solution: Solution) -> Figure:
        """A picture of a solution, with the references."""
        from problems.pictures import plot  # imports matplotlib, which takes a moment

        return plot(self, solution)

    def eigenvalues(self, t: float | None = None, y: np.ndarray | None = None) -> np.ndarray:
        """(size,) complex eigenvalues of ∂rhs/∂y at (t, y), by default the start.

        Examples
        --------
        >>> import problems
        >>> problems.load("robertson").eigenvalues().real.round(2)  # at the initial state
        array([-0.04,  0.  ,  0.  ])
        """
        t = self.t_span[0] if t is None else number("t", t)
        y = self.y0 if y is None else array("y", y)
        if y.shape != self.y0.shape:
            raise ValueError(f"y must have the shape of y0, {self.y0.shape}, not {y.shape}")
        return eigenvalues(self, t, y)
