"""Running an experiment and storing what it leaves, with what it takes to do it again."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

from stiffml.experiments.catalogue import load
from stiffml.experiments.experiment import Experiment, Form, Outcome, Report
from stiffml.extras import to_install
from stiffml.files import save_atomically, save_netcdf, save_picture
from stiffml.threads import one_thread
from stiffml.version import __version__

DATA, FINDINGS = "result.nc", "findings.json"
"""The files of a folder besides its pictures."""


def run(name: str, form: Form = "quick", folder: Path | None = None, report: Report | None = None) -> Outcome:
    """Run an experiment; store data, findings and pictures in ``folder`` if one is given.

    It runs on one thread, unless ``OMP_NUM_THREADS`` is set.

    Parameters
    ----------
    name : str
        One of ``names()``.
    form : {"quick", "medium", "full"}
        Default "quick".
    folder : Path, optional
        It is made if it is missing. Files of an earlier run are replaced.
    report : callable, optional
        Told how far the work is: ``report(done, of, what)``.

    Raises
    ------
    ValueError
        If there is no such experiment.
    ImportError
        If a package that it needs is missing.

    Examples
    --------
    >>> from stiffml import experiments
    >>> outcome = experiments.run("crnn", form="quick", folder="runs/crnn")  # doctest: +SKIP
    >>> outcome.findings  # doctest: +SKIP
    >>> experiments.FORMS
    ('quick', 'medium', 'full')
    """
    experiment = load(name)
    missing = [package for package in experiment.requires if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f"{name} needs {', '.join(missing)}: {to_install('experiments')}")
    began, cpu = time.perf_counter(), time.process_time()
    with one_thread():  # comparisons are of one thread each
        outcome = experiment.run(form, report or _silent)
    spent = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    if folder is not None:
        _store(name, experiment, form, outcome, spent, folder)
    return outcome


def _silent(done: int, of: int, what: str) -> None:
    pass


def _store(
    name: str, experiment: Experiment, form: Form, outcome: Outcome, spent: dict[str, float], folder: Path
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    origin = {"title": experiment.title, "source": experiment.source, "form": form}
    save_netcdf(folder / DATA, outcome.data.assign_attrs({**origin, **outcome.data.attrs}))
    told = {
        **origin,
        "question": experiment.question,
        "command": f"stiffml experiment {name} --form {form}",
        **spent,
        "machine": machine(experiment.requires),
        "findings": [{**asdict(finding), "met": finding.met} for finding in outcome.findings],
    }
    text = json.dumps(_plain(told), indent=1, ensure_ascii=False) + "\n"
    save_atomically(folder / FINDINGS, lambda file: file.write(text.encode()))
    for title, figure in experiment.draw(outcome.data).items():
        save_picture(folder / f"{title}.png", figure)


def _plain(value: object) -> object:
    """With None for numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not float("-inf") < value < float("inf"):
        return None
    return value


def machine(others: tuple[str, ...] = ()) -> dict[str, str | int]:
    """Where numbers were taken: processor, cores, threads, and the versions of what they depend on."""
    import torch

    packages = ("torch", "petsc4py", "numpy", "scipy", *others)
    distributions = importlib.metadata.packages_distributions()
    named = {package: distributions.get(package, [package])[0] for package in packages}
    return {
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "stiffml": __version__,
        **{package: importlib.metadata.version(name) for package, name in named.items()},
    }
