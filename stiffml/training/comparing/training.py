"""One training of a comparison: from a task to a file with its record, errors and stiffness."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.errors import LinearSolveError, ReplayError, SolveError
from stiffml.files import require_writable, save_netcdf
from stiffml.interface.solve import solve
from stiffml.stats import totals
from stiffml.training.asked import EQUATIONS, STEPPING, scale_of
from stiffml.training.comparing.learned_field import stiffness_along
from stiffml.training.comparing.record import NAMES, Line, Record, put, trainable
from stiffml.training.data import Runs
from stiffml.training.fit import fit
from stiffml.training.lm.levenberg_marquardt import TrialError
from stiffml.training.resolving import mean_of, resolve, sums
from stiffml.training.restarts import Factory, Restarts
from stiffml.training.trouble import TrainingError

if TYPE_CHECKING:
    import xarray

DONE = "training.nc"
CANNOT_GO_ON = (TrainingError, SolveError, LinearSolveError, ReplayError, ArithmeticError)
"""What ends a training with a reason, in place of a result."""

RTOL, ATOL, MAX_STEPS = 1e-6, 1e-9, 5000
"""Of solving again; atol in units of the smallest scale. Weights on the way may need any number of steps."""

ENDLESS = 10**9
"""Iterations, where seconds are the budget."""


@dataclass(frozen=True)
class Task:
    """A training to be done, as another process gets it.

    Attributes
    ----------
    method, optimizer : str
        Labels.
    arguments : dict
        Of ``fit``, without model, data, folder.
    iterations, seconds : int and float
        At most; infinity for no limit.
    folder : Path
        Of its own.
    """

    model: nn.Module | Factory
    data: Runs
    validate: Runs | None
    method: str
    optimizer: str
    seed: int
    arguments: Mapping[str, Any]
    iterations: float
    seconds: float
    folder: Path

    @property
    def label(self) -> str:
        return f"{self.method}, {self.optimizer}, seed {self.seed}"

    @property
    def done(self) -> bool:
        return (self.folder / DONE).exists()


class _Spent(Exception):
    """The budget is."""


@dataclass
class _Watch:
    """Follows a fit: a line for each iteration, weights now and then, the end of the budget."""

    task: Task
    record: Record
    model: nn.Module
    costs: Any
    last: int = 0
    spent: float | None = None
    norms: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._mark()

    def _mark(self) -> None:
        counted = (self.costs.rhs_evals, self.costs.jacobians, self.costs.accepted, self.costs.rejected)
        self._before = (time.perf_counter(), time.process_time(), *counted)

    def __call__(self, progress: Any) -> None:
        row, self.last = progress.rows[-1], len(progress.rows)
        loss, norm = self._of(progress, row)
        wall, cpu, *counted = self._before
        self._mark()  # what keeping takes is not counted
        now = self._before
        line = Line(
            self.last,
            loss,
            norm,
            int(sum(getattr(row, name, 0) for name in ("failed", "halved", "left_out"))),
            now[0] - wall,
            now[1] - cpu,
            *(int(new - old) for new, old in zip(now[2:], counted, strict=True)),
        )
        self.record.add(line)
        if self.record.due(self.last):
            self.record.keep(self.last, self.weights(progress))
        if self.spent is None:  # what an earlier process had before counts too
            self.spent = sum(one.cpu_s for one in self.record.upto(self.last - 1))
        self.spent += line.cpu_s
        if self.last >= self.task.iterations or self.spent >= self.task.seconds:
            self.record.keep(self.last, self.weights(progress))
            raise _Spent
        self._mark()

    def _of(self, progress: Any, row: Any) -> tuple[float, float]:
        """Mean square of residuals, and the norm of its gradient."""
        if not hasattr(row, "cost"):
            return float(row.loss), float(row.norm)
        state, norm = progress.state, float("nan")
        if state is not None:
            self.norms[row.rung] = len(state.point.residuals)
            try:
                slope = state.point.slopes(state.point.residuals)
                norm = 2 * float(np.linalg.norm(slope)) / self.norms[row.rung]
            except (TrialError, AttributeError):  # no derivative there, or none by the weights alone
                pass
        return 2 * float(row.cost) / self.norms.get(row.rung, 1), norm

    def weights(self, progress: Any) -> list[Tensor]:
        """Those that the fit is at."""
        if not hasattr(progress, "theta"):
            return trainable(self.model)
        theta = progress.theta if progress.state is None else progress.state.point.theta
        found, first = [], 0
        for parameter in trainable(self.model):
            part = torch.from_numpy(np.array(theta[first : first + parameter.numel()]))
            found.append(part.reshape(parameter.shape).to(parameter))
            first += parameter.numel()
        return found


def train(task: Task) -> Path:
    """Do a training, or the rest of it, and return the file with what came of it.

    It uses one thread, whatever process it is in, so that it comes to the same numbers in each.
    """
    if task.done:
        return task.folder / DONE
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = _trained(task)
    finally:
        torch.set_num_threads(threads)
    save_netcdf(task.folder / DONE, found)
    return task.folder / DONE


def _trained(task: Task) -> xarray.Dataset:
    require_writable(task.folder, "folder")
    record = Record(task.folder)
    model = _beginning(task)
    record.keep(0, trainable(model))
    reason = outcome = ""
    arguments = dict(task.arguments)
    if arguments["optimizer"] != "lm":
        arguments["iterations"] = int(min(task.iterations, ENDLESS))
    with totals() as costs:
        watch = _Watch(task, record, model, costs)
        try:
            result = fit(
                _anew(task, model),
                task.data,
                seed=task.seed,
                folder=task.folder / "fit",
                resume=True,
                report=watch,
                **arguments,
            )
            outcome = result.outcome
            record.keep(watch.last, trainable(result.model))
        except _Spent:
            outcome = "the budget was spent"
        except CANNOT_GO_ON as error:
            reason = " ".join(str(error).split())
            outcome = "could not go on"
            if watch.last and watch.last not in record.kept(watch.last):
                record.keep(watch.last, trainable(model))
    return _described(task, model, record, watch.last, outcome, reason)


def _anew(task: Task, model: nn.Module) -> nn.Module | Factory:
    """What ``fit`` gets: the model, or, for several attempts, a function whose first value it is."""
    make = task.model
    if isinstance(make, nn.Module) or task.arguments.get("attempts", 1) == 1:
        return model
    return lambda seed: model if seed == task.seed else make(seed)


def _beginning(task: Task) -> nn.Module:
    """The model with the weights of the seed."""
    if not isinstance(task.model, nn.Module):
        return Restarts(task.model, task.seed, task.data).model
    restarts = Restarts(copy.deepcopy(task.model), 0, task.data)
    restarts.reset(task.seed)
    return restarts.model


def _described(
    task: Task, model: nn.Module, record: Record, last: int, outcome: str, reason: str
) -> xarray.Dataset:
    import xarray

    lines = record.upto(last)
    columns = {name: ("iteration", np.array([getattr(line, name) for line in lines])) for name in NAMES[1:]}
    judge = Judge(task.data, task.validate, task.arguments)
    kept = record.kept(last)
    judged = [judge.of(model, weights) for weights in kept.values()]
    names = ("error", "held_out", "stiffness", "explicit_steps")
    snapshots = {
        name: ("snapshot", np.array([one[i] for one in judged], dtype=float)) for i, name in enumerate(names)
    }
    put(model, list(kept.values())[-1])
    own, steps, message = judge.own(model)
    attributes = {
        "method": task.method,
        "optimizer": task.optimizer,
        "seed": task.seed,
        "outcome": outcome,
        "reason": reason or (f"at the last weights: {message}" if message else ""),
        "own_error": own,
        "own_steps": steps,
    }
    at = ("snapshot", np.array(list(kept), dtype=float))
    coords = {"iteration": np.array([line.iteration for line in lines], dtype=int)}
    return xarray.Dataset({**columns, **snapshots, "at": at}, coords, attributes)


class Judge:
    """Errors and stiffness of a model at the data of a training by ``fit`` with these arguments."""

    def __init__(self, data: Runs, validate: Runs | None, arguments: Mapping[str, Any]) -> None:
        self._data, self._validate = data, validate
        self._scale = scale_of(arguments.get("scale"), data)[0]
        self._equations = {name: arguments[name] for name in (*EQUATIONS, "compile") if name in arguments}
        self._solving = {
            name: arguments[name] for name in (*EQUATIONS, *STEPPING, "method", "steps") if name in arguments
        }

    def of(self, model: nn.Module, weights: list[Tensor]) -> tuple[float, float, float, float]:
        """Mean errors solved again at the data and at those held out; stiffness and explicit steps."""
        put(model, weights)
        seen = self._resolved(model, self._data)
        held = None if self._validate is None else self._resolved(model, self._validate)
        found = [
            stiffness_along(_plain(model), one.line[0], one.line[1], self._equations.get("mass"))
            for one in seen
        ]
        return (
            mean_of(seen, self._scale),
            float("nan") if held is None else mean_of(held, self._scale),
            max(one[0] for one in found),
            max(one[1] for one in found),
        )

    def error(self, model: nn.Module, weights: list[Tensor]) -> float:
        """The mean error solved again, at what is held out if anything is."""
        put(model, weights)
        return mean_of(self._resolved(model, self._validate or self._data), self._scale)

    def _resolved(self, model: nn.Module, runs: Runs) -> list[Any]:
        atol = ATOL * float(self._scale.min())
        return [
            resolve(model, run, run.y0, RTOL, atol, max_steps=MAX_STEPS, **self._equations) for run in runs
        ]

    def own(self, model: nn.Module) -> tuple[float, int, str]:
        """The mean error along the steps of the training, how many these are, and why they end early."""
        total, count, steps, message = 0.0, 0, 0, ""
        dtype = trainable(model)[0].dtype
        for run in self._data:
            y0 = torch.from_numpy(run.y0.copy()).to(dtype)
            times = torch.from_numpy(run.times.copy())
            count += int(run.mask[1:].sum())
            try:
                with torch.no_grad():
                    found = solve(model, y0, times, **self._solving)
            except (SolveError, ArithmeticError) as error:
                total, message = np.inf, message or " ".join(str(error).split())
                continue
            assert isinstance(found.y, Tensor)
            total += float(sums(run, found.y.double().numpy(), self._scale)[0].sum())
            steps += found.stats.accepted + found.stats.rejected
        return total / max(count, 1), steps, message


def _plain(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """The model on double precision, whatever it computes in."""
    dtype = trainable(model)[0].dtype
    return lambda t, y: model(t.to(dtype), y.to(dtype)).double()
