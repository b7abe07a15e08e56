"""Convergence orders, on a smooth problem and on a stiff one.

As a script it writes the orders as a table:
``PYTHONPATH=tests/helpers python tests/methods/test_order.py > docs/orders.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from small_problems import times
from torch import Tensor

from stiffml import METHODS, Fixed, Recorded, Split, solve

WHOLE, SPLIT = "whole", "split"


class Case(NamedTuple):
    """A method, with the right-hand side as a whole or split into an implicit and an explicit part."""

    method: str
    form: str

    def __str__(self) -> str:
        return self.method if self.form == WHOLE else f"{self.method}, split"


CASES = [
    Case(name, form)
    for name, method in METHODS.items()
    for form, able in ((WHOLE, method.whole), (SPLIT, method.split))
    if able
]


class Problem(NamedTuple):
    """With a known solution, on 0 ≤ t ≤ end. ``linear``: split, all that depends on t in the other part."""

    end: float
    func: Callable[[Tensor, Tensor], Tensor]
    split: Split
    linear: Split
    known: Callable[[Tensor], Tensor]


# Order on a smooth problem

RATES = torch.tensor([3.0, 5.0], dtype=torch.float64)
PHASE = torch.tensor([0.0, np.pi / 2], dtype=torch.float64)

# The functions here broadcast over times of shape (K, 1), which makes Jacobians cheap.


def forced(t: Tensor, y: Tensor) -> Tensor:
    """A problem with a known solution, y = (sin t, cos t)·exp(sin t), nonlinear and dependent on time."""
    target, size = known(t), torch.exp(torch.sin(t))
    off = target - y
    slope = torch.cos(t + PHASE) * size + torch.cos(t) * target
    return slope + torch.sin(off) * RATES + 0.3 * off**2


def known(t: Tensor) -> Tensor:
    return torch.sin(t + PHASE) * torch.exp(torch.sin(t))


def pull(t: Tensor, y: Tensor) -> Tensor:
    """Linear, stiffer than the whole, and dependent on time."""
    return 10 * (known(t) - y)


def rest(t: Tensor, y: Tensor) -> Tensor:
    return forced(t, y) - pull(t, y)


PULLED = Split(lambda t, y: -10 * y, lambda t, y: forced(t, y) + 10 * y, linear=True)

FORCED = Problem(2.0, forced, Split(pull, rest, linear=True), PULLED, known)


def errors(problem: Problem, case: Case, counts: tuple[int, ...], outputs: int = 3) -> np.ndarray:
    """With each of these numbers of equal steps: root mean square over the output times after the first."""
    t = torch.linspace(0, problem.end, outputs, dtype=torch.float64)
    exact = problem.known(t[:, None])
    split = problem.linear if METHODS[case.method].exponential else problem.split
    func = problem.func if case.form == WHOLE else split
    found = []
    with torch.no_grad():
        for count in counts:
            steps = Fixed(problem.end / count)
            y = solve(func, exact[0], t, method=case.method, steps=steps).y
            found.append((y - exact)[1:].pow(2).mean().sqrt().item())
    return np.array(found)


def observed_order(errors: np.ndarray) -> float:
    """From errors C hᵖ(1 + c h + …) with steps of h, h/2 and perhaps h/4.

    Of two errors it is the slope, p + O(h); of three the slope extrapolated to h = 0. High orders need
    that: where the slope has settled, their errors are those of rounding.
    """
    slopes = np.log2(errors[:-1] / errors[1:])
    return slopes[0] if len(slopes) == 1 else 2 * slopes[1] - slopes[0]


FIRST = {1: 8, 2: 8, 3: 8, 4: 8, 5: 8, 6: 8, 7: 4, 8: 10}
"""By order: steps at first, then twice and four times as many."""
COUNTS: dict[str, tuple[int, ...]] = {
    # Variable steps in the starting ramp: there is no expansion in h to extrapolate with.
    **{"bdf": (32, 64), "bdf3": (40, 80), "bdf4": (40, 80), "bdf5": (32, 64)},
    # Terms of higher order, or of both signs, weigh more at first.
    **dict.fromkeys(["rosw-theta1", "rosw-2p", "rosw-sandu3", "rosw-rodaspr2"], (20, 40, 80)),
    **dict.fromkeys(["rosw-grk4t", "rosw-veldd4"], (40, 80, 160)),
    **dict.fromkeys(["dirk-s212", "arkimex-3, split"], (12, 24, 48)),
    "arkimex-ars443, split": (40, 80),
    **dict.fromkeys(["dirk-657a", "dirk-es7510sa"], (12, 24, 48)),
    # The terms of order 6 and more are of the other sign, and as large until here.
    "bosh5": (96, 192, 384),
    "tsit5": (24, 48, 96),
    "verner7": (16, 32, 64),
    # Good already where a step costs most.
    **dict.fromkeys(["arkimex-4", "arkimex-5", "dirk-es325sal"], (4, 8, 16)),
    "dirk-s659a": (6, 12, 24),
    "dirk-es8516sal": (6, 12, 24),
}
"""Where it takes others, by the name of the case."""
EXCEPTIONS = {"arkimex-bpr3": 3}  # the misprint in PETSc's table is in its explicit part
"""Orders that are not those of ``METHODS``, by the name of the case."""


def stated_order(case: Case) -> int:
    return EXCEPTIONS.get(str(case), METHODS[case.method].order)


def measured_order(case: Case) -> float:
    first = FIRST[METHODS[case.method].order]
    counts = COUNTS.get(str(case), (first, 2 * first, 4 * first))
    return observed_order(errors(FORCED, case, counts))


@pytest.mark.parametrize("case", [case for case in CASES if case.method != "bdf6"], ids=str)
def test_convergence_order(case: Case) -> None:
    expected = stated_order(case)
    tolerance = 0.3 if METHODS[case.method].starting_order else 0.2
    order = measured_order(case)
    assert abs(order - expected) <= tolerance, (
        f"{case} converges at order {order:.2f} instead of {expected}; look at its PETSc set-up, and where "
        "that is right at its tableau (tests/methods/test_tableaux.py)"
    )


def test_bdf6_keeps_the_order_of_its_start() -> None:
    """No starting ramp is stable at order 6, so PETSc's half step of backward Euler decides: order 2."""
    found = errors(FORCED, Case("bdf6", WHOLE), (160, 320), outputs=11)
    assert abs(observed_order(found) - 2) <= 0.3


