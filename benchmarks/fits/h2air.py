"""What the fits of hydrogen that ignites in air share: the runs, delays, conserved elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from problems.chemistry import ConstantPressureReactor, Mechanism, NotIgnitedError, ignition_delay
from stiffml import SolveError, solve
from stiffml.training import Run, Runs

FITTED = (1000.0, 1133.0, 1267.0, 1400.0)
OTHERS = (1050.0, 1150.0, 1250.0, 1350.0)
OUTSIDE = (950.0, 1500.0)
EVERY = (*FITTED, *OTHERS, *OUTSIDE)
"""K at the start, of stoichiometric hydrogen and air at one atmosphere and constant pressure."""

LONG = 5.0
"""A run lasts so many delays."""

FLOOR = 1e-3
"""Residuals are relative to max(y, this fraction of the component's largest value), or nearly so."""


def mechanism() -> Mechanism:
    """Hydrogen's, whose rates are arguments of compiled code: only one set of them has to be compiled."""
    found = Mechanism.from_yaml("h2o2.yaml")
    for constants in (found.log_A, found.log_A_low):
        constants.requires_grad_()
    return found


def fresh(of: Mechanism, temperatures: Sequence[float]) -> Tensor:
    """(temperatures, 11) states before the ignition."""
    T = torch.tensor(temperatures, dtype=torch.float64)
    return ConstantPressureReactor(of).state(T, of.premixed(1.0, "H2"))


def delays(reactor: nn.Module, y0: Tensor) -> np.ndarray:
    """(rows,) in s, each row by itself; NaN where a reactor cannot be solved until it stands still."""
    return np.array([_delay(reactor, row) for row in y0])


def _delay(reactor: nn.Module, y0: Tensor) -> float:
    try:
        with torch.no_grad():
            return float(ignition_delay(reactor, y0, longest=10.0, compile=True))
    except (NotIgnitedError, SolveError) as error:
        print(f"no delay from {float(y0[0]):g} K: {error}", flush=True)
        return float("nan")


def solved(reactor: nn.Module, y0: Tensor, t: np.ndarray, rtol: float = 1e-9):
    atol = torch.full((len(y0),), 1e-6 * rtol, dtype=torch.float64)
    atol[0] = rtol
    with torch.no_grad():
        return solve(reactor, y0, torch.from_numpy(t), rtol=rtol, atol=atol, compile=True)


def observed(
    reactor: ConstantPressureReactor, temperatures: Sequence[float] = FITTED, every: int = 1
) -> Runs:
    """All species and the temperature, without noise, at times of each run's own that resolve ignition.

    These are the ends of every third (``every`` = 3), say, of the steps of BDF at rtol 1e-5.
    """
    y0, found = fresh(reactor.mechanism, temperatures), []
    for row, delay in zip(y0, delays(reactor, y0), strict=True):
        end = LONG * delay
        ends = np.asarray(solved(reactor, row, np.array([0.0, end]), rtol=1e-5).steps.ends[0]) * end
        # Before a thousandth of the delay steps are those of BDF's start.
        t = np.concatenate([[0.0], ends[ends > delay / 1000][::-every][::-1]])
        found.append((t, solved(reactor, row, t).y.numpy()))
    largest = scale_of([y for _, y in found])
    return Runs(
        [
            Run(f"{T:g} K", t, y, y0=y[0], weights=(np.abs(y) / largest + FLOOR) ** -2.0)
            for T, (t, y) in zip(temperatures, found, strict=True)
        ],
        reactor.components,
        units=("K", *["1"] * (y0.shape[1] - 1)),
        time_units="s",
    )


def scale_of(values: Sequence[np.ndarray]) -> np.ndarray:
    """(components,) the largest values; 1 of what is always 0."""
    largest = np.max([np.abs(y).max(axis=0) for y in values], axis=0)
    return np.where(largest > 0, largest, 1.0)


def element_drift(reactor: nn.Module, of: Mechanism, y0: Tensor, ends: Sequence[float]) -> float:
    """The largest change of an element's mass fraction along runs of y0 (rows, 11) to ``ends``."""
    found = []
    for row, end in zip(y0, ends, strict=True):
        y = solved(reactor, row, np.concatenate([[0.0], np.geomspace(end / 1000, end, 200)]), rtol=1e-8).y
        elements = of.element_mass_fractions(y[:, 1:])
        found.append(float((elements - elements[0]).abs().max()))
    return max(found)


def errors_by_kind(found: np.ndarray, true: np.ndarray) -> dict[str, list[float | None]]:
    """Relative errors of delays, by what the temperatures ``EVERY`` are to the fit; None: no delay."""
    error = [None if np.isnan(e) else float(e) for e in found / true - 1]
    first, second = len(FITTED), len(FITTED) + len(OTHERS)
    return {"fitted": error[:first], "others": error[first:second], "outside": error[second:]}


def largest_of(rows: Sequence[dict], when: str, kind: str) -> float:
    return max(1e3 if error is None else abs(error) for row in rows for error in row[when][kind])


def report(progress) -> None:
    row = progress.rows[-1]
    print(
        f"{len(progress.rows):4d}  rung {row.rung}  cost {row.cost:.3e}  error {row.error:.2e}  "
        f"rejected {row.rejected}  failed {row.failed}  {row.seconds:.2f} s",
        flush=True,
    )
