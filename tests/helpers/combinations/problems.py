"""The problems that combinations are drawn of, each with an oracle: scipy, in double precision.

All are written for a clock s from 0 to ``span``; ``Function`` in ``runs.py`` translates to the
time and state that ``solve`` sees.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from combinations.drawing import Combination

Jump = Tensor | float


class Problem:
    """y' = slopes(s, y, p, jump): y (…, width), p one number or one a sample for each parameter.

    ``jump`` is a factor that changes at breakpoints. Parameters are given as multiples, near 1, of ``base``.
    """

    width = 2
    span = 1.0
    base: tuple[float, ...] = ()
    start: tuple[float, ...] = ()
    equal = 0.5
    slow = 0
    """A component without fast transients, for events."""
    sin, cos = staticmethod(torch.sin), staticmethod(torch.cos)

    def tabulate_time(self) -> None:
        """Let sines of time come from outside of torch, as values of a table do."""
        self.sin = lambda s: torch.tensor(math.sin(float(s)), dtype=s.dtype)
        self.cos = lambda s: torch.tensor(math.cos(float(s)), dtype=s.dtype)

    def slopes(self, s: Tensor, y: Tensor, p: list[Tensor], jump: Jump) -> Tensor:
        return self.stiff(s, y, p, jump) + self.rest(s, y, p, jump)

    def stiff(self, s: Tensor, y: Tensor, p: list[Tensor], jump: Jump) -> Tensor:
        raise NotImplementedError

    def rest(self, s: Tensor, y: Tensor, p: list[Tensor], jump: Jump) -> Tensor:
        raise NotImplementedError

    def pattern(self) -> np.ndarray:
        """Where the Jacobian of a sample may have entries."""
        return np.ones((self.width, self.width))


class Forced(Problem):
    """A stiff linear component that follows a forcing, and a slow one."""

    start = (0.4, 0.8)

    def __init__(self, mild: bool, apart: bool) -> None:
        """``apart``: the forcing is in the other part than the decay."""
        self.base, self._apart = (4.0 if mild else 200.0, 0.8, 1.1, 0.6), apart

    def stiff(self, s: Tensor, y: Tensor, p: list[Tensor], jump: Jump) -> Tensor:
        off = y[..., 0] if self._apart else y[..., 0] - self.cos(s) * jump
        return torch.stack([-p[0] * off, 0 * off], dim=-1)

    def rest(self, s: Tensor, y: Tensor, p: list[Tensor], jump: Jump) -> Tensor:
        a, b = y.unbind(-1)
        forcing = p[0] * self.cos(s) * jump if self._apart else 0.0
        slow = p[3] * self.sin(2 * s) * jump + 0.3 * a**2 - p[2] * b
        return torch.stack([p[1] * b + forcing, slow], dim=-1)

    slow = 1


class Kinetics(Problem):
    """Robertson's three reactions, less far apart, with a feed."""

    width = 3
    start = (1.0, 0.05, 0.2)
    equal = 0.15

    def __init__(self, mild: bool) -> None:
        self.base = (0.4, 2.0, 4.0, 0.5) if mild else (0.4, 20.0, 60.0, 0.5)

    def stiff(self, s: Tensor, y: Tensor, p: list[Tensor], jump: Jump) -> Tensor:
        a, b, c = y.unbind(-1)
        slow, back, fast = p[0] * a, p[1] * b * c, p[2] * b**2
        return torch.stack([back - slow, slow - back - fast, fast], dim=-1)

    def rest(self, s: Tensor, y: Tensor, p: list[Tensor], jump: Jump) -> Tensor:
        feed = p[3] * (1.2 + self.sin(3 * s)) * jump + 0 * y[..., 0]
        return torch.stack([feed, 0 * feed, -0.1 * y[..., 2]], dim=-1)


class Pendulum(Problem):
    """Damped and driven; not stiff."""

    start = (1.0, 0.3)
    base = (1.3, 0.4, 0.5)

    def stiff(self, s: Tensor, y: Tensor, p: list[Tensor], jump: Jump) -> Tensor:
        return torch.stack([0 * y[..., 0], -p[0] * torch.sin(y[..., 0]) - p[1] * y[..., 1]], dim=-1)

    def rest(self, s: Tensor, y: Tensor, p: list[Tensor], jump: Jump) -> Tensor:
        drive = p[2] * self.cos(2 * s) * jump + 0 * y[..., 0]
        return torch.stack([y[..., 1], drive], dim=-1)


class Scalar(Problem):
    """One component only, which decays quadratically and is fed."""

    width = 1
    start = (0.9,)

    def __init__(self, mild: bool) -> None:
        self.base = (2.0 if mild else 12.0, 0.7)

    def stiff(self, s: Tensor, y: Tensor, p: list[Tensor], jump: Jump) -> Tensor:
        return torch.stack([-p[0] * y[..., 0] ** 2], dim=-1)

    def rest(self, s: Tensor, y: Tensor, p: list[Tensor], jump: Jump) -> Tensor:
        return torch.stack([p[1] * (1.3 + self.sin(3 * s)) * jump + 0 * y[..., 0]], dim=-1)


