"""A NAND gate of three transistors: 14 potentials, capacitances that depend on them, pulses as inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from problems.parameters import Parameter
from problems.problem import Problem
from problems.references import published

# The test set prints bare numbers. These units fit together, but are not those of a real gate: V_T is 25.85
# mV at room temperature.
_PARAMETERS = {
    "RGS": Parameter(4.0, "kOhm", "resistance between a transistor's source and its node"),
    "RGD": Parameter(4.0, "kOhm", "between drain and node"),
    "RBS": Parameter(10.0, "kOhm", "between bulk and its supply, at the source"),
    "RBD": Parameter(10.0, "kOhm", "between bulk and its supply, at the drain"),
    "CGS": Parameter(6e-5, "pF", "capacitance between gate and source"),
    "CGD": Parameter(6e-5, "pF", "between gate and drain"),
    "CB": Parameter(2.4e-5, "pF", "between bulk and source, or drain, at 0 V"),
    "C9": Parameter(5e-5, "pF", "of nodes 5 and 10 against ground"),
    "delta": Parameter(0.02, "1/V", "channel length modulation"),
    "IS": Parameter(1e-14, "mA", "saturation current of the diodes between bulk and channel"),
    "VT": Parameter(25.85, "V", "their thermal voltage"),
    "PhiB": Parameter(0.87, "V", "built-in voltage of the bulk's capacitances"),
    "VDD": Parameter(5.0, "V", "supply"),
    "VBB": Parameter(-2.5, "V", "supply of the bulk"),
    "beta_load": Parameter(5.35e-4, "mA/V2", "of the load, a depletion transistor"),
    "beta": Parameter(1.748e-3, "mA/V2", "of the two others, enhancement transistors"),
    "beta_back": Parameter(1.748e-4, "mA/V2", "of these when the current flows from source to drain"),
}

_LOAD, _SWITCH = (-2.43, 0.2, 1.28), (0.2, 0.035, 1.01)
"""Threshold voltage in V, its dependence on the bulk in V^½, and surface potential in V."""


def pulses(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two inputs in V, and their slopes in V/ns; ramps of 5 ns, repeated after 20 and 40 ns."""
    first, second = torch.remainder(t, 20.0), torch.remainder(t, 40.0)
    return *_pulse(first, 5.0, 15.0), *_pulse(second, 15.0, 35.0)


def _pulse(t: Tensor, rise: float, fall: float) -> tuple[Tensor, Tensor]:
    value = (t - rise).clamp(0.0, 5.0) - (t - fall).clamp(0.0, 5.0)
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    rising = torch.where((t > rise) & (t < rise + 5.0), one, zero)
    falling = torch.where((t > fall) & (t < fall + 5.0), one, zero)
    return value, rising - falling


def drain_current(
    kind: tuple[float, float, float],
    forth: Tensor,
    back: Tensor,
    delta: Tensor,
    drain: Tensor,
    gate: Tensor,
    source: Tensor,
    bulk: tuple[Tensor, Tensor],
) -> Tensor:
    """Current from drain to source by the model of Shichman and Hodges.

    Where the potential of the source is the higher one, the two change their parts. ``bulk``: its voltages
    against source and drain. ``forth`` and ``back`` are the gains β for the two directions.
    """
    threshold, body, surface = kind
    reverse = drain < source
    voltage = (drain - source).abs()
    against = torch.where(reverse, bulk[1], bulk[0])
    raised = threshold + body * (torch.sqrt(surface - against) - surface**0.5)
    over = (gate - torch.minimum(drain, source) - raised).clamp(min=0.0)
    # Saturated where the voltage exceeds ``over``: the parabola's top.
    used = torch.minimum(voltage, over)
    current = used * (2 * over - used) * (1 + delta * voltage)
    return torch.where(reverse, -back * current, forth * current)


