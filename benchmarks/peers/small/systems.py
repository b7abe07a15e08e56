"""The small stiff systems that all sides solve, as equations that each side reads as its own. Only numpy.

A right-hand side is a function of (t, y, p) → list of components, where y and p are sequences of numbers:
floats, tensors or traced arrays. So every side evaluates the same operations. That of hydrogen in air is one
of arrays, with constants that are handed on; see hydrogen.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hydrogen import constants, slopes

Rhs = Callable[[Any, Sequence[Any], Sequence[Any]], list]


@dataclass(frozen=True)
class System:
    """An initial value problem with outputs and parameters that gradients are taken for.

    Attributes
    ----------
    name, title : str
    rhs : callable or None
        (t, y, p) -> list of components; None if it is hydrogen's, which has ``constants``.
    y0, p, t : ndarray
        (n,), (parameters,), (outputs,); the first output is the start.
    threshold : ndarray
        (n,) absolute tolerances are rtol times this.
    constants : dict of str to ndarray
        Of hydrogen's right-hand side.
    reference_rtol : float
        Of the reference solution. One to 1e-11 takes 7 s for hydrogen, and its gradient 160 of them.
    """

    name: str
    title: str
    rhs: Rhs | None
    y0: np.ndarray
    p: np.ndarray
    t: np.ndarray
    threshold: np.ndarray
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    reference_rtol: float = 1e-11

    def slopes(self, t: float, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        """The right-hand side of numpy arrays, real or complex."""
        if self.rhs is None:
            return slopes(np, self.constants, y, p)
        return np.array(self.rhs(t, y.tolist(), p.tolist()))


def robertson(t: Any, y: Sequence[Any], p: Sequence[Any]) -> list:
    first, second, third = p[0] * y[0], p[1] * y[1] * y[2], p[2] * y[1] * y[1]
    return [second - first, first - second - third, third]


def van_der_pol(t: Any, y: Sequence[Any], p: Sequence[Any]) -> list:
    return [y[1], ((1 - y[0] * y[0]) * y[1] - y[0]) / p[0]]


def hires(t: Any, y: Sequence[Any], p: Sequence[Any]) -> list:
    k1, k2, k3, k4, k5, k6, plus, minus, star, inflow = p
    binding = plus * y[5] * y[7]
    bound = binding - (k2 + minus + star) * y[6]
    return [
        inflow - k1 * y[0] + k2 * y[1] + k6 * y[2],
        k1 * y[0] - (k2 + k3) * y[1],
        -(k1 + k6) * y[2] + k2 * y[3] + k5 * y[4],
        k3 * y[1] + k1 * y[2] - (k2 + k4) * y[3],
        -(k1 + k5) * y[4] + k2 * (y[5] + y[6]),
        k4 * y[3] + k1 * y[4] - k2 * y[5] + minus * y[6] - binding,
        bound,
        -bound,
    ]


SPECIES = [
    *("NO2", "NO", "O3P", "O3", "HO2", "OH", "HCHO", "CO", "ALD", "MEO2"),
    *("C2O3", "CO2", "PAN", "CH3O", "HNO3", "O1D", "SO2", "SO4", "NO3", "N2O5"),
]

REACTIONS = """
    0.35 NO2 > NO O3P;      26.6 NO O3 > NO2;        1.23e4 HO2 NO > NO2 OH;  8.6e-4 HCHO > HO2 HO2 CO;
    8.2e-4 HCHO > CO;       1.5e4 HCHO OH > HO2 CO;  1.3e-4 ALD > MEO2 HO2 CO;  2.4e4 ALD OH > C2O3;
    1.65e4 C2O3 NO > NO2 MEO2 CO2;  9e3 C2O3 NO2 > PAN;  0.022 PAN > C2O3 NO2;  1.2e4 MEO2 NO > CH3O NO2;
    1.88 CH3O > HCHO HO2;   1.63e4 NO2 OH > HNO3;    4.8e6 O3P > O3;          3.5e-4 O3 > O1D;
    0.0175 O3 > O3P;        1e8 O1D > OH OH;         4.44e11 O1D > O3P;       1.24e3 SO2 OH > SO4 HO2;
    2.1 NO3 > NO;           5.78 NO3 > NO2 O3P;      0.0474 NO2 O3 > NO3;     1.78e3 NO3 NO2 > N2O5;
    3.12 N2O5 > NO3 NO2