class Algebraic(Problem):
    """Two differential equations and an algebraic one, which gives the third variable in closed form.

    The last slope is the residual of that equation.
    """

    width = 3
    start = (0.9, 0.6, 0.3)
    base = (2.0, 1.5, 0.7)

    def slopes(self, s: Tensor, y: Tensor, p: list[Tensor], jump: Jump) -> Tensor:
        a, b, z = y.unbind(-1)
        # No jump in the last one: z would jump too, and be inconsistent behind a breakpoint.
        first, second = -p[0] * a + z * b, 0.5 * self.sin(s) * jump - p[1] * b * z
        return torch.stack([first, second, p[2] * a * b + 0.3 * self.sin(2 * s) - torch.sinh(z)], dim=-1)

    def completed(self, s: Tensor, y: Tensor, p: list[Tensor]) -> Tensor:
        """y with the z that fits; torch knows how that depends on time, whatever slopes take it from."""
        known = p[2] * y[..., 0] * y[..., 1] + 0.3 * torch.sin(2 * s)
        return torch.cat([y[..., :2], torch.asinh(known)[..., None]], dim=-1)


class Field(Problem):
    """Two species that diffuse on a ring of ten points and react; the state is (2, 10)."""

    width = 20
    slow = 10

    def __init__(self, mild: bool) -> None:
        self.base = (0.5 if mild else 60.0, 1.1, 0.8, 0.4)
        x = np.arange(10) / 10 * 2 * np.pi
        self.start = tuple((np.stack([0.6 + 0.3 * np.sin(x), 0.5 + 0.2 * np.cos(2 * x)])).ravel())

    def stiff(self, s: Tensor, y: Tensor, p: list[Tensor], jump: Jump) -> Tensor:
        u = y.reshape(*y.shape[:-1], 2, 10)
        spread = torch.roll(u, 1, -1) + torch.roll(u, -1, -1) - 2 * u
        weights = torch.tensor([[1.0], [0.5]], dtype=y.dtype)
        return (p[0][..., None, None] * spread * weights).reshape(y.shape)

    def rest(self, s: Tensor, y: Tensor, p: list[Tensor], jump: Jump) -> Tensor:
        u, v = y[..., :10], y[..., 10:]
        grow, eat, feed = (q[..., None] for q in p[1:])
        fed = feed * (1 + self.sin(3 * s)) * jump
        return torch.cat([grow * u * (1 - u) - u * v, eat * u * v - 0.6 * v + fed], dim=-1)

    def pattern(self) -> np.ndarray:
        ring = np.eye(10) + np.roll(np.eye(10), 1, 0) + np.roll(np.eye(10), -1, 0)
        return np.block([[ring, np.eye(10)], [np.eye(10), ring]])


def problem_of(c: Combination) -> Problem:
    """Not stiff where the method is explicit."""
    mild = not c.kind.implicit
    kinds: dict[str, Callable[[bool], Problem]] = {
        "forced": lambda mild: Forced(mild, c.kind.exponential),
        "kinetics": Kinetics,
        "pendulum": lambda mild: Pendulum(),
        "scalar": Scalar,
        "algebraic": lambda mild: Algebraic(),
        "field": Field,
    }
    return kinds[c.problem](mild)


FACTORS = (1.0, 0.3, 1.8)
"""The jump factor from the start, after the first breakpoint and after the second."""


def reference(
    problem: Problem, start: np.ndarray, parameters: np.ndarray, breaks: list[float], at: np.ndarray
) -> np.ndarray:
    """(len(at), size) the states at clock times ``at``, to about 1e-9.

    By an implicit Runge-Kutta method of order 5 that knows nothing of this package, from breakpoint to
    breakpoint. The algebraic variable is eliminated.

    Parameters
    ----------
    start : ndarray
        (samples, width)
    parameters : ndarray
        (samples, number of parameters), multiples of ``problem.base``.
    """
    y0, p = torch.from_numpy(start), torch.from_numpy(parameters * np.array(problem.base))
    columns = list(p.unbind(-1))
    algebraic = isinstance(problem, Algebraic)
    kept = 2 if algebraic else problem.width

    def whole(s: float, u: np.ndarray) -> Tensor:
        y = torch.from_numpy(u.reshape(len(start), kept))
        if not isinstance(problem, Algebraic):
            return y
        return problem.completed(torch.tensor(s, dtype=torch.float64), y, columns)

    states, u = np.empty((len(at), y0.numel())), y0[:, :kept].numpy().ravel()
    ends = [0.0, *(b for b in breaks if 0 < b < problem.span), float(problem.span)]
    for number, (begin, end) in enumerate(itertools.pairwise(ends)):
        jump = FACTORS[number]

        def slope(s: float, u: np.ndarray, jump: float = jump) -> np.ndarray:
            time = torch.tensor(s, dtype=torch.float64)
            found = problem.slopes(time, whole(s, u), columns, jump)
            return found[:, :kept].reshape(-1).numpy()

        inside = (at >= begin) & (at <= end)
        wanted = np.unique([begin, *at[inside], end])
        with torch.no_grad():
            run = solve_ivp(slope, (begin, end), u, "Radau", wanted, rtol=1e-9, atol=1e-11)
        assert run.success, run.message
        for n in np.flatnonzero(inside):
            row = run.y[:, np.searchsorted(wanted, at[n])]
            states[n] = whole(float(at[n]), row).reshape(-1).numpy()
        u = run.y[:, -1]
    return states