def rhs(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """Currents into the nodes, through capacitances: C(y) y' = f(t, y) solved for y'.

    Each of the nodes 1, 2, 3, 9 and 8, 14 has its capacitor between itself and node 5 or 10, and these one
    more to ground. The sums of currents give the slopes of nodes 5 and 10, and these those of the others.
    """
    u1, u2, u3, u4, u5, u6, u7, u8, u9, u10, u11, u12, u13, u14 = y.unbind(dim=-1)
    v1, slope1, v2, slope2 = pulses(t)

    def diode(v: Tensor) -> Tensor:
        return -p["IS"] * torch.expm1(v.clamp(max=0.0) / p["VT"])

    def capacitance(v: Tensor) -> Tensor:
        reversed_ = torch.sqrt(1 - v.clamp(max=0.0) / p["PhiB"])
        return p["CB"] * torch.where(v <= 0, 1 / reversed_, 1 + v / (2 * p["PhiB"]))

    load = drain_current(
        _LOAD, p["beta_load"], p["beta_load"], p["delta"], u2, u5, u1, (u3 - u5, u4 - p["VDD"])
    )
    upper = drain_current(_SWITCH, p["beta"], p["beta_back"], p["delta"], u7, v1, u6, (u8 - u10, u9 - u5))
    lower = drain_current(_SWITCH, p["beta"], p["beta_back"], p["delta"], u12, v2, u11, (u13, u14 - u10))
    f1 = (u5 - u1) / p["RGS"] + load
    f2 = (p["VDD"] - u2) / p["RGD"] - load
    f3 = (p["VBB"] - u3) / p["RBS"] + diode(u3 - u5)
    f4 = (p["VBB"] - u4) / p["RBD"] + diode(u4 - p["VDD"])
    f5 = (u1 - u5) / p["RGS"] - diode(u3 - u5) - (u5 - u7) / p["RGD"] - diode(u9 - u5)
    f6 = (u10 - u6) / p["RGS"] + upper
    f7 = (u5 - u7) / p["RGD"] - upper
    f8 = (p["VBB"] - u8) / p["RBS"] + diode(u8 - u10)
    f9 = (p["VBB"] - u9) / p["RBD"] + diode(u9 - u5)
    f10 = (u6 - u10) / p["RGS"] - diode(u8 - u10) - (u10 - u12) / p["RGD"] - diode(u14 - u10)
    f11 = -u11 / p["RGS"] + lower
    f12 = (u10 - u12) / p["RGD"] - lower
    f13 = (p["VBB"] - u13) / p["RBS"] + diode(u13)
    f14 = (p["VBB"] - u14) / p["RBD"] + diode(u14 - u10)
    node5 = (f5 + f1 + f2 + f3 + f9) / p["C9"]
    node10 = (f10 + f8 + f14) / p["C9"]
    return torch.stack(
        [
            node5 + f1 / p["CGS"],
            node5 + f2 / p["CGD"],
            node5 + f3 / capacitance(u3 - u5),
            f4 / capacitance(u4 - p["VDD"]),
            node5,
            slope1 + f6 / p["CGS"],
            slope1 + f7 / p["CGD"],
            node10 + f8 / capacitance(u8 - u10),
            node5 + f9 / capacitance(u9 - u5),
            node10,
            slope2 + f11 / p["CGS"],
            slope2 + f12 / p["CGD"],
            f13 / capacitance(u13),
            node10 + f14 / capacitance(u14 - u10),
        ],
        dim=-1,
    )


def problem() -> Problem:
    low, between = -2.5, 3.62385
    return Problem(
        name="nand",
        title="A NAND gate of MOS transistors, with pulses at its two inputs",
        rhs=rhs,
        equations="""\
C(y) y' = f(t, y)              (y: the potentials of 14 nodes; node 1 is the output)
nodes 1, 5, 2: source, gate, drain of the load;  6, V1, 7: of the upper transistor;  11, V2, 12: of the lower
f: currents through resistances, channels and diodes;  C: constant, or C_B/√(1 − v/Φ_B) at the bulk
channel  β v (2 w − v) (1 + δ v),  v ≤ w = u_gate − u_source − v_T;  saturated: β w² (1 + δ v)
diode    I_S (1 − exp(v/V_T)) for v ≤ 0
V1, V2   0 to 5 V: up 5–10, down 15–20, period 20 ns;  up 15–20, down 35–40, period 40 ns""",
        y0=np.array([5, 5, low, low, 5, between, 5, low, low, between, 0, between, low, low]),
        t_span=(0.0, 80.0),
        parameters=_PARAMETERS,
        components=tuple(f"U{node}" for node in range(1, 15)),
        units="V",
        time_units="ns",
        breakpoints=tuple(5.0 * ramp for ramp in range(1, 17)),
        scale=np.array([5, 5, 2.5, 2.5, 5, 5, 5, 2.5, 2.5, 5, 5e-3, 5, 2.5, 2.5]),
        references=(published("nand", rtol_valid=2e-11),),
        stiffness="eigenvalues down to -2.2e4/ns, over 80 ns; the inputs bend every 5 ns, and currents where "
        "a transistor opens, closes, saturates or turns round",
        citation="Test Set for Initial Value Problem Solvers (University of Bari), problem NAND gate; H. "
        "Shichman & D. A. Hodges, Modeling and simulation of insulated-gate field-effect transistor "
        "switching circuits, IEEE J. Solid-State Circuits 3 (1968) 285-289",
    )
