"""``fit`` and ``least_squares``: from a model and runs to fitted weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stiffml.checks import number, whole
from stiffml.methods import Method
from stiffml.steps import Adaptive, Grid, Steps
from stiffml.training.asked import Asked, config_of, require_runs, scale_of, solving_arguments, with_newton
from stiffml.training.data import Runs
from stiffml.training.first_order import optimizer_of, train
from stiffml.training.fitting import fit_by_levenberg_marquardt
from stiffml.training.lm.climb import Goal, Progress
from stiffml.training.lm.ladder import Strategy, Whole
from stiffml.training.lm.levenberg_marquardt import LevenbergMarquardt
from stiffml.training.lm.residuals import Residuals
from stiffml.training.restarts import Factory, Restarts
from stiffml.training.result import Result


def fit(
    model: nn.Module | Factory,
    data: Runs,
    *,
    validate: Runs | None = None,
    optimizer: str | torch.optim.Optimizer = "lm",
    method: str | Method = "sdirk3",
    steps: Steps | None = None,
    strategy: Strategy | None = None,
    levenberg_marquardt: LevenbergMarquardt | None = None,
    scale: Any = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    target: float = 0.0,
    judged: float | None = None,
    attempts: int = 1,
    seed: int = 0,
    iterations: int | None = None,
    learning_rate: float | None = None,
    max_seconds: float | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    save_every: int = 25,
    report: Callable[[Progress], None] | None = None,
    **arguments: Any,
) -> Result:
    """Fit the parameters of a model, and unknown initial values, to runs.

    By default by Levenberg-Marquardt from exact sensitivities, on a ladder: first from observation to
    observation, then over longer and longer intervals (``strategy``). One iteration solves all intervals of
    all runs at once, and gets the derivatives by all parameters from the same matrix. A solve that fails is a
    rejected step; weights are never NaN.

    Parameters
    ----------
    model : nn.Module or callable
        func(t, y) -> dy/dt of the components of the runs. Or seed -> such a module, for several attempts.
    data : Runs
        To fit to. Initial values that they know are exact, those measured have a prior, others are fitted.
    validate : Runs, optional
        To compare attempts by, solved with tight tolerances, and for the report.
    optimizer : str or torch.optim.Optimizer
        ``"lm"`` (default); ``"adam"``, ``"adamw"``, or an optimizer over the model's parameters, which
        minimise the mean square of residuals on whole runs.
    method : str or Method
        Default ``"sdirk3"``, L-stable.
    steps : Steps
        Default ``Grid()``, one step between observations. Known steps of small systems are solved all at
        once; any other runs are solved one by one.
    strategy : MultipleShooting, GrowingHorizon, FullSpace or Whole
        Default ``MultipleShooting()`` where nothing is missing in the data, else ``GrowingHorizon()``.
        ``FullSpace()`` is for noisy data.
    levenberg_marquardt : LevenbergMarquardt
        Damping, robust loss, ridge.
    scale : array_like
        (components,) or a number: in whose units residuals are. Default: the noise where it is known, else
        the range of each component.
    bounds : mapping of str to (low, high)
        Of parameters, by their names in the model; ``"k[0]"`` is one number of k.
    target : float
        Mean absolute residual at which the fit ends. Default 0: it ends where it converges.
    judged : float
        The same, at most, of the model solved again with tight tolerances, at the data to validate on or else
        at the data. An attempt whose error then is larger is followed by another. Default: not asked.
    attempts : int
        Restarts with other weights, until ``target`` is reached; the best one counts. Default 1.
    seed : int
        Of the first attempt, if the model is a function of it; attempt k has seed + 1000 k.
    iterations : int
        Of a first-order optimizer; default 1000. Levenberg-Marquardt has those of its strategy.
    learning_rate : float
        For ``"adam"`` and ``"adamw"``; default 5e-3.
    max_seconds : float
        Of Levenberg-Marquardt, after which the best so far counts. Default: no limit.
    folder : path
        Where the fit keeps its configuration, state, history and failures.
    resume : bool
        Go on with the fit in the folder; it ends with the same weights as if it had not been interrupted.
    save_every : int
        Iterations between saved states. Default 25.
    report : callable
        Called after each iteration of Levenberg-Marquardt with its progress: ``rows``, ``attempts``.
    rtol, atol, newton, linear, jacobian, mass, make_consistent
        As for :func:`stiffml.solve`. Default of ``newton`` for known steps: 1e-9 of each component, and 1e-10
        of its scale.

    Returns
    -------
    Result

    Raises
    ------
    TrainingError
        If no attempt found a trajectory through the data; the message has the causes.
    ValueError, TypeError, FileExistsError
        For a wrong argument.

    Example
    -------
    >>> from stiffml.training import MultipleShooting, fit
    >>> result = fit(lambda seed: Network(seed), runs, target=1e-5, attempts=8)  # doctest: +SKIP
    >>> print(result.report())  # doctest: +SKIP
    """
    restarts = Restarts(model, whole("seed", seed, least=0))
    attempts = whole("attempts", attempts)
    if attempts > 1:
        restarts.require_possible()
    require_runs(data, validate)
    solving, equations = solving_arguments(arguments, method, Grid() if steps is None else steps)
    sizes, known_noise = scale_of(scale, data)
    config = config_of(restarts.model, data, solving, sizes)
    asked = Asked(
        residuals=Residuals(restarts.model, data, sizes, with_newton(solving, sizes, restarts.model)),
        restarts=restarts,
        validate=validate,
        equations=equations,
        known_noise=known_noise,
        folder=folder,
        resume=resume,
        config=config,
        save_every=whole("save_every", save_every),
    )
    if resume and folder is None:
        raise ValueError("resume needs the folder of the fit")
    if isinstance(optimizer, str) and optimizer == "lm":
        _require_absent("a first-order optimizer", iterations=iterations, learning_rate=learning_rate)
        goal = Goal(
            error=number("target", target, least=0),
            judged=None if judged is None else number("judged", judged, above=0),
            attempts=attempts,
            seconds=float("inf") if max_seconds is None else number("max_seconds", max_seconds, above=0),
        )
        return fit_by_levenberg_marquardt(asked, goal, strategy, levenberg_marquardt, bounds, report)
    _require_absent(
        "optimizer='lm'",
        strategy=strategy,
        levenberg_marquardt=levenberg_marquardt,
        bounds=bounds,
        judged=judged,
        max_seconds=max_seconds,
        attempts=None if attempts == 1 else attempts,
        target=target or None,
        report=report,
    )
    chosen = optimizer_of(optimizer, restarts.model, learning_rate)
    count = 1000 if iterations is None else whole("iterations", iterations)
    return train(asked, chosen, count)


def least_squares(
    model: nn.Module,
    runs: Runs,
    *,
    method: str | Method = "bdf",
    steps: Steps | None = None,
    strategy: Strategy | None = None,
    **arguments: Any,
) -> Result:
    """Fit a few parameters, such as rate constants, that are near their values, with confidence intervals.

    The same as :func:`fit` by Levenberg-Marquardt, with adaptive steps and whole trajectories from the
    beginning. ``result.covariance.intervals()`` has the intervals.

    Parameters
    ----------
    model : nn.Module
        func(t, y) -> dy/dt of the components of the runs. Parameters that span decades are better logarithms.
    runs : Runs
    method : str or Method
        Default ``"bdf"``.
    steps : Steps
        Default ``Adaptive()``.
    strategy : Strategy
        Default ``Whole()``.
    **arguments
        Others of :func:`fit`, such as ``bounds``, ``scale``, ``rtol``.

    Returns
    -------
    Result

    Example
    -------
    >>> import numpy as np, torch
    >>> from stiffml.training import Run, Runs, least_squares
    >>> class Decay(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.k = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    ...
    ...     def forward(self, t, y):
    ...         return -self.k * y
    >>> t = np.linspace(0, 2, 9)
    >>> runs = Runs([Run("a", t, np.exp(-3 * t)[:, None])], ["A"], initial="known", noise=0.01)
    >>> result = least_squares(Decay(), runs)
    >>> round(float(result.model.k), 3)
    3.0
    >>> low, high = result.covariance.intervals()["k"]
    >>> low < 3 < high
    True

    From a table, with runs at times of their own and gaps; learned initial values are fitted too. The
    runs are solved in one call where the model takes states (batch, components), else one after the other.

    >>> runs = read_csv("runs.csv", run="run", time="t_s", noise={"A": 0.01, "B": 4e-5})  # doctest: +SKIP
    >>> runs = runs.with_initial({"A": "learned", "B": 0.0})  # doctest: +SKIP
    >>> train, validate = runs.split(fraction=0.75)  # doctest: +SKIP
    >>> result = least_squares(Kinetics(), train)  # doctest: +SKIP
    >>> print(result.report(validate), result.covariance)  # doctest: +SKIP
    """
    steps = Adaptive() if steps is None else steps
    strategy = Whole() if strategy is None else strategy
    return fit(model, runs, method=method, steps=steps, strategy=strategy, **arguments)


def _require_absent(only: str, **values: Any) -> None:
    """Raise ValueError for arguments that have no effect here."""
    for name, value in values.items():
        if value is not None:
            raise ValueError(f"{name} is for {only}; leave it out")
