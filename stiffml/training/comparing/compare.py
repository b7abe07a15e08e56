"""``compare``: the same training with each of several methods, optimizers and seeds."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from stiffml.checks import described, flag, number, whole
from stiffml.checks import path as checked_path
from stiffml.files import require_writable, save_atomically
from stiffml.methods import Method
from stiffml.methods import resolve as method_of
from stiffml.steps import Adaptive, Grid, Steps
from stiffml.training.asked import require_runs
from stiffml.training.comparing.comparison import Comparison
from stiffml.training.comparing.dataset import gathered
from stiffml.training.comparing.processes import do_all
from stiffml.training.comparing.training import Task
from stiffml.training.data import Runs
from stiffml.training.restarts import Factory, Restarts

CONFIG, TRAININGS = "compare.json", "trainings"
TOLERANCES = ("rtol", "atol")


def compare(
    model: nn.Module | Factory,
    data: Runs,
    *,
    methods: Sequence[str | Method] = ("cn", "dopri5"),
    optimizers: Sequence[str] | Mapping[str, Mapping[str, Any]] = ("lm", "adamw"),
    seeds: int | Sequence[int] = 3,
    validate: Runs | None = None,
    iterations: int | None = None,
    seconds: float | None = None,
    steps: Steps | Mapping[str, Steps] | None = None,
    jobs: int = 1,
    executor: Executor | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    report: Callable[[int, int, str], None] | None = None,
    **arguments: Any,
) -> Comparison:
    """Do the same training with each method, optimizer and seed, for as many iterations or seconds.

    Give it a budget that is long enough: a network that is not trained yet is not stiff, and explicit methods
    are the fastest then. How stiff it has become is part of the result. A training that cannot go on, such as
    one by an explicit method, is a row with its reason.

    Parameters
    ----------
    model : nn.Module or callable
        As for :func:`fit`. Of a module, seed 0 has the weights as they are.
    data : Runs
        Their initial values must be known.
    methods : sequence
        Names or methods. Default ``("cn", "dopri5")``.
    optimizers : sequence of str, or mapping
        Names as of :func:`fit`; or labels with arguments of ``fit`` for each:
        ``{"lm": {"attempts": 4}, "slow": {"optimizer": "adamw", "learning_rate": 1e-4}}``. Default
        ``("lm", "adamw")``.
    seeds : int or sequence of int
        How many, from 0, or which. Default 3.
    validate : Runs, optional
        Held out: the model is solved again there too. Nothing is chosen by it.
    iterations : int
        Of each training at most.
    seconds : float
        Of each training at most, of CPU time: seconds by the clock depend on what else the machine does. One
        of the two is needed.
    steps : Steps, or mapping of names of methods to Steps
        Default: one step between observations, for explicit methods with an error estimate ``Adaptive()``.
    jobs : int
        Processes of this machine. Each training runs on one thread of one process, and comes to the same
        numbers for any ``jobs``; Default 1.
    executor : concurrent.futures.Executor
        In place of ``jobs``, for several machines with a folder in common: ``with MPICommExecutor() as pool``
        of ``mpi4py.futures``, in a script that all processes of mpiexec run; the others than the first get
        None. (``MPIPoolExecutor`` would wait for ever: PETSc begins in all processes at once.)
    folder : path
        Where all trainings are kept. Default: none is kept.
    resume : bool
        Go on in the folder: trainings that have ended are not done again, and one that was killed goes on
        from its last saved state. Methods, optimizers and seeds may be added.
    report : callable
        report(done, of, label) after each training.
    **arguments
        Of :func:`fit`, for all: ``scale``, ``save_every``, … ``rtol`` and ``atol`` are for the methods whose
        steps adapt.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError, TypeError, FileExistsError
        For a wrong argument, or a folder that holds another comparison.

    Examples
    --------
    >>> from stiffml.training import compare
    >>> found = compare(Decay(), runs, methods=["cn", "dopri5"], optimizers=["lm"], seeds=1, iterations=5)
    >>> found.summary().own_error.shape  # of (method, optimizer, seed)
    (2, 1, 1)
    >>> print(found.table())  # doctest: +SKIP
    >>> found.write_report("report.html")  # doctest: +SKIP
    """
    budget = _budget(iterations, seconds)
    _require_possible(model, data, validate)
    chosen = _methods(methods, steps)
    optimizing = _optimizers(optimizers)
    numbers = _seeds(seeds)
    jobs = whole("jobs", jobs)
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(f"executor must be one of concurrent.futures, not {described(executor)}")
    if flag("resume", resume) and folder is None:
        raise ValueError("resume needs the folder of the comparison; pass folder=…")
    for name in ("optimizer", "method", "seed"):
        if name in arguments:
            raise TypeError(f"compare takes {name}s=…, not {name}")
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as kept:
        place = checked_path("folder", kept)
        _require_used(arguments, chosen)
        config = _config(model, data, validate, budget, arguments)
        _open(place, config, resume)
        tasks = [
            Task(
                model=model,
                data=data,
                validate=validate,
                method=method,
                optimizer=optimizer,
                seed=seed,
                arguments={**_fitting(arguments, chosen[method]), **chosen[method], **optimizing[optimizer]},
                iterations=budget[0],
                seconds=budget[1],
                folder=place / TRAININGS / _name(method, optimizer, seed),
            )
            for seed in numbers
            for optimizer in optimizing
            for method in chosen
        ]
        do_all(tasks, jobs, executor, report or (lambda done, of, label: None))
        found = Comparison(gathered(tasks, {"iterations": budget[0], "seconds": budget[1]}))
    if folder is not None:
        found.save(place)
    return found


def _budget(iterations: Any, seconds: Any) -> tuple[float, float]:
    if iterations is None and seconds is None:
        raise ValueError(
            "compare needs a budget: iterations=… or seconds=… of each training; some minutes, since what is "
            "hardly trained is not stiff"
        )
    count = float("inf") if iterations is None else whole("iterations", iterations)
    return count, float("inf") if seconds is None else number("seconds", seconds, above=0)


def _require_possible(model: Any, data: Any, validate: Any) -> None:
    require_runs(data, validate)
    _prepared(model, data)
    for run in data:
        if (run.y0_noise > 0).any():
            raise ValueError(
                f"data: run {run.name} begins with values that are not known, and compare solves models "
                "again from them; pass data.with_initial('known'), or use fit"
            )


def _prepared(model: nn.Module | Factory, data: Runs) -> nn.Module:
    """The model as trainings begin with it; the one given stays as it is."""
    return Restarts(copy.deepcopy(model), 0, data).model


def _methods(methods: Any, steps: Any) -> dict[str, dict[str, Any]]:
    """By label: method and steps."""
    if isinstance(methods, str | Method) or not isinstance(methods, Iterable):
        raise TypeError(f"methods must be a sequence of names or methods, not {described(methods)}")
    found: dict[str, dict[str, Any]] = {}
    for one in methods:
        known, label = method_of(one), one if isinstance(one, str) else str(one)
        own = steps.get(label) if isinstance(steps, Mapping) else steps
        explicit = known.adaptive and not known.implicit
        default = Adaptive() if explicit else Grid()
        found[label] = {"method": one, "steps": default if own is None else own}
    if isinstance(steps, Mapping):
        for name in steps:
            if name not in found:
                raise ValueError(f"steps: {name!r} is none of the methods {', '.join(found)}")
    if not found:
        raise ValueError("methods must have one at least")
    return found


def _optimizers(optimizers: Any) -> dict[str, dict[str, Any]]:
    """By label: arguments of a fit."""
    if isinstance(optimizers, Mapping):
        found = {str(name): {"optimizer": name, **own} for name, own in optimizers.items()}
    elif isinstance(optimizers, str) or not isinstance(optimizers, Iterable):
        raise TypeError(f"optimizers must be a sequence of names, or a mapping, not {described(optimizers)}")
    else:
        found = {str(name): {"optimizer": name} for name in optimizers}
    for label, own in found.items():
        if not isinstance(own["optimizer"], str):
            raise TypeError(
                f"optimizers: {label} must be a name, since others belong to one model only, not "
                f"{described(own['optimizer'])}"
            )
        if "iterations" in own:
            raise ValueError(
                f"optimizers: {label}: iterations are the budget of all; pass compare(iterations=…)"
            )
    if not found:
        raise ValueError("optimizers must have one at least")
    return found


def _seeds(seeds: Any) -> list[int]:
    if isinstance(seeds, Iterable) and not isinstance(seeds, str):
        found = [whole("seeds", seed, least=0) for seed in seeds]
        if not found or len(set(found)) < len(found):
            raise ValueError(f"seeds must be distinct, and one at least, not {described(seeds)}")
        return found
    return list(range(whole("seeds", seeds)))


def _name(method: str, optimizer: str, seed: int) -> str:
    """A folder's name; labels that differ in what it cannot hold have different ones."""
    text = re.sub(r"[^\w.-]+", "_", f"{method}-{optimizer}")
    if text != f"{method}-{optimizer}":
        text += "-" + hashlib.sha256(f"{method}\0{optimizer}".encode()).hexdigest()[:6]
    return f"{text}-{seed}"


