"""Errors of the learned field at times not fitted to, and what a gradient costs by size and processes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray
from matplotlib.figure import Figure as AnyFigure

from stiffml import GMRES, Assembled
from stiffml.experiments.experiment import Experiment, Finding, Form, Outcome, Report
from stiffml.experiments.reaction_diffusion.matching import match_rates
from stiffml.experiments.reaction_diffusion.model import SPAN, Model, gray_scott
from stiffml.experiments.reaction_diffusion.windows import fit_windows
from stiffml.plotting import DATA, Figure, series, styled

ERROR = 0.02
AGREE = 1e-5
"""Relative difference of losses and gradients by processes: multigrid differs, and what it leaves."""

MISSED = "the network is not near enough: see the misfit of its rates, whose errors add up in time"
MATCHED, FITTED = "rates matched", "rates matched, then windows fitted, seed 0"
ADDS = (
    "matched rates leave little to windows, which serve to show gradients through multigrid; few iterations, "
    "as each takes seconds"
)

PATIENCE = 600.0
"""Seconds for the processes."""


@dataclass(frozen=True)
class Size:
    """Points along an axis; the last time of the data and of all; seeds; iterations; sizes that are timed."""

    points: int = 64
    data_end: float = 400.0
    end: float = 600.0
    spacing: float = 4.0
    seeds: int = 3
    rates: int = 100
    windows: int = 2
    length: int = 5
    iterations: int = 3
    timed: tuple[int, ...] = (16, 32, 64, 128)
    timed_by_two: tuple[int, ...] = (16, 32)


SIZES: Mapping[Form, Size] = {
    "quick": Size(16, 40.0, 60.0, 4.0, 1, 5, 1, 2, 1, (8, 16), ()),
    "medium": Size(32, 200.0, 300.0, 4.0, 1, 50, 2, 5, 2, (16, 32), (16,)),
    "full": Size(),
}


def run(form: Form, report: Report) -> Outcome:
    size = SIZES[form]
    times = torch.arange(0, size.data_end + size.spacing / 2, size.spacing, dtype=torch.float64)
    others = torch.linspace(0, size.end, 13, dtype=torch.float64) + size.spacing / 2  # none of the data's
    every = torch.cat([times, others]).unique()
    with torch.no_grad():
        exact = (
            gray_scott(size.points)
            .solve(every, method="bdf3", rtol=1e-7, atol=1e-9, linear=GMRES(Assembled()))
            .y
        )
    seen, unseen = exact[torch.isin(every, times)], exact[torch.isin(every, others)]
    parts = size.seeds + 3
    report(1, parts, "data")

    models = [Model(size.points, seed) for seed in range(size.seeds)]
    left, fields, spent = [], [], {"rates": 0.0}
    for seed, model in enumerate(models):
        began = time.process_time()
        left.append(match_rates(model, seen, size.spacing, size.rates))
        spent["rates"] = max(spent["rates"], time.process_time() - began)
        fields.append(solved(model, seen[0], others))
        report(2 + seed, parts, f"rates, seed {seed}")
    began, model = time.process_time(), models[0]
    losses = fit_windows(model, seen, times, size.windows, size.length, size.iterations)
    spent["windows"] = time.process_time() - began
    found = solved(model, seen[0], others)
    report(parts - 1, parts, "windows")

    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.pt")
        torch.save(model.network.state_dict(), weights)
        costs = {1: on_processes(1, weights, size.timed)}
        if size.timed_by_two:
            costs[2] = on_processes(2, weights, size.timed_by_two)
    report(parts, parts, "processes")

    errors = {
        MATCHED: np.stack([relative(one, unseen) for one in fields]),
        FITTED: relative(found, unseen)[None],
    }
    inside = (others <= size.data_end).numpy()
    findings = errors_found(errors, inside, form, left, losses, spent) + costs_found(costs)
    data = dataset(errors, others.numpy(), costs, unseen.numpy(), found.numpy(), size)
    return Outcome(data, tuple(findings))


def solved(model: Model, y0: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Fields (times, 2, n, n), with tight tolerances, from time 0 on."""
    with torch.no_grad():
        return model.solved(y0, torch.cat([times.new_zeros(1), times]), rtol=1e-6)[1:]


def relative(found: torch.Tensor, exact: torch.Tensor) -> np.ndarray:
    """(times, 2) root mean square over the points of the error, relative to that of u or v."""
    return ((found - exact).square().mean((-1, -2)) / exact.square().mean((-1, -2))).sqrt().numpy()


