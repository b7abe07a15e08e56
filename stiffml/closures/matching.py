"""Weights with which a closure's rates are those that data lack, before anything is solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from stiffml.checks import described, number, whole
from stiffml.closures.balances import Balances
from stiffml.closures.known_and_missing import KnownAndMissing
from stiffml.display import readable
from stiffml.errors import SolveError
from stiffml.interface.solve import odeint
from stiffml.steps import Adaptive
from stiffml.training.data import Run, Runs
from stiffml.training.data.ranges import ranges_of
from stiffml.training.lm.levenberg_marquardt import Iteration, LevenbergMarquardt

_TOLERANCE = 1e-4
"""An iteration whose gain is below this fraction of the cost is slow; three of them end it."""

_RTOL, _ATOL = 1e-4, 1e-7
"""Of the solves that compare ridges; atol in units of the smallest range."""

_MAX_STEPS = 1000
"""Of these solves: one that takes more has run into something else than the data."""


@readable
@dataclass(frozen=True)
class Matched:
    """What :func:`match_rates` found.

    Attributes
    ----------
    ridges : tuple of float
        In the order in which they were tried.
    misfits : tuple of float
        For each the root mean square of the differences of rates, in units of their errors.
    errors : tuple of float
        For each the mean error of trajectories at the data, in units of ranges; inf where one is not solved.
    ridge : float
        The one whose weights the closure has.

    Examples
    --------
    >>> from stiffml.closures import Closure, match_rates
    >>> model = Closure(None, [4], typical=[1.0], components=["A"])
    >>> found = match_rates(model, runs, ridges=(1.0, 0.1), iterations=5)
    >>> found.ridges, found.ridge in found.ridges
    ((1.0, 0.1), True)
    """

    ridges: tuple[float, ...]
    misfits: tuple[float, ...]
    errors: tuple[float, ...]
    ridge: float


def match_rates(
    closure: KnownAndMissing,
    runs: Runs,
    *,
    ridges: Sequence[float] = (10.0, 1.0, 0.1),
    iterations: int = 60,
    resolution: float = 0.01,
    compile: bool = False,
) -> Matched:
    """Fit a closure's network to the rates that its known part lacks at the data: where a fit begins.

    A known part that lacks reactions does not come near data: a radical without its sink grows a hundredfold,
    and from there a fit of trajectories leads nowhere. But what is missing can be read off the data, as
    :func:`missing_rate` does: over each interval d ± e is left, also of fast components, in whose balance it
    stands. Levenberg-Marquardt makes the mean of the closure's rates at both ends of each interval equal to
    d, in units of √(e² + (resolution · scale)²), without solving anything. To e is added what the rule leaves
    out where d bends from one interval to the next; the first interval of a run, in which it may have
    changed at any time, counts by no more than its size.

    A weak ridge takes the errors of noisy data for rates. So ridges are tried from the strongest on, each
    from the weights that the one before has found, the trajectories of the runs are solved, and those weights
    are kept whose trajectories are nearest to the data.

    Parameters
    ----------
    closure : Closure
        Its network is changed, but for parameters that require no gradient.
    runs : Runs
        With all components, as of :func:`missing_rate`.
    ridges : sequence of float
        Weights of a prior at 0 on the network's numbers. Default 10, 1, 0.1.
    iterations : int
        With each ridge, at most. Default 60.
    resolution : float
        Accuracy of rates that is enough, in units of the closure's scale. Default 0.01.
    compile : bool
        Whether the closure is compiled to C for the solves that compare ridges, as by ``solve``. Default
        False.

    Returns
    -------
    Matched

    Raises
    ------
    TypeError, ValueError
        For what is no closure, runs with other components, a network of which no parameter requires a
        gradient, or what :func:`missing_rate` refuses.

    References
    ----------
    Gradient matching: J. M. Varah, A spline least squares method for numerical parameter estimation in
    differential equations, SIAM J. Sci. Stat. Comput. 3 (1982) 28.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from stiffml.closures import Closure, match_rates
    >>> from stiffml.training.data import Run, Runs
    >>> t = np.linspace(0, 1, 20)
    >>> runs = Runs([Run("a", t, np.exp(-3 * t)[:, None])], ["A"])
    >>> model = Closure(lambda t, y: -y, [4], typical=[1.0], components=["A"])  # lacks −2 A
    >>> found = match_rates(model, runs)
    >>> y = torch.tensor([[0.9], [0.3]], dtype=torch.float64)
    >>> bool((model.missing(torch.tensor(0.0), y) + 2 * y).abs().max() < 0.1), found.ridge
    (True, 0.1)
    """
    if not isinstance(closure, KnownAndMissing):
        raise TypeError(f"closure must be a Closure, not {described(closure)}")
    if not isinstance(runs, Runs):
        raise TypeError(f"runs must be Runs, not {described(runs)}")
    if runs.components != closure.components:
        raise ValueError(f"runs have components {runs.components}, the closure {closure.components}")
    ridges = tuple(number("match_rates: ridges", ridge, above=0) for ridge in ridges)
    if not ridges:
        raise ValueError("match_rates: ridges must hold at least one")
    iterations = whole("match_rates: iterations", iterations)
    if not is_trainable(closure.network):
        raise ValueError("match_rates: no parameter of the network requires a gradient; none may change")
    problem = _Matching(closure, runs, number("match_rates: resolution", resolution, above=0))
    spread = ranges_of(runs.values)
    found: list[tuple[float, float, np.ndarray]] = []
    theta = problem.read()
    for ridge in ridges:
        theta, misfit = _minimised(problem, theta, ridge, iterations)
        problem.write(theta)
        found.append((_error(closure, runs, spread, compile), misfit, theta))
    best = min(range(len(found)), key=lambda i: (found[i][0], i))
    problem.write(found[best][2])
    return Matched(ridges, tuple(one[1] for one in found), tuple(one[0] for one in found), ridges[best])


def is_trainable(network: nn.Module) -> bool:
    """Whether any of its parameters may change."""
    return any(p.requires_grad for p in network.parameters())


def _minimised(
    problem: _Matching, theta: np.ndarray, ridge: float, iterations: int
) -> tuple[np.ndarray, float]:
    """The weights, and the root mean square of the differences."""
    unbounded = np.full(len(theta), np.inf)
    centre, weight = np.zeros(len(theta)), np.full(len(theta), ridge)
    iteration = Iteration(LevenbergMarquardt(), centre, weight, -unbounded, unbounded)
    with np.errstate(over="ignore"):  # a trial far away is rejected
        state = iteration.begin(theta, problem.evaluate(theta))
        while not state.outcome and state.iteration < iterations:
            state = iteration.step(problem, state, _TOLERANCE)
    return state.theta, float(np.sqrt(np.mean(state.point.residuals**2)))


def _error(closure: KnownAndMissing, runs: Runs, spread: np.ndarray, compile: bool) -> float:
    """The mean error of trajectories at the data, in units of ranges; inf if one cannot be solved."""
    most = max(map(len, runs))
    times = torch.from_numpy(np.stack([np.pad(run.times, (0, most - len(run)), mode="edge") for run in runs]))
    steps, atol = Adaptive(max_steps=_MAX_STEPS), _ATOL * float(spread.min())
    starts = torch.stack([_start(run) for run in runs])
    try:
        with torch.no_grad():
            solved = odeint(
                closure,
                starts,
                times,
                batch_dims=1,
                method="bdf",
                rtol=_RTOL,
                atol=atol,
                steps=steps,
                compile=compile,
            )
    except (SolveError, ValueError):  # also rates that are not finite at the start
        return float("inf")
    assert isinstance(solved, Tensor)
    y = solved.numpy()
    off = [(np.abs(y[: len(run), i] - run.values) / spread)[run.mask] for i, run in enumerate(runs)]
    return float(np.concatenate(off).mean())


def _start(run: Run) -> Tensor:
    return torch.from_numpy(np.where(np.isnan(run.y0), run.values[0], run.y0))


class _Missing(nn.Module):
    """(t, y) -> the closure's rates, as a module."""

    def __init__(self, closure: KnownAndMissing) -> None:
        super().__init__()
        self.closure = closure

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.closure.missing(t, y)