def test_the_order_is_lost_without_the_ramp() -> None:
    """The ramp is needed: the same steps without it lose the order (they are given as recorded ones)."""
    t = torch.linspace(0, 2, 3, dtype=torch.float64)
    exact = torch.stack([known(time) for time in t])
    errors = []
    for count in (40, 80):
        even = np.arange(1, count + 1) / count
        y = solve(forced, known(t[0]), t, method="bdf4", steps=Recorded((even, even))).y
        errors.append((y - exact).abs().max().item())
    assert np.log2(errors[0] / errors[1]) < 2.5


def test_ramp_is_reported() -> None:
    t = times(0, 1)
    assert solve(forced, known(t[0]), t, method="bdf4", steps=Fixed(0.05)).stats.ramp_steps > 0
    assert solve(forced, known(t[0]), t, method="bdf2", steps=Fixed(0.05)).stats.ramp_steps == 0


# Order on a stiff problem: y' = λ(y − φ(t)) + φ'(t), y(0) = φ(0), by Prothero & Robinson (1974). Its solution
# is φ whatever λ is. Steps are at least 10 000 times as long as 1/|λ|.

LAMBDA = -1e6


def prothero_robinson(lam: float) -> Problem:
    def phi(t: Tensor) -> Tensor:
        return torch.exp(-t) + torch.sin(2 * t)

    def slope(t: Tensor) -> Tensor:
        return 2 * torch.cos(2 * t) - torch.exp(-t)

    def whole(t: Tensor, y: Tensor) -> Tensor:
        return lam * (y - phi(t)) + slope(t)

    split = Split(lambda t, y: lam * (y - phi(t)), lambda t, y: slope(t) + 0 * y, linear=True)
    forcing = Split(lambda t, y: lam * y, lambda t, y: slope(t) - lam * phi(t) + 0 * y, linear=True)
    return Problem(1.0, whole, split, forcing, phi)