"""


def _reactions() -> tuple[list[float], list[list[int]], list[list[int]]]:
    constants, consumed, produced = [], [], []
    for text in REACTIONS.split(";"):
        left, right = text.split(">")
        constant, *names = left.split()
        constants.append(float(constant))
        consumed.append([SPECIES.index(name) for name in names])
        produced.append([SPECIES.index(name) for name in right.split()])
    return constants, consumed, produced


CONSTANTS, CONSUMED, PRODUCED = _reactions()


def pollu(t: Any, y: Sequence[Any], p: Sequence[Any]) -> list:
    change: list = [0.0] * len(SPECIES)
    for constant, consumed, produced in zip(p, CONSUMED, PRODUCED, strict=True):
        rate = constant
        for species in consumed:
            rate = rate * y[species]
        for species in consumed:
            change[species] = change[species] - rate
        for species in produced:
            change[species] = change[species] + rate
    return change


def _decades(first: float, last: float, count: int) -> np.ndarray:
    return np.concatenate([[0.0], np.geomspace(first, last, count)])


NAMES = ("robertson-100", "robertson-1e5", "van-der-pol", "hires", "pollu", "h2air")


def system_of(name: str) -> System:
    """One system by its name; hydrogen's needs stiffml."""
    return _of_hydrogen(constants()) if name == "h2air" else _by_components()[name]


def _of_hydrogen(found: Mapping[str, np.ndarray]) -> System:
    return System(
        "h2air",
        "H2/air",
        None,
        found["y0"],
        np.zeros(len(found["log_A"])),
        np.linspace(0, 1e-3, 21),
        np.array([1.0, *[1e-9] * (len(found["y0"]) - 1)]),
        found,
        reference_rtol=1e-9,
    )


def _by_components() -> dict[str, System]:
    rates = np.array([0.04, 1e4, 3e7])
    start, small = np.array([1.0, 0.0, 0.0]), np.array([1e-2, 1e-6, 1e-2])
    polluted = {"NO": 0.2, "O3": 0.04, "HCHO": 0.1, "CO": 0.3, "ALD": 0.01, "SO2": 0.007}
    found = [
        System(
            "robertson-100", "Robertson to 100 s", robertson, start, rates, _decades(1e-5, 1e2, 40), small
        ),
        System(
            "robertson-1e5", "Robertson to 1e5 s", robertson, start, rates, _decades(1e-5, 1e5, 40), small
        ),
        System(
            "van-der-pol",
            "van der Pol, μ² = 1e6",
            van_der_pol,
            np.array([2.0, 0.0]),
            np.array([1e-6]),
            np.linspace(0, 2, 21),
            np.array([1e-2, 1e-2]),
        ),
        System(
            "hires",
            "HIRES",
            hires,
            np.array([1.0, 0, 0, 0, 0, 0, 0, 0.0057]),
            np.array([1.71, 0.43, 8.32, 0.69, 0.035, 8.32, 280.0, 0.69, 0.69, 0.0007]),
            _decades(1e-3, 321.8122, 40),
            np.full(8, 1e-3),
        ),
        System(
            "pollu",
            "POLLU",
            pollu,
            np.array([polluted.get(name, 0.0) for name in SPECIES]),
            np.array(CONSTANTS),
            np.concatenate([[0.0], np.linspace(3, 60, 20)]),
            np.full(20, 1e-6),
        ),
    ]
    return {system.name: system for system in found}


def save(path: Path, system: System, scale: np.ndarray, compiled: bool) -> None:
    """Write down what is to be solved: the system with its constants, and the scale (n,) of the states in the
    loss; and whether stiffml compiles its function."""
    handed = {f"of {name}": value for name, value in system.constants.items()}
    np.savez(path, name=system.name, scale=scale, compiled=compiled, **handed)


def load(path: str) -> tuple[System, np.ndarray, bool]:
    """The system, the scale, and whether to compile, as :func:`save` wrote them."""
    with np.load(path) as file:
        found = {name.removeprefix("of "): file[name] for name in file.files if name.startswith("of ")}
        name, scale, compiled = str(file["name"]), file["scale"], bool(file["compiled"])
    return _of_hydrogen(found) if found else _by_components()[name], scale, compiled
