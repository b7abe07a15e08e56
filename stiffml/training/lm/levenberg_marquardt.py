"""The Levenberg-Marquardt iteration for least squares, with bounds, priors and robust losses.

It minimises  ½ Σ ρ(r²) + ½ Σ (w (θ − c))²  over θ in a box. Each step is a damped one of
:mod:`stiffml.training.lm.damped`, with a second-order correction where residuals bend
(:mod:`stiffml.training.lm.acceleration`). One that cannot be evaluated, or that raises the cost, is rejected:
the damping λ grows, which shortens the next one. An accepted step lowers λ.

Sources: D. W. Marquardt, J. SIAM 11 (1963) 431; J. J. Moré, Lecture Notes in Math. 630 (1978) 105; robust
losses as in B. Triggs et al., Bundle adjustment (2000); bounds by projection, C. Kanzow, N. Yamashita &
M. Fukushima, J. Comput. Appl. Math. 172 (2004) 375.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from stiffml.checks import described, number, whole
from stiffml.display import readable
from stiffml.training.lm.acceleration import corrected, is_bent
from stiffml.training.lm.damped import MANY, DampedSystem, Tall, Wide
from stiffml.training.lm.losses import LOSSES
from stiffml.training.lm.subspace import Products, Subspace

FLOOR, CEILING = 1e-13, 1e16
"""Least and largest damping."""

ACCELERATION = 1.5
"""By how much λ grows faster with each rejected trial of a step; small λ would need many otherwise."""

NOTHING = 1e-3
"""A step that is expected to gain less than this fraction of the tolerance is not tried."""

FAILURES = 10
"""Trial steps in a row that cannot be evaluated, after which the iteration gives up."""


class TrialError(Exception):
    """Residuals could not be evaluated; the message says why, ``run`` where, ``t`` when, if that is known."""

    def __init__(self, cause: str, run: str = "", t: float = float("nan")) -> None:
        super().__init__(cause)
        self.run, self.t = run, t


class Point(Protocol):
    """Residuals at some parameters."""

    @property
    def residuals(self) -> np.ndarray:
        """(m,)"""

    @property
    def products(self) -> Products | None:
        """The Jacobian by its products, where it is too large for a matrix."""

    def jacobian(self) -> np.ndarray:
        """(m, size)"""


class Problem(Protocol):
    """What an iteration minimises."""

    def evaluate(self, theta: np.ndarray, near: Any) -> Any:
        """The point at parameters (size,), of which ``near`` is a neighbour.

        Raises
        ------
        TrialError
            If there are no residuals.
        """


@dataclass
class State:
    """An iteration between two steps.

    Attributes
    ----------
    theta : ndarray
        (size,)
    point : Point
        The residuals there.
    cost : float
    damping : float
    iteration : int
        Accepted steps.
    slow : int
        Successive steps whose gain was below the tolerance.
    failed : int
        Trial steps in a row that could not be evaluated.
    rejected, failures : int and list
        Of the last step: trials that raised the cost, and the errors of those that could not be evaluated.
    bent : bool
        Whether the last step has shown that residuals bend, so that the next one is corrected.
    outcome : str
        Why the iteration has ended; empty while it has not.
    """

    theta: np.ndarray
    point: Any
    cost: float
    damping: float
    iteration: int = 0
    slow: int = 0
    failed: int = 0
    rejected: int = 0
    failures: list[TrialError] = field(default_factory=list)
    outcome: str = ""
    bent: bool = False

    def state_dict(self) -> dict[str, Any]:
        """All numbers but the point, which the caller keeps."""
        names = ("cost", "damping", "iteration", "slow", "failed", "outcome", "bent")
        return {"theta": self.theta, **{name: getattr(self, name) for name in names}}


@readable
@dataclass(frozen=True)
class LevenbergMarquardt:
    """Settings of the iteration.

    Parameters
    ----------
    damping : float
        λ of the first step. Default 1e-2.
    grow, shrink : float
        λ is multiplied by ``grow`` when a step is rejected, by half as much again when the next one is, and
        so on; it is divided by ``shrink`` when one is accepted. Default 4 and 5.
    acceleration : float
        The longest second-order correction of a step, 2 |D a| / |D δ|; longer ones are left out. Steps are
        corrected where the one before was not what its linearisation expected, at the cost of one further
        solve each. 0 leaves out all corrections. Default 0.3. Not in full space, nor for networks so large
        that their Jacobian is products.
    trials : int
        Rejected trials in a row after which the iteration ends. Default 16.
    patience : int
        It ends after so many steps in a row whose gain is below the tolerance. Default 3.
    loss : str
        ``"squares"`` (default): ρ(z) = z. ``"soft-l1"``: 2 (√(1 + z) − 1). ``"huber"``: z up to 1, then
        2 √z − 1. Here z = (r / width)², and ρ is multiplied by width².
    width : float
        From which size on residuals are outliers, in units of their scale. Default 1.
    ridge : float
        Weight of a prior at 0 on the parameters of the model: residuals ridge·θ. Default 0.

    Examples
    --------
    >>> from stiffml.training import LevenbergMarquardt, fit
    >>> robust = LevenbergMarquardt(loss="huber", width=3.0)  # outliers are beyond three times the noise
    >>> round(fit(Decay(), runs, levenberg_marquardt=robust).model.k.item(), 1)
    3.0
    """

    damping: float = 1e-2
    grow: float = 4.0
    shrink: float = 5.0
    acceleration: float = 0.3
    trials: int = 16
    patience: int = 3
    loss: str = "squares"
    width: float = 1.0
    ridge: float = 0.0

    def __post_init__(self) -> None:
        def checked(name: str, **bounds: float) -> None:
            value = number(f"LevenbergMarquardt: {name}", getattr(self, name), **bounds)
            object.__setattr__(self, name, value)

        checked("damping", above=0)
        checked("grow", above=1)
        checked("shrink", least=1)
        checked("acceleration", least=0)
        checked("width", above=0)
        checked("ridge", least=0)
        for name in ("trials", "patience"):
            object.__setattr__(self, name, whole(f"LevenbergMarquardt: {name}", getattr(self, name)))
        if self.loss not in LOSSES:
            known = ", ".join(LOSSES)
            raise ValueError(f"LevenbergMarquardt: loss must be one of {known}, not {described(self.loss)}")


class Iteration:
    """The iteration on one problem.

    Parameters
    ----------
    settings : LevenbergMarquardt
    centre, weight : ndarray
        (size,) the prior: residuals ``weight * (theta - centre)``.
    low, high : ndarray
        (size,) bounds.
    """

    def __init__(
        self,
        settings: LevenbergMarquardt,
        centre: np.ndarray,
        weight: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
    ) -> None:
        self.settings, self.low, self.high = settings, low, high
        self.centre, self.weight = centre, weight
        self._held = np.flatnonzero(weight)

    def begin(self, theta: np.ndarray, point: Point) -> State:
        """The state at parameters (size,) at which the residuals are those of ``point``."""
        return State(theta, point, self._cost(theta, point), self.settings.damping)

    def resumed(self, state: dict[str, Any], point: Point) -> State:
        """The state from a ``state_dict`` and its point."""
        return State(point=point, **state)

    def step(self, problem: Problem, state: State, tolerance: float) -> State:
        """The state after one step; if none is accepted, its ``outcome`` says why.

        ``tolerance``: a gain below this fraction of the cost is slow.
        """
        theta, damping, failed = state.theta, state.damping, state.failed
        system = self._damped(theta, state.point)
        rejected, factor, small = 0, self.settings.grow, False
        failures: list[TrialError] = []
        while rejected + len(failures) < self.settings.trials and failed < FAILURES and damping < CEILING:
            step, expected = system.step(damping)
            if expected < NOTHING * tolerance * state.cost:
                small = True
                break
            trial, cost = np.clip(theta + step, self.low, self.high), np.inf
            try:
                if state.bent or rejected or failures:
                    trial = self._corrected(problem, state, system, damping, trial)
                point = problem.evaluate(trial, state.point)
                cost, failed = self._cost(trial, point), 0
            except TrialError as error:
                failures.append(error)
                failed += 1
            if cost < state.cost:
                gain = (state.cost - cost) / state.cost
                slow = state.slow + 1 if gain < tolerance else 0
                bent = bool(rejected or failures or is_bent(state.cost - cost, expected))
                damping = max(damping / self.settings.shrink, FLOOR)
                done = "converged: the last steps gained too little" if slow >= self.settings.patience else ""
                number = state.iteration + 1
                return State(
                    trial, point, cost, damping, number, slow, failed, rejected, failures, done, bent
                )
            rejected += cost < np.inf
            damping *= factor
            factor *= ACCELERATION
        if small and not failures:
            outcome = "converged: a further step is expected to gain too little"
        else:
            outcome = _stuck(system.steepest, failures, failed)
        return replace(
            state, damping=damping, failed=failed, rejected=rejected, failures=failures, outcome=outcome
        )

    def _corrected(
        self, problem: Problem, state: State, system: DampedSystem, damping: float, trial: np.ndarray
    ) -> np.ndarray:
        longest = self.settings.acceleration
        if longest == 0 or not isinstance(system, Tall | Wide):
            return trial
        size, _ = self._robust(state.point.residuals)
        found = corrected(problem, state.point, state.theta, trial, size, system, damping, longest)
        return np.clip(found, self.low, self.high)

    def linear(self, theta: np.ndarray, point: Point) -> tuple[np.ndarray, np.ndarray]:
        """(m, size) and (m,): the Jacobian and the residuals with their losses, and those of the prior."""
        size, residuals = self._robust(point.residuals)
        return self._with_prior(size[:, None] * point.jacobian(), residuals, theta)

    def sum_of_squares(self, theta: np.ndarray, point: Point) -> float:
        """Of the residuals and those of the prior, as the variance of what is fitted takes them.

        Of m residuals r with a robust loss it is m Σψ² / Σψ′, where ψ(r) is half the derivative of the loss:
        P. J. Huber, Robust Statistics (1981), chapter 7. With squares ψ is r.
        """
        z = (point.residuals / self.settings.width) ** 2
        _, first, second = LOSSES[self.settings.loss](z)
        slopes, bends = first * point.residuals, np.maximum(first + 2 * second * z, 0.0)
        share = float(bends.mean()) if len(bends) else 1.0
        prior = self.weight * (theta - self.centre)
        return float(slopes @ slopes) / share + float(prior @ prior) if share > 0 else np.inf

    def free(self, theta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Which numbers may move: not those at a bound that the gradient would lead beyond."""
        outward = ((theta <= self.low) & (gradient > 0)) | ((theta >= self.high) & (gradient < 0))
        return np.flatnonzero(~outward)

    def _damped(self, theta: np.ndarray, point: Any) -> DampedSystem:
        size, residuals = self._robust(point.residuals)
        away, products = theta - self.centre, point.products
        if products is not None:
            slopes = products.back(size * residuals)
            free = self.free(theta, slopes + self.weight**2 * away)
            return Subspace(products, size, residuals, self.weight, away, free, slopes)
        jacobian = size[:, None] * point.jacobian()
        free = self.free(theta, jacobian.T @ residuals + self.weight**2 * away)
        if len(jacobian) < len(theta) > MANY:
            return Wide(jacobian, residuals, self.weight, away, free)
        return Tall(*self._with_prior(jacobian, residuals, theta), free)

    @np.errstate(over="ignore", invalid="ignore")  # of a trial that runs away: not less
    def _cost(self, theta: np.ndarray, point: Point) -> float:
        value = LOSSES[self.settings.loss]((point.residuals / self.settings.width) ** 2)[0]
        prior = self.weight * (theta - self.centre)
        return float(0.5 * self.settings.width**2 * value.sum() + 0.5 * prior @ prior)

    def _with_prior(
        self, jacobian: np.ndarray, residuals: np.ndarray, theta: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        held = np.zeros((len(self._held), len(theta)))
        held[np.arange(len(self._held)), self._held] = self.weight[self._held]
        prior = (self.weight * (theta - self.centre))[self._held]
        return np.concatenate([jacobian, held]), np.concatenate([residuals, prior])

    def _robust(self, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m,) factors of the rows of the Jacobian, and residuals, whose squares are locally the loss."""
        if self.settings.loss == "squares":
            return np.ones_like(residuals), residuals
        z = (residuals / self.settings.width) ** 2
        _, first, second = LOSSES[self.settings.loss](z)
        # Second derivative of ρ(r²)/2 along r, kept positive.
        size = np.sqrt(np.maximum(first + 2 * second * z, 1e-3 * first))
        return size, first / size * residuals


def _stuck(steepest: float, failures: list[TrialError], failed: int) -> str:
    """Why no step was accepted."""
    if failed >= FAILURES:
        return f"lost: {failed} trial steps in a row could not be solved, the last because {failures[-1]}"
    if steepest < 1e-6:
        return f"converged: a minimum (residuals and Jacobian are orthogonal up to {steepest:.0e})"
    return (
        f"stuck: no step lowers the cost, though it has a slope (cosine {steepest:.0e} between residuals and "
        "Jacobian): rounding, or a solve whose error exceeds the residuals. Try a smaller Newton tolerance"
    )