STIFF_COUNTS: dict[str, tuple[int, ...]] = {
    # The errors of a step fade slowly, or change signs forever: over the first steps they do not add up yet.
    **dict.fromkeys(["cn", "arkimex-a2", "arkimex-a2, split", "arkimex-ars122, split"], (20, 40)),
    **dict.fromkeys(["rosw-theta2", "rosw-ra3pw", "rosw-grk4t", "dirk-657a"], (20, 40)),
    "dirk-8614a": (40, 80),
    # The start must have faded.
    **dict.fromkeys(["bdf", "bdf4", "bdf5", "bdf6"], (20, 40)),
}


def names(text: str, prefix: str, suffix: str = "") -> list[str]:
    return [f"{prefix}-{name}{suffix}" for name in text.split()]


# With stages of order q the error is O(hᵠ/|λ|) if the new state is a stage (the last, or in 8616sal the one
# before), and else O(hᵠ⁺¹) (Hairer & Wanner, Solving ODEs II, section IV.15); q is 1, or 2 with an explicit
# first stage that the others use. Exceptions are s212, in which the terms of O(hᵠ⁺¹) cancel, and Rosenbrock
# methods, some of which were made to do better here. An explicit part has errors that do not depend on λ.
# Exponential methods have λφ(t) in theirs: an interpolant of degree q through it leaves O(hᵠ/|λ|).
STIFF_ORDER: dict[str, int] = {
    **{"beuler": 1, "theta": 1, "cn": 2},
    **{"bdf": 5, "bdf1": 1, "bdf2": 2, "bdf3": 3, "bdf4": 4, "bdf5": 5, "bdf6": 6},
    **dict.fromkeys(names("rodas3", "rosw"), 1),
    **dict.fromkeys(names("theta1 theta2 2p 2m ra34pw2 sandu3 grk4t shamp4 veldd4 4l", "rosw"), 2),
    **dict.fromkeys(names("ra3pw r34prw r3prl2", "rosw"), 3),
    **dict.fromkeys(names("rodaspr rodaspr2", "rosw"), 4),
    **dict.fromkeys(names("1bee prssp2 ars443", "arkimex"), 1),
    **dict.fromkeys(names("a2 l2 2c 2d 2e 3 bpr3 4 5", "arkimex"), 2),
    **dict.fromkeys(names("1bee l2 bpr3", "arkimex", ", split"), 1),
    **dict.fromkeys(names("ars122 a2 2c 2d 2e prssp2 3", "arkimex", ", split"), 2),
    **dict.fromkeys(names("4 5", "arkimex", ", split"), 3),
    **dict.fromkeys(names("ars443", "arkimex", ", split"), 4),
    **{"etd2, split": 1, "etd3, split": 2},
    **dict.fromkeys(names("s212 es122sal 658a s659a 7510sal s7511sal 8616sal", "dirk"), 1),
    **dict.fromkeys(names("es213sal es324sal es325sal 657a es648sa es7510sa 759a", "dirk"), 2),
    **dict.fromkeys(names("8614a", "dirk"), 2),
    "sdirk3": 1,
    # A term of order 3 hides that of order 2 until h < 0.02.
    "dirk-es8516sal": 3,
}
"""Measured, rounded; by the name of the case."""

IMPLICIT = [case for case in CASES if METHODS[case.method].implicit]


