"""HIRES: how light controls the growth of a plant, through eight states of phytochrome."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.parameters import Parameter
from problems.problem import Problem
from problems.references import published

# The test set prints bare numbers; the unit of time stands for whatever the model was fitted in.
_PARAMETERS = {
    "k1": Parameter(1.71, "1/s", "red absorbing to far red absorbing: Pr -> Pfr, free or bound to X or X'"),
    "k2": Parameter(0.43, "1/s", "and back: Pfr -> Pr, PfrX -> PrX, PfrX' -> PrX', PfrX'E -> PrX' + E"),
    "k3": Parameter(8.32, "1/s", "Pfr -> PfrX"),
    "k4": Parameter(0.69, "1/s", "PfrX -> PfrX'"),
    "k5": Parameter(0.035, "1/s", "PrX' -> PrX"),
    "k6": Parameter(8.32, "1/s", "PrX -> Pr"),
    "kplus": Parameter(280.0, "1/s", "PfrX' + E -> PfrX'E"),
    "kminus": Parameter(0.69, "1/s", "PfrX'E -> PfrX' + E"),
    "kstar": Parameter(0.69, "1/s", "PfrX'E -> E and what leaves the model"),
    "oks": Parameter(0.0007, "1/s", "inflow of Pr"),
}


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    pr, pfr, prx, pfrx, prx_, pfrx_, complexed, enzyme = y.unbind(dim=-1)
    k1, k2, k3, k4, k5, k6 = (p[f"k{i}"] for i in range(1, 7))
    binding = p["kplus"] * pfrx_ * enzyme - (k2 + p["kminus"] + p["kstar"]) * complexed
    return torch.stack(
        [
            p["oks"] - k1 * pr + k2 * pfr + k6 * prx,
            k1 * pr - (k2 + k3) * pfr,
            -(k1 + k6) * prx + k2 * pfrx + k5 * prx_,
            k3 * pfr + k1 * prx - (k2 + k4) * pfrx,
            -(k1 + k5) * prx_ + k2 * (pfrx_ + complexed),
            k4 * pfrx + k1 * prx_ - k2 * pfrx_ + p["kminus"] * complexed - p["kplus"] * pfrx_ * enzyme,
            binding,
            -binding,
        ],
        dim=-1,
    )


def problem() -> Problem:
    return Problem(
        name="hires",
        title="High irradiance response: eight states of a plant's light receptor",
        rhs=rhs,
        equations="""\
Pr'     = oks − k1 Pr + k2 Pfr + k6 PrX
Pfr'    = k1 Pr − (k2 + k3) Pfr
PrX'    = −(k1 + k6) PrX + k2 PfrX + k5 PrX*
PfrX'   = k3 Pfr + k1 PrX − (k2 + k4) PfrX
PrX*'   = −(k1 + k5) PrX* + k2 (PfrX* + PfrX*E)
PfrX*'  = k4 PfrX + k1 PrX* − k2 PfrX* + k₋ PfrX*E − k₊ PfrX* E
PfrX*E' = k₊ PfrX* E − (k2 + k₋ + k*) PfrX*E
E'      = −PfrX*E'                                  (* marks the second receptor)""",
        y0=np.array([1.0, 0, 0, 0, 0, 0, 0, 0.0057]),
        t_span=(0.0, 321.8122),
        parameters=_PARAMETERS,
        components=("Pr", "Pfr", "PrX", "PfrX", "PrX*", "PfrX*", "PfrX*E", "E"),
        time_units="s",
        invariants={"enzyme": np.array([0.0, 0, 0, 0, 0, 0, 1, 1])},
        bounds=(0.0, 1.0),
        scale=np.array([1.0, 0.2, 0.1, 0.6, 0.2, 0.4, 5.7e-3, 5.7e-3]),
        threshold=np.array([1e-3, 2e-4, 1e-4, 1e-3, 2e-3, 6e-3, 3e-3, 3e-3]) * 1e-2,
        references=(published("hires", rtol_valid=1e-12),),
        stiffness="mild: eigenvalues from -0.04 to about -100, over 322 s",
        citation="E. Schäfer, A new approach to explain the 'high irradiance responses' of "
        "photomorphogenesis on the basis of phytochrome, J. Math. Biology 2 (1975) 41-56; Test Set for "
        "Initial Value Problem Solvers (University of Bari), problem HIRES",
    )
