"""Where a solution is stiff: eigenvalues along it, what kinds of modes there are, and what takes part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from stiffml.checks import whole
from stiffml.diagnostics.eigen import KINDS, invariants_of, kind_of, meanings, modes_of
from stiffml.diagnostics.extreme import extreme_modes
from stiffml.diagnostics.stability import explicit_limit
from stiffml.diagnostics.states import (
    States,
    at_steps,
    at_times,
    component_names,
    require_one_process,
    span_of,
    trajectory_of,
)
from stiffml.interface.solution import Solution
from stiffml.system.state import Layout
from stiffml.system.system import System

if TYPE_CHECKING:
    import xarray

DENSE = 300
"""Unknowns of a sample up to which all eigenvalues are found."""

FEW = 6
"""States at which conserved sums are looked for."""


def stiffness(
    sol: Solution,
    times: Tensor | None = None,
    *,
    points: int = 60,
    count: int = 6,
    names: Sequence[str] | None = None,
    time_units: str = "1",
) -> xarray.Dataset:
    """Eigenvalues of ∂f/∂y along a solution, which modes they are, and what they mean for a solver.

    An eigenvalue λ is fast or slow by the span T of the solution, the time that is of interest, not by the
    slowest of the others: a mode with −λT = 10⁶ has died out a millionth into the span.

    Parameters
    ----------
    sol : Solution
        Samples are looked at one by one. The implicit and the explicit part of a ``Split`` count together.
    times : Tensor, optional
        (n,) where to look, in the order of integration. Default: at the ends of at most ``points`` steps,
        evenly by number.
    points : int
        Default 60.
    count : int
        How many eigenvalues, those of largest magnitude, where a sample has more than 300 unknowns. Slower
        modes are then not seen, and attributes say so. Default 6.
    names : sequence of str, optional
        Of the components of a sample. Default ``y[0]``, ``y[1]``, …
    time_units : str
        Default ``"1"``.

    Returns
    -------
    xarray.Dataset
        Over (time, mode), or (time, sample, mode) for a batch; the fastest decay first. ``re`` and ``im``
        of λ, in the direction of integration; ``kind`` (see ``flag_meanings``); ``participation`` of each
        component in each mode, which sum to 1. Over (time, [sample]): ``stiffness``, the fastest decay times
        T; ``ratio``, the fastest over the slowest decay that is not zero; ``oscillation``, turns in T of the
        fastest oscillation; ``explicit_step``, the longest stable step of dopri5. ``step`` over time: that
        which was taken. ``invariant`` (row, component): sums of M y that f conserves. Attributes sum up:
        ``explicit_steps``, how many steps stability asks of dopri5; ``steps``, how many were taken.

    Raises
    ------
    TypeError, ValueError
        For a wrong argument, samples with times of their own, a DAE whose index is above 1, more than 300
        unknowns with a singular mass matrix.
    NotImplementedError
        For a field over several processes.

    Examples
    --------
    >>> from stiffml import diagnostics
    >>> found = diagnostics.stiffness(stiffml.solve(func, y0, t, method="bdf"), names=["slow", "fast"])
    >>> found.re.values[-1], float(found.stiffness[-1])  # λ, and the fastest decay times the span
    (array([-1000.,    -1.]), 1000.0)
    >>> print(diagnostics.advise(found))  # doctest: +SKIP
    >>> diagnostics.plot_stiffness(found).savefig("stiffness.png")  # doctest: +SKIP
    """
    import xarray

    layout = require_one_process("stiffness", sol)
    points, count = whole("points", points, least=2), whole("count", count)
    labels = component_names(layout, names)
    parts = at_steps(sol, points) if times is None else at_times(sol, times)
    span = span_of(sol)
    if not span > 0:
        raise ValueError("stiffness: the solution has no steps")
    dense = layout.width <= DENSE
    if dense:
        values, shares, rounding = _all(parts, layout)
    else:
        _require_few(parts[0].system, layout, count)
        values, shares, rounding = _extreme(parts, layout, count)
    t = np.concatenate([part.t for part in parts])
    kinds = kind_of(values, span, rounding)
    invariants = _invariants(parts) if dense and layout.samples == 1 else np.empty((0, len(labels)))
    if len(invariants):
        _mark_conserved(kinds, values, len(invariants))
    found = _summary(values, kinds, span)
    batch = ["sample"] if layout.samples > 1 else []
    over, modes = ["time", *batch], ["time", *batch, "mode"]

    def squeezed(array: np.ndarray) -> np.ndarray:
        return array if batch else array[:, 0]

    rate = "1" if time_units == "1" else f"1/{time_units}"
    flags = {"flag_values": np.arange(len(KINDS), dtype=np.int8), "flag_meanings": meanings()}
    share = "participation factors" if dense else "shares of the squared eigenvector"
    variables = {
        "re": (modes, squeezed(values.real), {"long_name": "Re λ", "units": rate}),
        "im": (modes, squeezed(values.imag), {"long_name": "Im λ", "units": rate}),
        "kind": (modes, squeezed(kinds), {"long_name": "kind of mode", **flags}),
        "participation": ([*modes, "component"], squeezed(shares), {"long_name": share, "units": "1"}),
        "step": ("time", _steps(parts), {"long_name": "step that ends or lies here", "units": time_units}),
        "invariant": (["row", "component"], invariants, {"long_name": "conserved sums of M y", "units": "1"}),
        **{
            name: (over, squeezed(v), {"long_name": text, "units": unit})
            for name, (v, text, unit) in _described(found, time_units).items()
        },
    }
    steps = sum(trajectory_of(piece).n_steps for piece in sol.pieces)
    attributes = {
        "span": span,
        "steps": steps,
        "explicit_steps": _explicit_steps(parts, found["explicit_step"], span),
        "algebraic": int((kinds[0, 0] == KINDS.index("infinite")).sum()),
        "conserved": len(invariants),
        "all_modes": int(dense),
        "unknowns": layout.width,
        "samples": layout.samples,
        "method": str(sol.pieces[0].tape.replay.method),
        "split": int(parts[0].system.g is not None),
    }
    coords = {"time": ("time", t, {"long_name": "time", "units": time_units}), "component": labels}
    return xarray.Dataset(variables, coords, attributes)


def _require_few(system: System, layout: Layout, count: int) -> None:
    if layout.samples > 1:
        raise ValueError(
            f"stiffness: {layout.samples} samples of {layout.width} unknowns each, more than {DENSE}; "
            "solve one sample alone"
        )
    if system.mass is not None and system.mass.singular:
        raise ValueError(
            f"stiffness: {layout.width} unknowns, more than {DENSE}, with a singular mass matrix, "
            "whose finite eigenvalues Arnoldi's iteration does not find; try a coarser grid"
        )
    if count > layout.width - 2:
        raise ValueError(f"count must be at most {layout.width - 2}, not {count}")


def _all(parts: Sequence[States], layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All eigenvalues (K, samples, w), participation (K, samples, w, w) and rounding (K, samples, w)."""
    found = []
    for part in parts:
        mass = part.system.mass
        masses = [None] * layout.samples if mass is None else [*mass.blocks] * layout.samples
        for t, blocks in zip(part.t, part.jacobians(), strict=True):
            for number, block in enumerate(blocks):
                try:
                    found.append(modes_of(block, masses[number]))
                except ValueError as error:
                    where = f" of sample {number}" if layout.samples > 1 else ""
                    raise ValueError(f"stiffness: at t = {t:.6g}{where}: {error}") from None
    shape = (-1, layout.samples, layout.width)
    values = np.stack([modes.values for modes in found]).reshape(shape)
    shares = np.stack([modes.participation() for modes in found]).reshape(*shape, layout.width)
    return values, shares, np.stack([modes.rounding for modes in found]).reshape(shape)


