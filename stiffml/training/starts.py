"""Where a run starts that nothing was fitted to, and whose first state is not known exactly: fitted to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.interface.sensitivities import sensitivities
from stiffml.steps import Adaptive
from stiffml.training.data import Run, Runs
from stiffml.training.lm.levenberg_marquardt import Iteration, LevenbergMarquardt, TrialError

ITERATIONS, TOLERANCE, MAX_STEPS = 30, 1e-6, 20_000


def units_of(runs: Runs, scale: np.ndarray) -> np.ndarray:
    """(components,) the noise of observations where it is known, so that priors weigh rightly; else scale."""
    return np.where(np.isnan(runs.noise), scale, runs.noise)


def start_of(model: nn.Module, run: Run, scale: np.ndarray, **arguments: Any) -> np.ndarray:
    """(components,) the initial state with which a model, held as it is, fits a run best.

    Components that the run knows exactly (``y0_noise`` 0) stay; those measured have a prior, residuals
    (y0 − measured)/y0_noise beside those of the observations in units of ``scale``; the others are free.
    ``arguments`` are those of a solve. Where no solution starts from the run's y0, that is returned.
    """
    free = np.flatnonzero(run.y0_noise > 0)
    if not len(free):
        return run.y0
    noise = run.y0_noise[free]
    weight = np.where(np.isinf(noise), 0.0, 1 / noise)
    problem = _Start(model, run, scale, free, arguments)
    beyond = np.full(len(free), np.inf)
    iteration = Iteration(LevenbergMarquardt(), run.y0[free], weight, -beyond, beyond)
    try:
        state = iteration.begin(run.y0[free], problem.evaluate(run.y0[free], None))
        while not state.outcome and state.iteration < ITERATIONS:
            state = iteration.step(problem, state, TOLERANCE)
    except TrialError:
        return run.y0
    return problem.with_free(state.theta)


@dataclass(frozen=True)
class _Solved:
    """Residuals (m,) and their derivatives (m, free)."""

    residuals: np.ndarray
    matrix: np.ndarray
    products: None = None

    def jacobian(self) -> np.ndarray:
        return self.matrix


class _Start:
    """The misfit of a run as a function of the free components of its start."""

    def __init__(
        self, model: nn.Module, run: Run, scale: np.ndarray, free: np.ndarray, arguments: dict[str, Any]
    ) -> None:
        self._model, self._run, self._free, self._arguments = model, run, free, arguments
        self._factor = np.sqrt(run.weights) / scale
        self._counts = run.mask
        self._counts[0] &= np.isinf(run.y0_noise)
        self._dtype = next((p.dtype for p in model.parameters()), torch.float64)

    def with_free(self, values: np.ndarray) -> np.ndarray:
        start = self._run.y0.copy()
        start[self._free] = values
        return start

    def evaluate(self, theta: np.ndarray, near: Any) -> _Solved:
        start = torch.from_numpy(self.with_free(theta)).to(self._dtype)
        times = torch.from_numpy(self._run.times.copy())
        try:
            found = sensitivities(
                self._model,
                start,
                times,
                wrt=["y0"],
                method="bdf",
                steps=Adaptive(max_steps=MAX_STEPS),
                **self._arguments,
            )
        except Exception as error:  # whatever func raises far from the data
            raise TrialError(str(error) or type(error).__name__) from error
        y, changes = found.solution.y, found.wrt["y0"]
        assert isinstance(y, Tensor)
        assert isinstance(changes, Tensor)
        misfit = (y.detach().cpu().double().numpy() - self._run.values) * self._factor
        matrix = changes.cpu().double().numpy()[:, :, self._free] * self._factor[:, :, None]
        if not np.isfinite(misfit[self._counts]).all():
            raise TrialError("a residual is not finite")
        return _Solved(misfit[self._counts], matrix[self._counts])
