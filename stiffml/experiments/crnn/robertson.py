"""Robertson's reactions, found among all that two molecules can do, from stiff and noisy runs.

Two of them have catalysts, B + B → B + C and B + C → A + C, so that what is consumed does not give the order:
here orders and products are chosen, of all steps in which one molecule, by itself or with another, becomes
another one. Rates of splines say nothing about B, which is in balance; instead every interval between two
observations is one step, implicit in time and linearised at its end. Its error is in units of the noise:
a component in balance comes out in balance. Rate constants that cannot be negative leave few of the steps,
and others are left out until there are as many as wanted. Trajectories then say how fast they are.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor, nn

from stiffml import Grid, odeint
from stiffml.experiments.crnn.cases import NOISE, Case
from stiffml.training import Result, Run, Runs, Whole, fit

SIZES = np.array([1.0, 1e-4, 1.0])
FLOORS = np.array([1e-3, 1e-7, 1e-3])
"""What is observed below these counts as if it had the errors of these."""

NOTHING = 1e-9
"""Of a rate constant in units of sizes and seconds."""

OUTLIER = 2.0
"""Standard deviations from which on an error counts less: one step is a rough picture of some intervals."""

STEPS = Grid(4)
"""Between observations."""


@dataclass(frozen=True)
class Step:
    """A molecule that becomes another: ``left`` meets, one ``lost`` becomes one ``made``; by number."""

    left: tuple[int, ...]
    lost: int
    made: int

    def rate(self, z: np.ndarray) -> np.ndarray:
        """(m,) at states (m, 3), for a constant of 1."""
        return np.prod(z[:, self.left], axis=1)

    def slopes(self, z: np.ndarray) -> np.ndarray:
        """(m, 3) ∂rate/∂z."""
        found = np.zeros_like(z)
        for one in set(self.left):
            others = list(self.left)
            others.remove(one)
            found[:, one] = self.left.count(one) * np.prod(z[:, others], axis=1)
        return found

    @property
    def change(self) -> np.ndarray:
        """(3,)"""
        return np.eye(3)[self.made] - np.eye(3)[self.lost]


LEFT = [(0,), (1,), (2,), *itertools.combinations_with_replacement(range(3), 2)]
CANDIDATES = [
    Step(left, lost, made) for left in LEFT for lost in sorted(set(left)) for made in range(3) if made != lost
]
TRUE = [Step((0,), 0, 1), Step((1, 1), 1, 2), Step((1, 2), 1, 0)]


@dataclass(frozen=True)
class Robertson(Case):
    """Its 24 candidates are ``CANDIDATES``; starts have A and C up to 1, and B from 1e-6 to 0.1."""

    def rhs(self, t: Tensor, y: Tensor) -> Tensor:
        return Reactions(TRUE, np.array(self.rates)).forward(t, y)

    def times(self, points: int) -> np.ndarray:
        return np.concatenate([[0.0], np.geomspace(1e-6, self.span, points)])

    def starts(self, count: int, random: np.random.Generator) -> np.ndarray:
        A, B, C = (
            random.uniform(0.1, 1, count),
            10 ** random.uniform(-6, -1, count),
            random.uniform(0, 1, count),
        )
        return np.stack([A, B, C], axis=1)


class Reactions(nn.Module):
    """dy/dt of steps with constants k in 1/s, whose logarithms are learned."""

    def __init__(self, steps: list[Step], k: np.ndarray) -> None:
        super().__init__()
        self.log_k = nn.Parameter(torch.from_numpy(np.log(k)))
        self.left = [step.left for step in steps]
        self.changes = torch.from_numpy(np.stack([step.change for step in steps]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        rates = torch.stack([y[..., list(left)].prod(dim=-1) for left in self.left], dim=-1)
        return (rates * self.log_k.exp()) @ self.changes


class Matching:
    """Constants (k,) of chosen steps, by least squares of one linearised implicit step for each interval."""

    def __init__(self, times: np.ndarray, values: np.ndarray) -> None:
        before, self._after = (part.reshape(-1, 3) for part in (values[:, :-1], values[:, 1:]))
        h = np.tile(np.diff(times), len(values))[:, None]
        z = self._after / SIZES
        self._moved = before - self._after
        self._rates = np.stack([h * step.rate(z)[:, None] * step.change for step in CANDIDATES])
        slopes = [step.change[:, None] * (h * step.slopes(z) / SIZES)[:, None] for step in CANDIDATES]
        self._slopes = np.stack(slopes)
        self._errors = np.sqrt(2) * NOISE * np.maximum(self._after, FLOORS)

    def _both(self, k: np.ndarray, chosen: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Residuals (3m,) and their Jacobian (3m, k)."""
        rates, slopes = self._rates[chosen], self._slopes[chosen]
        inverse = np.linalg.inv(np.eye(3) - np.einsum("k,kmij->mij", k, slopes))
        x = np.einsum("mij,mj->mi", inverse, self._moved + np.einsum("k,kmi->mi", k, rates))
        by_k = np.einsum("mij,kmj->mik", inverse, rates + np.einsum("kmij,mj->kmi", slopes, x))
        return (x / self._errors).ravel(), (by_k / self._errors[..., None]).reshape(-1, len(k))

    def solved(self, chosen: list[int], k: np.ndarray) -> tuple[np.ndarray, float]:
        """The best constants from k on, and the misfit."""
        found = least_squares(
            lambda k: self._both(k, chosen)[0],
            k,
            lambda k: self._both(k, chosen)[1],
            bounds=(0, np.inf),
            loss="cauchy",
            f_scale=OUTLIER,
            x_scale="jac",
            max_nfev=100,
        )
        return found.x, float(found.cost)