@pytest.mark.parametrize("case", IMPLICIT, ids=str)
def test_stiff_order(case: Case) -> None:
    expected = STIFF_ORDER[str(case)]
    counts = STIFF_COUNTS.get(str(case), (10, 20))
    tolerance = 0.3 if METHODS[case.method].starting_order else 0.2
    order = observed_order(errors(prothero_robinson(LAMBDA), case, counts))
    assert abs(order - expected) <= tolerance, (
        f"{case} converges at order {order:.2f} instead of {expected} on Prothero and Robinson's problem; "
        "look at the times at which PETSc is given the right-hand side, and at what ends Newton's iteration"
    )


# The table

NOTES = {
    "bdf6": "on smooth problems equal steps keep order 2, that of PETSc's start",
    "arkimex-bpr3": "the implicit part alone",
    "arkimex-bpr3, split": "PETSc's table has a misprint in the explicit part",
    "dirk-8614a": "and errors fade by no more than a factor of 0.92 a step",
    "dirk-es8516sal": "h^2 below h = 0.02",
}


def label(case: Case) -> str:
    return f"`{case.method}`" + ("" if case.form == WHOLE else ", split")


def table() -> list[list[str]]:
    """By row: name, order, stiff order, error, meaning."""
    rows = []
    for case in IMPLICIT:
        order, stiff = stated_order(case), STIFF_ORDER[str(case)]
        error, softer = (errors(prothero_robinson(lam), case, (10,))[0] for lam in (LAMBDA, LAMBDA / 10))
        power = "h" if stiff == 1 else f"h^{stiff}"
        if softer > 3 * error:
            meaning = f"{power}/\\|λ\\|: the stiffer, the smaller"
        elif stiff < order:
            meaning = f"{power} for every λ: the order is reduced"
        else:
            meaning = f"{power} for every λ: the order is kept"
        if str(case) in NOTES:
            meaning += f"; {NOTES[str(case)]}"
        rows.append([label(case), str(order), str(stiff), f"{error:.0e}", meaning])
    return rows


def main() -> None:
    """Write the table and what it shows."""
    print(HEADER)
    for row in table():
        print("|", " | ".join(row), "|")


HEADER = """\
# Orders of convergence

Measured with equal steps. `tests/methods/test_order.py` tests these orders, and writes this page.

- **Order**: on a smooth, nonlinear problem that depends on time.
- **Stiff order**: on Prothero and Robinson's problem y' = λ(y − φ(t)) + φ'(t), y(0) = φ(0), with λ = −10⁶ and
  φ(t) = exp(−t) + sin(2t), up to t = 1, at steps around 0.05. The solution is φ, as smooth as before; but a
  stiff component follows it only as accurately as the inner stages of a step, whose order is 1 or 2.
- **Error**: there, with h = 0.1.

Read the error before the stiff order. Where it is h^q/|λ|, as with stiffly accurate methods, a stiff
component costs less accuracy the stiffer it is, and the smooth ones decide: what one sees is the order.
Where it is h^q for every λ, that is what one gets on stiff problems, and a higher order brings nothing;
only a smaller step does. Around h|λ| = 1 to 100 the two regimes meet, and orders lie between.

"Split" is `Split(implicit=λ(y − φ), explicit=φ')`, for exponential methods (`etd…`)
`Split(implicit=λy, explicit=φ' − λφ)`; all else is implicit as a whole. Explicit methods are
missing: they are unstable unless h|λ| is about 3 or less.

| method | order | stiff order | error | on the stiff problem the error is like |
|---|---|---|---|---|"""


def test_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "orders.md"
    found = [line.split(" | ")[:3] for line in page.read_text(encoding="utf-8").splitlines()]
    for case in IMPLICIT:
        row = [f"| {label(case)}", str(stated_order(case)), str(STIFF_ORDER[str(case)])]
        assert row in found, f"{page.name} lacks {row}: write it again (how, says this module's docstring)"


if __name__ == "__main__":
    main()
