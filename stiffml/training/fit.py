"""``fit`` and ``least_squares``: from a model and runs to fitted weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stiffml.checks import described, flag, number, whole
from stiffml.methods import Method
from stiffml.steps import Adaptive, Grid, KeptSteps, Steps
from stiffml.threads import one_thread
from stiffml.training.asked import Asked, config_of, require_runs, scale_of, solving_arguments, with_newton
from stiffml.training.data import Runs
from stiffml.training.descent.optimizers import Make
from stiffml.training.descent.settings import FirstOrder
from stiffml.training.figures import save_figures
from stiffml.training.first_order import fit_by_descent
from stiffml.training.fitting import fit_by_levenberg_marquardt
from stiffml.training.folder import FIGURES
from stiffml.training.lm.ladder import Strategy, Whole
from stiffml.training.lm.levenberg_marquardt import LevenbergMarquardt
from stiffml.training.lm.progress import Goal
from stiffml.training.lm.residuals import Residuals
from stiffml.training.restarts import Factory, Restarts
from stiffml.training.result import Result

SMALL = 10_000
"""Parameters up to which a fit takes one thread."""


def fit(
    model: nn.Module | Factory,
    data: Runs,
    *,
    validate: Runs | None = None,
    optimizer: str | torch.optim.Optimizer | Make = "lm",
    method: str | Method | None = None,
    steps: Steps | KeptSteps | None = None,
    strategy: Strategy | None = None,
    levenberg_marquardt: LevenbergMarquardt | None = None,
    first_order: FirstOrder | None = None,
    scale: Any = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    target: float = 0.0,
    judged: float | None = None,
    attempts: int | None = None,
    seed: int = 0,
    iterations: int | None = None,
    learning_rate: float | None = None,
    max_seconds: float | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    save_every: int = 25,
    tensorboard: bool = False,
    progress: bool = False,
    report: Callable[[Any], None] | None = None,
    **arguments: Any,
) -> Result:
    """Fit the parameters of a model, and unknown initial values, to runs.

    By default by Levenberg-Marquardt from exact sensitivities, on a ladder: first from observation to
    observation, then over longer and longer intervals (``strategy``). One iteration solves all intervals of
    all runs at once, and gets the derivatives by all parameters from the same matrix: by tangents, or, of
    networks with more weights than a run has observations, by adjoints. Its cost then grows with the number
    of weights, not with their square or cube: tens of thousands are no obstacle. Beyond 4e8 derivatives, of
    all observations by all weights, the matrix is never formed: steps are made of products with it, each a
    tangent or a reverse sweep (``training/lm/subspace.py``). A solve that fails is a rejected step.

    By an optimizer of torch, on whole runs or a strategy too, with minibatches, a schedule and others as
    ``first_order`` says. A solve that fails is tried again with smaller steps, then its interval is left out
    of the iteration; where half of them or more fail, the last update is halved. Ten such failures in a row,
    or ten iterations without one of the runs, end it with advice.

    Weights are never NaN, and failures are in ``result.failures``. Models of up to 10 000 parameters are
    fitted on one thread, which is several times as fast, unless ``OMP_NUM_THREADS`` is set.

    Parameters
    ----------
    model : nn.Module or callable
        func(t, y) -> dy/dt of the components of the runs. Or seed -> such a module, for several attempts.
    data : Runs
        To fit to. Initial values that they know are exact, those measured have a prior, others are fitted.
    validate : Runs, optional
        To compare attempts by, solved with tight tolerances, and for the report.
    optimizer : str, torch.optim.Optimizer or callable
        ``"lm"`` (default); ``"adam"``, ``"adamw"``, ``"sgd"`` (with momentum 0.9), ``"lbfgs"`` (with a line
        search), in any case; an optimizer over the model's parameters; or a function that makes one of them.
    method : str or Method
        Default ``"sdirk3"``, L-stable, or what a model suggests that takes something from data
        (:class:`Preparable`), such as a ``Closure`` without ``typical``; so are the defaults of ``steps``
        and, for ``"lm"``, of ``strategy``, ``levenberg_marquardt``, ``judged`` and ``attempts``.
    steps : Steps
        Default ``Grid()``, one step between observations. Known steps of small systems are solved all at
        once, from the states of the iteration before; any other runs are solved one by one, or in one call
        where the model takes states (batch, components). ``KeptSteps(…)``, for an optimizer of torch: each
        interval keeps its own steps.
    strategy : MultipleShooting, GrowingHorizon, FullSpace or Whole
        Default ``MultipleShooting()`` where nothing is missing in the data, else ``GrowingHorizon()``; for an
        optimizer of torch ``Whole()``. ``FullSpace()`` is for noisy data, by Levenberg-Marquardt.
    levenberg_marquardt : LevenbergMarquardt
        Damping, robust loss, ridge.
    first_order : FirstOrder
        Loss, schedule, clipping, minibatches, continuity between intervals, early stopping; for an optimizer
        of torch.
    scale : array_like
        (components,) or a number: in whose units residuals are. Default: the noise where it is known, else
        the range of each component, or its size where it does not change.
    bounds : mapping of str to (low, high)
        Of parameters, by their names in the model; ``"k[0]"`` is one number of k.
    target : float
        Mean absolute residual at which the fit ends. Default 0: it ends where it converges.
    judged : float
        The same, at most, of the model solved again with tight tolerances, at the data to validate on or else
        at the data. An attempt whose error then is larger is followed by another. Default: not asked.
    attempts : int
        Restarts with other weights, until ``target`` and ``judged`` are reached; the best one counts. One
        that will miss ``target`` at its pace makes room for the next, and goes on in the end if it is the
        best of all. Default 1.
    seed : int
        Of the first attempt, if the model is a function of it; attempt k has seed + 1000 k.
    iterations : int
        Of an optimizer of torch without a strategy; default 1000. A resumed fit may have more. Strategies
        have their own.
    learning_rate : float
        For an optimizer by name; default 5e-3, of ``"sgd"`` 1e-2, of ``"lbfgs"`` 1.
    max_seconds : float
        After which the best so far counts; with more of them the fit can be resumed. Default: no limit.
    folder : path
        Where the fit keeps its configuration and versions (``fit.json``), state and the one before
        (``state.pt``, ``state.before.pt``), history (``history.nc``), failures (``failures.log``) and
        ``figures``. A folder that holds a fit is refused.
    resume : bool
        Go on with the fit in the folder, if it holds one; it ends with the same weights, bit by bit, as if it
        had not been interrupted. For this the optimizer must be given by name or function, or as new as at
        first.
    save_every : int
        Iterations between saved states. Default 25.
    tensorboard : bool
        Write values of iterations to ``folder/tensorboard``; needs ``stiffml[tensorboard]``. Default false.
    progress : bool
        Show a bar in the terminal or notebook. Default false.
    report : callable
        Called after each iteration with the progress: its ``rows`` and ``failures``.
    rtol, atol, newton, linear, jacobian, mass, make_consistent
        As for :func:`stiffml.solve`. Default of ``newton`` for known steps: 1e-9 of each component, and 1e-10
        of its scale.
    compile : bool
        Turn the model and its derivatives into C, once: Levenberg-Marquardt on a small network takes two
        fifths of the time, AdamW half, rate constants with adaptive steps a thirtieth. The result's
        ``report`` and ``plot`` solve the compiled model too. Default false.

    Returns
    -------
    Result

    Raises
    ------
    TrainingError
        If no attempt found a trajectory through the data, or there was no loss ten times in a row; the
        message has the causes.
    ValueError, TypeError
        For a wrong argument, a folder with a fit of other arguments, data or versions, or one whose states
        are all damaged.
    FileExistsError
        If the folder holds a fit and ``resume`` is false.
    ImportError
        If TensorBoard is asked for and missing.

    Examples
    --------
    >>> from stiffml.training import fit
    >>> result = fit(Decay(), runs)
    >>> round(result.model.k.item(), 1), bool(result.error < 0.2)
    (3.0, True)
    >>> result = fit(Decay(), runs, optimizer="adamw", method="bdf", learning_rate=0.05, iterations=20)
    >>> bool(result.model.k > 2.5)  # on its way from 2 to 3
    True

    Networks from several seeds, until one is good on data that were held out:

    >>> train, held_out = runs.split(fraction=0.5)
    >>> network = lambda seed: stiffml.closures.Closure(None, [4], typical=[1.0], scale=[3.0], seed=seed)
    >>> fit(network, train, validate=held_out, target=1e-3, attempts=8).report()  # doctest: +SKIP
    """
    require_runs(data, validate)
    with one_thread():
        restarts = Restarts(model, whole("seed", seed, least=0), data)
    if isinstance(optimizer, str):
        optimizer = optimizer.lower()
    by_lm = isinstance(optimizer, str) and optimizer == "lm"
    if by_lm and isinstance(steps, KeptSteps):
        raise ValueError("steps: KeptSteps are for an optimizer of torch; pass the steps that they choose")
    kept = steps if isinstance(steps, KeptSteps) else None
    taken = steps.steps if isinstance(steps, KeptSteps) else steps
    suggested = {"method": "sdirk3", "steps": Grid(), **restarts.suggested}
    if by_lm:
        attempts = suggested.get("attempts") if attempts is None else attempts
        judged = suggested.get("judged") if judged is None else judged
    attempts = 1 if attempts is None else whole("attempts", attempts)
    if attempts > 1:
        restarts.require_possible()
    method = suggested["method"] if method is None else method
    taken = suggested["steps"] if taken is None else taken
    solving, equations = solving_arguments(arguments, method, taken)
    sizes, known_noise = scale_of(scale, data)
    if report is not None and not callable(report):
        raise TypeError(f"report must be callable as report(progress), not {described(report)}")
    seconds = float("inf") if max_seconds is None else number("max_seconds", max_seconds, above=0)
    asked = Asked(
        residuals=Residuals(restarts.model, data, sizes, with_newton(solving, sizes, restarts.model)),
        restarts=restarts,
        validate=validate,
        equations=equations,
        compile=bool(arguments.get("compile", False)),
        known_noise=known_noise,
        folder=folder,
        resume=flag("resume", resume),
        config=config_of(restarts.model, data, validate, solving, sizes, restarts.seed),
        save_every=whole("save_every", save_every),
        progress=flag("progress", progress),
        tensorboard=flag("tensorboard", tensorboard),
        report=report,
    )
    if by_lm:
        _require_absent(
            "an optimizer of torch",
            iterations=iterations,
            learning_rate=learning_rate,
            first_order=first_order,
        )
        goal = Goal(
            error=number("target", target, least=0),
            judged=None if judged is None else number("judged", judged, above=0),
            attempts=attempts,
            seconds=seconds,
        )
        strategy = suggested.get("strategy") if strategy is None else strategy
        if levenberg_marquardt is None:
            levenberg_marquardt = suggested.get("levenberg_marquardt")
        with _threads(asked.residuals.model):
            result = fit_by_levenberg_marquardt(asked, goal, strategy, levenberg_marquardt, bounds)
    else:
        _require_absent(
            "optimizer='lm'",
            levenberg_marquardt=levenberg_marquardt,
            bounds=bounds,
            judged=judged,
            attempts=None if attempts == 1 else attempts,
            target=target or None,
        )
        count = None if iterations is None else whole("iterations", iterations)
        with _threads(asked.residuals.model):
            result = fit_by_descent(
                asked, optimizer, learning_rate, strategy, count, first_order, kept, seconds
            )
    if folder is not None:
        save_figures(Path(folder) / FIGURES, result)
    return result


def _threads(model: nn.Module) -> AbstractContextManager[None]:
    """One thread for small models."""
    small = sum(parameter.numel() for parameter in model.parameters()) <= SMALL
    return one_thread() if small else nullcontext()


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

    Examples
    --------
    >>> from stiffml.training import least_squares
    >>> result = least_squares(Decay(k=2.0), runs, rtol=1e-4)
    >>> round(result.model.k.item(), 2)
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
