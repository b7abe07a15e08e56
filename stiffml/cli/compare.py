"""``stiffml compare``: the same training with several methods, optimizers and seeds."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from stiffml.cli.asked import Asked
from stiffml.cli.options import Data, HoldOut, Learn, Name, Noise, Points, Run, Time
from stiffml.cli.screen import Settings, Size, Work, console, explained
from stiffml.extras import to_install


def compare(
    name: Name,
    methods: Annotated[str, typer.Option(help="Time stepping methods, comma separated.")] = "cn,dopri5",
    optimizers: Annotated[str, typer.Option(help="lm, adam, adamw, comma separated.")] = "lm,adamw",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Of CPU, of each training. Default 60, unless --iterations.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Of each training.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes of this machine.")] = 1,
    mpi: Annotated[
        bool,
        typer.Option("--mpi", help="All processes of mpiexec -n 4 stiffml compare … --mpi"),
    ] = False,
    learn: Learn = None,
    data: Data = None,
    time_column: Time = None,
    run: Run = None,
    points: Points = 40,
    noise: Noise = 0.0,
    hold_out: HoldOut = 0.25,
    rtol: Annotated[float | None, typer.Option(min=0, help="Of adaptive steps in the trainings.")] = None,
    settings: Settings = None,
    size: Size = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for trainings and report. Default runs/compare-NAME.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the comparison in the folder.")
    ] = False,
) -> None:
    """The same training with several methods and optimizers; a table, figures, netCDF and a page.

    Each training has a time that should be long enough: what is hardly trained is not stiff, and explicit
    methods are the fastest then. Trainings that have ended are not done again with --resume.
    """
    from stiffml import training
    from stiffml.cli.own_file import require_sent
    from stiffml.cli.setups import set_up, warned_as_asked
    from stiffml.files import require_writable, take_back
    from stiffml.training.comparing.comparison import REPORT

    with explained(), ExitStack() as stack:
        pool = stack.enter_context(_pool()) if mpi else None
        if mpi and pool is None:  # this process has done what it was given
            return
        asked = Asked(
            name, tuple(settings or ()), size, learn, data, time_column, run, points, noise, 0, hold_out
        )
        folder = Path("runs", f"compare-{Path(name).stem}") if out is None else out
        made = require_writable(folder, "--out")
        stack.callback(take_back, made)  # it holds something unless this fails at once
        chosen = set_up(asked)
        if jobs > 1 or pool is not None:
            require_sent(chosen.model)
        stack.enter_context(warned_as_asked(chosen))
        optimizing = [one.strip() for one in optimizers.split(",")]
        common, steps = _common(chosen.arguments.get("all", {}))
        own: dict[str, dict[str, Any]] = {one: _without(chosen.of(one), common) for one in optimizing}
        budget = 60.0 if seconds is None and iterations is None else seconds
        work = stack.enter_context(Work("training"))

        def report(done: int, of: int, label: str) -> None:
            work.update(done, of, label)

        try:
            found = training.compare(
                chosen.model,
                chosen.data,
                validate=chosen.validate,
                methods=[method.strip() for method in methods.split(",")],
                optimizers=own,
                seeds=seeds,
                iterations=iterations,
                seconds=budget,
                steps=steps,
                jobs=jobs,
                executor=pool,
                folder=folder,
                resume=resume,
                report=report,
                **common,
                **({} if rtol is None else {"rtol": rtol}),
            )
        except FileExistsError:
            raise FileExistsError(
                f"{folder} holds a comparison already; pass --resume to go on with it, or another --out"
            ) from None
    console.print(found.table())
    console.print(f"results: {folder / REPORT}", highlight=False)


def _common(arguments: Any) -> tuple[dict[str, Any], Any]:
    """What holds for all methods, without method and steps, which are what is compared."""
    from stiffml.steps import Adaptive

    common = {name: value for name, value in arguments.items() if name not in ("method", "steps")}
    steps = arguments.get("steps")
    return common, steps if isinstance(steps, Adaptive) else None


def _without(arguments: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in arguments.items()
        if name not in common and name not in ("method", "steps")
    }


def _pool() -> Any:
    """All processes of mpiexec, which work for the first; they have imported all that is collective."""
    try:
        from mpi4py.futures import MPICommExecutor
    except ImportError as error:
        raise ImportError(f"--mpi needs mpi4py ({error}): {to_install('mpi')}") from error
    return MPICommExecutor()