class _Point:
    """Residuals (m,) at weights (size,)."""

    products = None

    def __init__(self, problem: _Matching, theta: np.ndarray) -> None:
        self._problem, self._theta = problem, torch.from_numpy(theta)
        self.residuals = problem.residuals(self._theta)

    def jacobian(self) -> np.ndarray:
        return self._problem.jacobian(self._theta)


class _Matching:
    """Differences of the closure's rates from those that data lack, for Levenberg-Marquardt."""

    def __init__(self, closure: KnownAndMissing, runs: Runs, resolution: float) -> None:
        self._network, self._missing = closure.network, _Missing(closure)
        self._of = [closure.components.index(name) for name in closure.where]
        known = closure.known if closure.known is not None else lambda t, y: torch.zeros_like(y)
        parts = [Balances.of(known, run, runs) for run in runs]
        self._begin, self._end = _stacked(parts, slice(None, -1)), _stacked(parts, slice(1, None))
        lacking = [_with_bends(*part.joined(1)) for part in parts]
        rates, errors = (
            torch.from_numpy(np.concatenate([pair[i] for pair in lacking])[:, self._of]) for i in (0, 1)
        )
        self._rates = rates
        self._weights = (errors.square() + (resolution * closure.rates.scale).square()).rsqrt()
        named = [(name, p) for name, p in self._network.named_parameters() if p.requires_grad]
        self._names, self._parameters = [name for name, _ in named], [p for _, p in named]
        self._shapes = [p.shape for p in self._parameters]
        self._values = vmap(self._one, (None, 0, 0))
        self._slopes = vmap(jacrev(self._one), (None, 0, 0))

    def _one(self, theta: Tensor, t: Tensor, y: Tensor) -> Tensor:
        parts = theta.split([shape.numel() for shape in self._shapes])
        named = zip(self._names, self._shapes, parts, strict=True)
        changed = {f"closure.network.{name}": part.view(shape) for name, shape, part in named}
        return functional_call(self._missing, changed, (t, y))[self._of]

    def _mean(self, function: Any, theta: Tensor) -> Tensor:
        with torch.no_grad():
            return (function(theta, *self._begin) + function(theta, *self._end)) / 2

    def residuals(self, theta: Tensor) -> np.ndarray:
        return (self._weights * (self._mean(self._values, theta) - self._rates)).numpy().ravel()

    def jacobian(self, theta: Tensor) -> np.ndarray:
        slopes = self._weights[..., None] * self._mean(self._slopes, theta)
        return slopes.numpy().reshape(-1, len(theta))

    def evaluate(self, theta: np.ndarray, near: Any = None) -> _Point:
        return _Point(self, theta)

    def read(self) -> np.ndarray:
        """(size,) the network's weights that may change."""
        return torch.cat([p.detach().reshape(-1) for p in self._parameters]).numpy().copy()

    @torch.no_grad()
    def write(self, theta: np.ndarray) -> None:
        parts = torch.from_numpy(theta).split([shape.numel() for shape in self._shapes])
        for p, part in zip(self._parameters, parts, strict=True):
            p.copy_(part.view_as(p))


def _stacked(parts: Sequence[Balances], rows: slice) -> tuple[Tensor, Tensor]:
    """Times (m,) and states (m, n) of these rows of all runs."""
    times = np.concatenate([part.times[rows] for part in parts])
    return torch.from_numpy(times), torch.from_numpy(np.concatenate([part.values[rows] for part in parts]))


def _with_bends(rates: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rates and errors (m, n), with what the trapezoidal rule leaves out of d itself, h² d″/12."""
    bends = np.abs(rates)
    if len(rates) > 2:
        bends[1:-1] = np.abs(np.diff(rates, 2, axis=0)) / 12
    if len(rates) > 1:
        bends[-1] = np.abs(rates[-1] - rates[-2]) / 6
    return rates, np.hypot(errors, bends)