def on_processes(count: int, weights: Path, sizes: tuple[int, ...]) -> list[dict[str, float]]:
    """What ``model.py`` prints, run on so many processes."""
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if count > 1 and mpiexec is None:
        raise RuntimeError("mpiexec is missing; it comes with mpi4py's MPI")
    launcher = [] if count == 1 else [str(mpiexec), "-n", str(count)]
    script = [sys.executable, "-m", "stiffml.experiments.reaction_diffusion.model", str(weights)]
    asked = [*launcher, *script, *map(str, sizes)]
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(asked, env=threads, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        raise RuntimeError(f"{count} processes ended with {done.returncode}: {done.stderr[-500:]}")
    rows: list[dict[str, float]] = json.loads(done.stdout.strip().splitlines()[-1])
    return rows


def errors_found(
    errors: Mapping[str, np.ndarray],
    inside: np.ndarray,
    form: Form,
    left: list[float],
    losses: list[float],
    spent: Mapping[str, float],
) -> list[Finding]:
    bound = ERROR if form == "full" else None
    differs = "" if form == "full" else "a smaller field, a shorter time"
    findings = []
    for name, one in errors.items():
        of = f"{name}, the worst of {len(one)} seeds" if len(one) > 1 else name
        for where, rows in (("within the time of the data", inside), ("after it", ~inside)):
            what = f"largest error of u or v, relative, at unseen times {where}: {of}"
            worst = float(one[:, rows].max())
            why = [differs, ADDS if name == FITTED else ""]
            if bound is not None and not worst <= bound:
                why.append(MISSED)
            findings.append(Finding(what, worst, at_most=bound, differs="; ".join(filter(None, why))))
    return [
        *findings,
        Finding("misfit of rates after matching, relative, the largest", max(left)),
        Finding("loss of windows: the least over the first", min(losses) / losses[0]),
        Finding("time to match rates, the longest", spent["rates"], units="s"),
        Finding("time to fit windows", spent["windows"], units="s"),
    ]


def costs_found(costs: Mapping[int, list[dict[str, float]]]) -> list[Finding]:
    findings = []
    for row in costs[1]:
        what = f"CPU time of a solve and its gradient over {SPAN:g}, {row['size']}² points, 1 process"
        findings.append(Finding(what, row["cpu_s"], units="s"))
    for row in costs.get(2, []):
        one = next(other for other in costs[1] if other["size"] == row["size"])
        off = max(abs(row[name] / one[name] - 1) for name in ("loss", "gradient"))
        findings += [
            Finding(f"2 processes beside 1, {row['size']}² points: loss and gradient", off, at_most=AGREE),
            Finding(
                f"2 processes beside 1, {row['size']}² points: wall time over wall time",
                row["wall_s"] / one["wall_s"],
                differs="needs two idle cores, which a shared machine has not: processes that wait are busy",
            ),
        ]
    return findings


def dataset(
    errors: Mapping[str, np.ndarray],
    times: np.ndarray,
    costs: Mapping[int, list[dict[str, float]]],
    exact: np.ndarray,
    found: np.ndarray,
    size: Size,
) -> xarray.Dataset:
    sizes = [int(row["size"]) for row in costs[1]]
    cpu = np.full((len(costs), len(sizes)), np.nan)
    for i, rows in enumerate(costs.values()):
        for row in rows:
            cpu[i, sizes.index(int(row["size"]))] = row["cpu_s"]
    last = np.stack([exact[-1], found[-1]])
    about = {"units": "1"}
    return xarray.Dataset(
        {
            "error": (
                ("seed", "time", "species"),
                errors[MATCHED],
                {"long_name": "root mean square error over the field, relative", **about},
            ),
            "error_fitted": (
                ("time", "species"),
                errors[FITTED][0],
                {"long_name": "the same after windows, of seed 0", **about},
            ),
            "cpu": (
                ("processes", "size"),
                cpu,
                {"long_name": "CPU time of a solve and its gradient, of one process", "units": "s"},
            ),
            "field": (
                ("model", "species", "x", "y"),
                last.astype(np.float32),
                {"long_name": "u and v at the last time", **about},
            ),
        },
        coords={
            "seed": list(range(size.seeds)),
            "time": ("time", times, {"units": "1"}),
            "species": ["u", "v"],
            "processes": list(costs),
            "size": sizes,
            "model": ["Gray-Scott", "network"],
        },
        attrs={
            "data": f"snapshots every {size.spacing:g} to t = {size.data_end:g} of {size.points}² points",
            "seeds": f"networks 0 to {size.seeds - 1}, points at which rates are compared 0",
            "data_end": size.data_end,
        },
    )


def draw(data: xarray.Dataset) -> dict[str, AnyFigure]:
    with styled():
        figure = Figure(figsize=(9.6, 3.4))
        left, right = figure.subplots(1, 2)
        of = f"worst of {data.sizes['seed']} seeds" if data.sizes["seed"] > 1 else "seed 0"
        shown = {of: data["error"].max("seed"), "seed 0, windows too": data["error_fitted"]}
        for number, (name, species) in enumerate(itertools.product(shown, data["species"].values)):
            one = shown[name].sel(species=species)
            left.semilogy(data["time"], one, label=f"{species}, {name}", **series(number))
        left.axhline(ERROR, color=DATA, lw=1, ls="--")
        left.axvline(data.attrs["data_end"], color=DATA, lw=1, ls=":")
        left.set(xlabel="time", ylabel="error of the field, relative", title="unseen times; data end at dots")
        left.legend(fontsize=7)
        for number, count in enumerate(data["processes"].values):
            cpu = data["cpu"].sel(processes=count)
            right.loglog(data["size"] ** 2 * 2, cpu, label=f"{count}", **series(number))
        right.set(xlabel="unknowns", ylabel="CPU time of each process [s]", title="a solve and its gradient")
        right.legend(title="processes", fontsize=8)
        fields = Figure(figsize=(9.6, 3.1))
        panels = fields.subplots(1, 3)
        v = data["field"].sel(species="v")
        images = [*(v.sel(model=name) for name in data["model"].values), v[1] - v[0]]
        titles = ("v, Gray-Scott", "v, network", "difference")
        for panel, image, title in zip(panels, images, titles, strict=True):
            mesh = panel.imshow(image, origin="lower", cmap="viridis")
            fields.colorbar(mesh, ax=panel, shrink=0.8)
            panel.grid(visible=False)
            panel.set(title=title, xlabel="y [points]", ylabel="x [points]")
        fields.suptitle(f"t = {float(data['time'][-1]):g}")
    return {"errors": figure, "field": fields}


EXPERIMENT = Experiment(
    title="The reaction of a field, learned at every point",
    question=(
        "With the diffusion known, is the reaction of a pattern learned by a network so well that the "
        "pattern is right at other and later times; and what does a gradient cost, by size and processes?"
    ),
    source="J. E. Pearson, Science 261 (1993) 189 (the reaction); sizes of this experiment's own",
    run=run,
    draw=draw,
    requires=("mpi4py",),
)
