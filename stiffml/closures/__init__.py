"""Closures: known physics plus what is missing, as ``func`` of a solve.

:class:`Closure` adds a network's rates to a known right-hand side; heads say how numbers become rates,
features what the network sees. :func:`missing_rate` finds from data where and how much is missing.
"""

from stiffml.closures.closure import Closure
from stiffml.closures.features import Features, LinearFeatures, LogFeatures
from stiffml.closures.heads import Head, Linear, ProductionLoss, Reactions, Relaxation, Sinh
from stiffml.closures.hybrid import Hybrid, Positive
from stiffml.closures.kinetics import CRNN, Arrhenius
from stiffml.closures.known_and_missing import WithDependent
from stiffml.closures.matching import Matched, match_rates
from stiffml.closures.missing import MissingRate, missing_rate, rate_scale
from stiffml.closures.networks import MLP, mlp
from stiffml.closures.stable import StableLinear

__all__ = [
    "CRNN",
    "MLP",
    "Arrhenius",
    "Closure",
    "Features",
    "Head",
    "Hybrid",
    "Linear",
    "LinearFeatures",
    "LogFeatures",
    "Matched",
    "MissingRate",
    "Positive",
    "ProductionLoss",
    "Reactions",
    "Relaxation",
    "Sinh",
    "StableLinear",
    "WithDependent",
    "match_rates",
    "missing_rate",
    "mlp",
    "rate_scale",
]