def _config(
    model: Any, data: Runs, validate: Runs | None, budget: tuple[float, float], arguments: Mapping[str, Any]
) -> dict[str, str]:
    """What all trainings of a folder have in common, as texts."""
    kind = _prepared(model, data)
    shapes = {name: list(p.shape) for name, p in kind.named_parameters()}
    texts = {
        "model": f"{type(kind).__name__} {shapes}",
        "data": _digest(data),
        "validate": "none" if validate is None else _digest(validate),
        "iterations": str(budget[0]),
        "seconds": str(budget[1]),
        **{name: str(value) for name, value in arguments.items()},
    }
    return {name: re.sub(r" at 0x[0-9a-f]+", "", text) for name, text in texts.items()}


def _digest(runs: Runs) -> str:
    digest = hashlib.sha256()
    for run in runs:
        for array in (run.times, run.values, run.weights, run.y0):
            digest.update(np.ascontiguousarray(array).tobytes())
    return f"{len(runs)} runs of {', '.join(runs.components)}, {digest.hexdigest()[:16]}"


def _open(folder: Path, config: Mapping[str, str], resume: bool) -> None:
    path = folder / CONFIG
    if path.exists():
        if not resume:
            raise FileExistsError(
                f"folder: {folder} holds a comparison already; pass resume=True to go on with it, or another "
                "folder"
            )
        held = json.loads(path.read_text())
        for name in {**held, **config}:
            if held.get(name) != config.get(name):
                raise ValueError(
                    f"folder: {folder} holds a comparison with {name} = {held.get(name)}, not "
                    f"{config.get(name)}; use another folder"
                )
        return
    require_writable(folder, "folder")
    text = json.dumps(dict(config), indent=1, ensure_ascii=False)
    save_atomically(path, lambda file: file.write(text.encode()))


def _fitting(arguments: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Without tolerances where steps are given."""
    given = not isinstance(chosen["steps"], Adaptive)
    return {name: value for name, value in arguments.items() if not (given and name in TOLERANCES)}


def _require_used(arguments: Mapping[str, Any], chosen: Mapping[str, Mapping[str, Any]]) -> None:
    adapts = any(isinstance(one["steps"], Adaptive) for one in chosen.values())
    for name in TOLERANCES:
        if name in arguments and not adapts:
            raise ValueError(
                f"{name} is for adaptive steps, which none of the methods takes; pass steps=Adaptive()"
            )
