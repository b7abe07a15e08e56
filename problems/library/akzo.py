"""The chemical Akzo Nobel problem: five reacting concentrations, a sixth in equilibrium with two of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.parameters import Parameter, Values
from problems.problem import Problem
from problems.references import published

# The test set prints bare numbers; the units are those of concentrations in mol/l, pressures in bar and
# times in min.
_PARAMETERS = {
    "k1": Parameter(18.7, "(l/mol)^3.5/min", "2 FLB + ½ CO2 -> FLBT"),
    "k2": Parameter(0.58, "l/mol/min", "ZLA + FLB <-> FLBT + ZHU, from right to left"),
    "k3": Parameter(0.09, "(l/mol)^2/min", "FLB + 2 ZHU + CO2 -> byproducts"),
    "k4": Parameter(0.42, "(l/mol)^1.5/min", "FLB.ZHU + ½ CO2 -> ZLA"),
    "K": Parameter(34.4, "1", "equilibrium constant of the reversible reaction"),
    "klA": Parameter(3.3, "1/min", "mass transfer coefficient of the CO2 that flows in"),
    "Ks": Parameter(115.83, "l/mol", "equilibrium constant of FLB + ZHU <-> FLB.ZHU"),
    "pCO2": Parameter(0.9, "bar", "partial pressure of CO2"),
    "H": Parameter(737.0, "bar l/mol", "Henry's constant"),
}

_FLB, _ZHU = 0.444, 0.007


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """Five rates, and the residual of the equilibrium that fixes the sixth concentration."""
    flb, co2, flbt, zhu, zla, complexed = y.unbind(dim=-1)
    root = torch.sqrt(co2)
    r1 = p["k1"] * flb**4 * root
    r2 = p["k2"] * flbt * zhu
    r3 = p["k2"] / p["K"] * flb * zla
    r4 = p["k3"] * flb * zhu**2
    r5 = p["k4"] * complexed**2 * root
    inflow = p["klA"] * (p["pCO2"] / p["H"] - co2)
    return torch.stack(
        [
            -2 * r1 + r2 - r3 - r4,
            -r1 / 2 - r4 - r5 / 2 + inflow,
            r1 - r2 + r3,
            -r2 + r3 - 2 * r4,
            r2 - r3 + r5,
            p["Ks"] * flb * zhu - complexed,
        ],
        dim=-1,
    )


def initial(values: Values) -> np.ndarray:
    """The initial state; its last component is in equilibrium with the first and the fourth."""
    return np.array([_FLB, 0.00123, 0.0, _ZHU, 0.0, values["Ks"] * _FLB * _ZHU])


def problem() -> Problem:
    return Problem(
        name="akzo",
        title="The chemical Akzo Nobel problem",
        rhs=rhs,
        equations="""\
FLB'  = −2 r1 + r2 − r3 − r4            r1 = k1 FLB⁴ √CO2
CO2'  = −½ r1 − r4 − ½ r5 + F           r2 = k2 FLBT ZHU
FLBT' = r1 − r2 + r3                    r3 = (k2/K) FLB ZLA
ZHU'  = −r2 + r3 − 2 r4                 r4 = k3 FLB ZHU²
ZLA'  = r2 − r3 + r5                    r5 = k4 FLB.ZHU² √CO2
0     = Ks FLB ZHU − FLB.ZHU            F  = klA (pCO2/H − CO2)""",
        y0=initial({"Ks": _PARAMETERS["Ks"].value}),
        initial=initial,
        t_span=(0.0, 180.0),
        parameters=_PARAMETERS,
        components=("FLB", "CO2", "FLBT", "ZHU", "ZLA", "FLB.ZHU"),
        kind="dae",
        mass=np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
        units="mol/l",
        time_units="min",
        scale=np.array([0.444, 1.2e-3, 0.16, 7e-3, 2e-2, 0.36]),
        bounds=(0.0, 1.0),
        threshold=np.array([0.1, 1e-3, 1e-2, 1e-4, 1e-2, 1e-3]) * 1e-2,
        references=(published("akzo", rtol_valid=1e-12),),
        stiffness="mild: with the sixth concentration eliminated, one eigenvalue is -9.2 at the start, "
        "-21 after 0.3 min and -3.3 at the end, over 180 min",
        citation="W. J. H. Stortelder, Parameter Estimation in Nonlinear Dynamic Systems, CWI Tract 124 "
        "(1998); Test Set for Initial Value Problem Solvers (University of Bari), problem chemakzo",
    )
