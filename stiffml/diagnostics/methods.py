"""What a time stepping method does with stiff modes, computed from its coefficients.

Source: Hairer & Wanner, Solving ODEs II, sections IV.3 (R, A- and L-stability) and V.2 (A(α) of BDF).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import described
from stiffml.display import readable
from stiffml.errors import SolveError
from stiffml.interface.solve import solve
from stiffml.methods import Method, resolve
from stiffml.methods.bdf import BDF
from stiffml.methods.dirk import DiagonallyImplicit
from stiffml.methods.rk import RungeKutta
from stiffml.methods.rosenbrock import Rosenbrock
from stiffml.methods.tableaux import EXPLICIT, ROSENBROCK
from stiffml.methods.theta import Theta
from stiffml.steps import Fixed
from stiffml.system.split import Split

RADII = np.concatenate([np.geomspace(1e-3, 1e3, 1500), [1e5, 1e8]])
"""|z| at which R is looked at along a ray."""

INFINITE = 1e12
ROUNDING = 1e-8

RATE = -1e4
STEPS = (20, 30, 40)
"""Of the measurement of the stiff order."""


@readable
@dataclass(frozen=True)
class Stability:
    """How a method treats u' = λu, z = hλ.

    Attributes
    ----------
    kind : str
        ``"L"``: |R| ≤ 1 for Re z ≤ 0, and R → 0 far left. ``"A"``: the first. ``"A(α)"``: within an angle α
        of the negative real axis. ``"explicit"``: only in a bounded region.
    angle : float
        α in degrees; 90 for A and L, 0 where there is none.
    at_infinity : float
        |R| far left: what is left of a stiff mode after a step.
    real_limit : float
        The largest |z| on the negative real axis up to which it is stable; inf for implicit methods.
    stiffly_accurate : bool
        Whether a step ends on its last stage: algebraic equations hold there, and stiff components follow
        theirs as accurately as the stage does.
    """

    kind: str
    angle: float
    at_infinity: float
    real_limit: float
    stiffly_accurate: bool


@cache
def stability(method: str | Method) -> Stability:
    """The stability of a method, of ``Split`` methods that of their implicit part.

    Raises
    ------
    ValueError, TypeError
        For an unknown method.
    """
    found = resolve(method)
    if not found.implicit:
        inside = size_of(found, -RADII) <= 1 + ROUNDING
        limit = float(RADII[np.argmin(inside) - 1]) if not inside.all() else math.inf
        return Stability("explicit", 0.0, math.inf, limit, False)
    # The roots of a BDF formula go to 0, but as slowly as |z|^(-1/k).
    at_infinity = 0.0 if isinstance(found, BDF) else float(size_of(found, np.array([-INFINITE]))[0])
    angle = _angle(found)
    kind = "A(α)" if angle < 90 else "L" if at_infinity < 1e-6 else "A"
    if not _stable_along(found, 0.0):
        kind = "unstable"
    return Stability(kind, angle, at_infinity, math.inf, _is_stiffly_accurate(found))


def size_of(method: Method, z: np.ndarray) -> np.ndarray:
    """|R(z)| of steps of equal size; of a multistep formula its largest root."""
    if isinstance(method, BDF):
        return _largest_root(method.order, z)
    if method.exponential:
        return np.abs(np.exp(z))
    a, b = _coefficients(method)
    # Stage by stage, as the matrices are triangular: large z make those of explicit methods seem singular.
    stages = np.ones((len(z), len(b)), dtype=complex)
    with np.errstate(over="ignore", invalid="ignore"):
        for i, row in enumerate(a):
            stages[:, i] = (1 + z * (stages[:, :i] @ row[:i])) / (1 - z * row[i])
        return np.abs(1 + z * (stages @ b))


def _coefficients(method: Method) -> tuple[np.ndarray, np.ndarray]:
    """a (s, s) and b (s,) of R(z) = 1 + z bᵀ(I − za)⁻¹ 1."""
    if isinstance(method, Theta):
        theta = float(method.theta)
        return np.array([[0.0, 0.0], [1 - theta, theta]]), np.array([1 - theta, theta])
    if isinstance(method, Rosenbrock):
        tableau = ROSENBROCK[method.name]
        return tableau.a + tableau.gamma, tableau.b
    if isinstance(method, DiagonallyImplicit):
        return method.implicit_part.a, method.implicit_part.b
    if isinstance(method, RungeKutta):
        part = EXPLICIT[method.name].explicit
        assert part is not None
        return part.a, part.b
    raise TypeError(f"method: no stability function is known of {described(method)}")


def _largest_root(order: int, z: np.ndarray) -> np.ndarray:
    """Of Σ_{j=1}^k (1/j) ∇ʲ u = z u."""
    total = np.zeros(order + 1)  # of the newest state, and those before
    for j in range(1, order + 1):
        total[: j + 1] += np.array([(-1) ** i * math.comb(j, i) for i in range(j + 1)]) / j
    companion = np.zeros((len(z), order, order), dtype=complex)
    companion[:, range(1, order), range(order - 1)] = 1
    companion[:, 0, :] = -total[1:] / (total[0] - z[:, None])
    return np.abs(np.linalg.eigvals(companion)).max(axis=1)


def _stable_along(method: Method, degrees: float) -> bool:
    """Whether |R| ≤ 1 on the ray at this angle to the negative real axis."""
    z = -RADII * np.exp(1j * math.radians(degrees))
    return bool((size_of(method, z) <= 1 + ROUNDING).all())


def _angle(method: Method) -> float:
    if _stable_along(method, 90.0):
        return 90.0
    low, high = 0.0, 90.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if _stable_along(method, middle) else (low, middle)
    return low


def _is_stiffly_accurate(method: Method) -> bool:
    if isinstance(method, BDF) or method.exponential:
        return not method.exponential
    a, b = _coefficients(method)
    # γ's of the last stage shift it only as far as its slopes; f is evaluated where a puts it.
    last = ROSENBROCK[method.name].a[-1] if isinstance(method, Rosenbrock) else a[-1]
    return bool(np.allclose(a[-1], b, atol=1e-10) and abs(float(last.sum()) - 1) < 1e-10)


@cache
def stiff_order(method: str) -> float | None:
    """The order with which errors fall on y' = λ(y − φ) + φ', λ = −1e4, φ = exp(−t) + sin(2t), to t = 1.

    Measured with 20, 30 and 40 steps; None for explicit methods, which cannot take such steps, and where the
    errors are rounding. A split method takes φ' explicitly if it cannot do without.
    """
    found = resolve(method)
    if not found.implicit:
        return None
    errors = [_error(found, count) for count in STEPS]
    if min(errors) < 1e-13 or not np.isfinite(errors).all():
        return None
    return float(np.polyfit(np.log(1 / np.array(STEPS)), np.log(errors), 1)[0])


def _error(method: Method, count: int) -> float:
    def exact(t: Tensor) -> Tensor:
        return torch.exp(-t) + torch.sin(2 * t)

    def slope(t: Tensor, y: Any) -> Any:
        return (2 * torch.cos(2 * t) - torch.exp(-t)) * torch.ones_like(y)

    def stiff(t: Tensor, y: Any) -> Any:
        return RATE * (y - exact(t))

    t = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def rest(t: Tensor, y: Any) -> Any:
        return slope(t, y) - RATE * exact(t) * torch.ones_like(y)

    func = (lambda t, y: stiff(t, y) + slope(t, y)) if method.whole else Split(stiff, slope)
    if method.exponential:
        func = Split(lambda t, y: RATE * torch.as_tensor(y), rest, linear=True)
    try:
        with torch.no_grad():
            found = solve(func, exact(t[:1]), t, method=method, steps=Fixed(1 / count))
    except SolveError:
        return math.inf
    return abs(float(found.y[-1, 0]) - float(exact(t[1])))  # type: ignore[call-overload]


def suits(method: str | Method) -> list[str]:
    """When to use a method, in sentences, from what it can do."""
    found, how = resolve(method), stability(method)
    lines = {
        "explicit": f"Problems that are not stiff: steps h < {how.real_limit:.2g}/|λ| for all rates λ.",
        "L": "Stiff problems: fast modes are gone after a step, however fast.",
        "A": "Stiff problems whose fast modes are excited little: of these a step leaves "
        f"{how.at_infinity:.2g}.",
        "A(α)": "Stiff problems whose fast modes decay rather than oscillate: beyond "
        f"{how.angle:.0f}° from the negative real axis modes may grow.",
        "unstable": "No stiff problem.",
    }
    return [lines[how.kind], *_accuracy(found), *_forms(found)]


def _accuracy(found: Method) -> list[str]:
    if not found.adaptive:
        return ["Steps of a size of your own (Fixed, Grid): it has no error estimate."]
    if found.order >= 4:
        return ["Tolerances of 1e-5 and smaller, where its order pays."]
    return ["Tolerances down to about 1e-5; a higher order is cheaper below."]


def _forms(found: Method) -> list[str]:
    lines = []
    if found.exponential:
        lines.append("Split right-hand sides whose stiff part is linear, of up to some 1 000 components.")
    elif found.split:
        lines.append(
            "Split right-hand sides: the stiff part implicitly, the rest explicitly"
            + ("." if found.whole else "; only these.")
        )
    if found.implicit and not found.newton and not found.exponential:
        lines.append("Functions whose Jacobian is exact and cheap: no Newton iteration, linear systems only.")
    if found.adaptive_dae:
        lines.append("DAEs of index 1, also with adaptive steps.")
    elif found.dae:
        lines.append("DAEs of index 1, with steps of a size of your own.")
    elif found.mass:
        lines.append("A mass matrix, but no singular one.")
    elif found.implicit:
        lines.append("No mass matrix.")
    return lines
