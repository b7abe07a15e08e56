"""Combustion chemistry in torch, from mechanism files in Cantera's format."""

from __future__ import annotations

from problems.chemistry.errors import MechanismError, UnsupportedMechanismError
from problems.chemistry.ignition import NotIgnitedError, ignition_delay, peak_time
from problems.chemistry.mechanism import Mechanism
from problems.chemistry.reactors import ConstantPressureReactor, ConstantVolumeReactor
from problems.chemistry.units import GAS_CONSTANT, ONE_ATMOSPHERE

__all__ = [
    "GAS_CONSTANT",
    "ONE_ATMOSPHERE",
    "ConstantPressureReactor",
    "ConstantVolumeReactor",
    "Mechanism",
    "MechanismError",
    "NotIgnitedError",
    "UnsupportedMechanismError",
    "ignition_delay",
    "peak_time",
]
