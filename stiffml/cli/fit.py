"""``stiffml fit``: fit a model to data, of a problem of the library or of one's own file."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from stiffml.cli.asked import Asked, SetUp
from stiffml.cli.beside import Beside, Curve
from stiffml.cli.options import Data, HoldOut, Learn, Name, Noise, Points, Run, Time
from stiffml.cli.screen import Settings, Size, Work, console, errors, explained

if TYPE_CHECKING:
    from stiffml.training import Result

SHOWN = 8
"""Constants with their intervals in the table."""


def fit(
    name: Name,
    learn: Learn = None,
    data: Data = None,
    time_column: Time = None,
    run: Run = None,
    method: Annotated[
        str | None, typer.Option(help="Time stepping method. Default: as suits the model.")
    ] = None,
    optimizer: Annotated[
        str, typer.Option(help="lm: Levenberg-Marquardt. adam, adamw: results vary between seeds.")
    ] = "lm",
    seed: Annotated[int, typer.Option(min=0, help="Of the initial weights.")] = 0,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="In all, of adam and adamw; lm ends by itself. Default 1000.")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(min=0, help="Of lm; then the best so far counts.")
    ] = None,
    points: Points = 40,
    noise: Noise = 0.0,
    hold_out: HoldOut = 0.25,
    settings: Settings = None,
    size: Size = None,
    beside: Annotated[
        bool | None,
        typer.Option(help="Beside lm AdamW for the same time, to compare. Default: for robertson."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for weights, netCDF files and the figure. Default runs/NAME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the fit in the folder.")] = False,
) -> None:
    """Fit constants or networks to data: of any problem, or of your own file."""
    from stiffml.cli.pictures import picture
    from stiffml.cli.setups import set_up, warned_as_asked
    from stiffml.files import require_writable, save_picture, take_back

    with explained():
        if optimizer == "lm" and iterations is not None:
            raise ValueError(
                "--iterations is for first-order optimizers; lm ends by itself, or --max-seconds"
            )
        asked = Asked(
            name, tuple(settings or ()), size, learn, data, time_column, run, points, noise, 0, hold_out
        )
        folder = Path("runs", Path(name).stem) if out is None else out
        changes = {} if method is None else _with_method(method)
        made = require_writable(folder, "--out")
        wanted = optimizer == "lm" and (name == "robertson" if beside is None else beside)
        with Beside(asked, seed, changes) if wanted else nullcontext() as other:
            try:
                chosen = set_up(asked)
                arguments = {**chosen.of(optimizer), **changes}
                arguments |= {} if iterations is None else {"iterations": iterations}
                arguments |= {} if max_seconds is None else {"max_seconds": max_seconds}
                clock = Clock(None if other is None else other.end_at)
                _import_meanwhile("xarray", "stiffml.plotting")
                with warned_as_asked(chosen):
                    result = _fitted(chosen, folder, optimizer, seed, resume, arguments, clock)
                seconds = clock.end()
            except BaseException:
                take_back(made)
                raise
            _write(folder, chosen, result)
            curve = None if other is None else _waited_for(other, seconds)
        save_picture(folder / "fit.png", picture(chosen, result, seconds, curve))
    console.print(_table(chosen, result, optimizer, seed, seconds, folder, curve))


class Clock:
    """CPU seconds from now to the end of a fit, which is before its figures; ``told`` is called with them."""

    def __init__(self, told: Callable[[float], None] | None) -> None:
        self._began, self._told = time.process_time(), told
        self._seconds: float | None = None

    def end(self) -> float:
        """The seconds until it was called first."""
        if self._seconds is None:
            self._seconds = time.process_time() - self._began
            if self._told is not None:
                self._told(self._seconds)
        return self._seconds


def _import_meanwhile(*names: str) -> None:
    """Import what results need in a thread, while this one waits for a compiler."""

    def load() -> None:
        for name in names:
            importlib.import_module(name)

    threading.Thread(target=load, daemon=True).start()


def _with_method(method: str) -> dict[str, Any]:
    """Explicit methods with an error estimate adapt their steps, also where the others do not."""
    from stiffml.methods import resolve
    from stiffml.steps import Adaptive

    known = resolve(method)
    explicit = known.adaptive and not known.implicit
    return {"method": method, **({"steps": Adaptive()} if explicit else {})}


def _waited_for(other: Beside, seconds: float) -> Curve | None:
    with errors.status(f"AdamW for the same time, {seconds:.0f} s"):
        return other.curve()


def _fitted(
    chosen: SetUp,
    folder: Path,
    optimizer: str,
    seed: int,
    resume: bool,
    arguments: dict[str, Any],
    clock: Clock,
) -> Result:
    from stiffml import training

    total = arguments.get("iterations", 1000) if optimizer != "lm" else None
    with Work("fitting", total) as work:

        def report(now: Any) -> None:
            row = now.rows[-1]
            note = f"error {row.error:.1e}" if hasattr(row, "error") else f"loss {row.loss:.1e}"
            work.update(len(now.rows), note=note)
            if now.outcome:
                clock.end()

        try:
            return training.fit(
                chosen.model,
                chosen.data,
                optimizer=optimizer,
                seed=seed,
                folder=folder,
                resume=resume,
                report=report,
                **arguments,
            )
        except FileExistsError:
            raise FileExistsError(
                f"{folder} holds a fit already; pass --resume to go on with it, or another --out"
            ) from None


def _write(folder: Path, chosen: SetUp, result: Result) -> None:
    import torch

    from stiffml.cli.pictures import trajectory
    from stiffml.files import save_atomically, save_netcdf

    weights = result.model.state_dict()
    save_atomically(folder / "weights.pt", lambda file: torch.save(weights, file))
    save_netcdf(folder / "history.nc", result.history)
    save_netcdf(folder / "trajectory.nc", trajectory(chosen, result))


def _table(
    chosen: SetUp,
    result: Result,
    optimizer: str,
    seed: int,
    seconds: float,
    folder: Path,
    other: Curve | None,
) -> Table:
    count, anew = result.history.sizes["iteration"], len(result.attempts) - 1
    table = Table("fit", escape(chosen.title))
    again = f", begun anew {anew} times" if anew > 0 else ""
    table.add_row("optimizer", f"{optimizer}, seed {seed}, {count} iterations{again}, {seconds:.1f} s of CPU")
    table.add_row("ended", escape(result.outcome))
    table.add_row("mean error along its own steps", f"{result.error:.1e}")
    table.add_row("solved again, fitted to", f"{result.report(result.data).mean:.1e}")
    if chosen.validate is not None:
        table.add_row("solved again, held out", f"{result.report(chosen.validate).mean:.1e}")
    if other is not None:
        table.add_row("AdamW after the same time", f"{other.error[-1]:.1e}")
    table.add_row("failed solves on the way", str(len(result.failures)))
    for row in _constants(result):
        table.add_row(*row)
    table.add_row("results", str(folder))
    return table


def _constants(result: Result) -> list[tuple[str, str]]:
    """Fitted constants of a problem, with their 95 % intervals."""
    from problems.learning import Constants

    model = result.model
    if not isinstance(model, Constants) or sum(p.numel() for p in model.parameters()) > SHOWN:
        return []
    import numpy as np

    found = []
    intervals = result.covariance.intervals() if result.covariance is not None else {}
    values = model.values()
    for name in model.names:
        value = float(values[name].detach())
        key = f"logarithms.{name}" if name in model.logarithms else f"numbers.{name}"
        low, high = intervals.get(key, (float("nan"), float("nan")))
        if name in model.logarithms:
            with np.errstate(over="ignore"):
                low, high = float(np.exp(low)), float(np.exp(high))
        within = f" ({low:.4g} to {high:.4g})" if low == low else ""
        found.append((escape(name), f"{value:.6g}{within}"))
    return found