def found_among_all(matching: Matching, wanted: int) -> tuple[list[int], np.ndarray]:
    """So many of the candidates, and their constants in units of ``SIZES``.

    From all of them, that is left out again and again which is missed least.
    """
    chosen = list(range(len(CANDIDATES)))
    k, misfit = matching.solved(chosen, np.full(len(chosen), 0.1))
    while True:
        chosen, k = shortest(chosen, k)
        if len(chosen) <= wanted:
            return chosen, k
        trials = []
        for at in range(len(chosen)):
            fewer, misfit = matching.solved(chosen[:at] + chosen[at + 1 :], np.delete(k, at))
            trials.append((misfit, at, fewer))
        _, at, k = min(trials, key=lambda trial: trial[0])
        del chosen[at]


def shortest(chosen: list[int], k: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The same changes by as few steps as can be: B → A for B → C and C → A where the same two meet."""
    rates = {CANDIDATES[i]: float(one) for i, one in zip(chosen, k, strict=True)}
    for one, other in itertools.permutations(list(rates), 2):
        if one.left == other.left and one.made == other.lost:
            both = min(rates[one], rates[other])
            rates[one] -= both
            rates[other] -= both
            if one.lost != other.made:
                direct = Step(one.left, one.lost, other.made)
                rates[direct] = rates.get(direct, 0.0) + both
    kept = {CANDIDATES.index(step): rate for step, rate in rates.items() if rate > NOTHING}
    return list(kept), np.array(list(kept.values()))


def runs_of(case: Case, times: np.ndarray, values: np.ndarray, sizes: np.ndarray, y0: np.ndarray) -> Runs:
    """Runs whose errors are ``NOISE`` times sizes (count, n, 3), or the floors."""
    found = [
        Run(f"{i}", times, one, y0=start, weights=np.maximum(size, FLOORS) ** -2.0)
        for i, (one, size, start) in enumerate(zip(values, sizes, y0, strict=True))
    ]
    return Runs(found, case.components, time_units=case.time_units, initial="known", noise=NOISE)


def noisy(exact: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """States (count, n, 3) with relative errors; the starts are known."""
    errors = noise * np.random.default_rng(seed).standard_normal(exact.shape)
    errors[:, 0] = 0
    return exact * (1 + errors)


def discovered(
    case: Case, times: np.ndarray, exact: np.ndarray, seed: int, iterations: int
) -> tuple[list[Step], Result]:
    """Steps and the fit of their constants from observations of states (count, n, 3)."""
    values = noisy(exact, NOISE, seed)
    chosen, k = found_among_all(Matching(times, values), len(case.rates))
    steps = [CANDIDATES[i] for i in chosen]
    in_units = np.array([SIZES[list(step.left)].prod() for step in steps])
    return steps, refined(case, Reactions(steps, k / in_units), times, values, exact[:, 0], iterations)


def refined(
    case: Case, model: Reactions, times: np.ndarray, values: np.ndarray, y0: np.ndarray, iterations: int
) -> Result:
    """The fit of constants to observations (count, n, 3), and again with better weights."""
    fitted(model, runs_of(case, times, values, values, y0), iterations)
    with torch.no_grad():  # errors are a fraction of the solution, not of each observation
        sizes = odeint(
            model,
            torch.from_numpy(y0.copy()),
            torch.from_numpy(times),
            batch_dims=1,
            method="sdirk3",
            steps=STEPS,
        )
    assert isinstance(sizes, Tensor)
    return fitted(model, runs_of(case, times, values, sizes.transpose(0, 1).numpy(), y0), iterations)


def fitted(model: Reactions, runs: Runs, iterations: int) -> Result:
    strategy = Whole(last=iterations, last_tolerance=1e-4)
    return fit(model, runs, method="sdirk3", steps=STEPS, strategy=strategy)


ROBERTSON = Robertson(
    "Robertson",
    ("A", "B", "C"),
    tuple(tuple(int(one) for one in step.change) for step in TRUE),
    (0.04, 3e7, 1e4),
    span=1e3,
    points=40,
    low=0.1,
    high=1.0,
    time_units="s",
)