def _extreme(
    parts: Sequence[States], layout: Layout, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = [extreme_modes(part, k, count) for part in parts for k in range(len(part.s))]
    values = np.stack([value for value, _ in found])[:, None]
    shares = np.stack([np.abs(right.T) ** 2 for _, right in found])[:, None]
    return values, shares / shares.sum(axis=-1, keepdims=True), np.zeros(values.shape)


def _invariants(parts: Sequence[States]) -> np.ndarray:
    jacobians = np.concatenate([part.jacobians()[:, 0] for part in parts])
    slopes = np.concatenate([part.slopes() for part in parts])
    chosen = np.unique(np.linspace(0, len(slopes) - 1, FEW).round().astype(int))
    return invariants_of(jacobians[chosen], slopes[chosen])


def _mark_conserved(kinds: np.ndarray, values: np.ndarray, count: int) -> None:
    """Each conserved sum has an eigenvalue zero, whatever rounding has made of it: the smallest ones."""
    for kind, value in zip(
        kinds.reshape(-1, kinds.shape[-1]), values.reshape(-1, kinds.shape[-1]), strict=True
    ):
        kind[np.argsort(np.abs(value))[:count]] = KINDS.index("zero")


def _summary(values: np.ndarray, kinds: np.ndarray, span: float) -> dict[str, np.ndarray]:
    """Figures over (K, samples) of all finite modes that are not zero."""
    counts = (kinds != KINDS.index("infinite")) & (kinds != KINDS.index("zero"))
    decay = np.where(counts & (values.real < 0), -values.real, np.nan)
    fastest = np.nan_to_num(np.nanmax(np.where(np.isnan(decay), -np.inf, decay), axis=-1), neginf=0.0)
    slowest = np.min(np.where(np.isnan(decay), np.inf, decay), axis=-1)
    turning = kinds == KINDS.index("oscillation")
    limit = np.min(np.where(counts, explicit_limit(np.where(counts, values, 0.0)), np.inf), axis=-1)
    return {
        "stiffness": fastest * span,
        "ratio": np.where(fastest > 0, fastest / slowest, 1.0),
        "oscillation": np.max(np.where(turning, np.abs(values.imag), 0.0), axis=-1) * span / (2 * np.pi),
        "explicit_step": limit,
    }


def _described(found: dict[str, np.ndarray], time_units: str) -> dict[str, tuple[np.ndarray, str, str]]:
    return {
        "stiffness": (found["stiffness"], "fastest decay times the span", "1"),
        "ratio": (found["ratio"], "fastest decay over the slowest", "1"),
        "oscillation": (found["oscillation"], "turns of the fastest oscillation in the span", "1"),
        "explicit_step": (found["explicit_step"], "longest stable step of dopri5", time_units),
    }


def _steps(parts: Sequence[States]) -> np.ndarray:
    """(K,) the sizes of the steps that the states end, or lie in."""
    found = []
    for part in parts:
        trajectory = trajectory_of(part.piece)
        number = np.searchsorted(trajectory.times, part.s.numpy(), side="left") - 1
        found.append(trajectory.sizes[number.clip(0, trajectory.n_steps - 1)])
    return np.concatenate(found)


def _explicit_steps(parts: Sequence[States], limit: np.ndarray, span: float) -> float:
    """∫ dt / (longest stable step), by the trapezoidal rule; of a batch the sample that needs most."""
    s = np.concatenate([part.s.numpy() for part in parts])
    rate = (1 / limit).max(axis=1)
    if len(s) == 1:
        return float(rate[0] * span)
    inside = float((np.diff(s) * (rate[1:] + rate[:-1]) / 2).sum())
    return inside * span / (s[-1] - s[0]) if s[-1] > s[0] else float(rate[0] * span)
