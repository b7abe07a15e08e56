"""A file of the user's own that says what to fit. It is run, because it is named as a program to run.

It is run once in each process: with ``--jobs`` and ``--beside`` in several.

It defines

- ``model``: seed -> module, func(t, y) of the components of the data; or a module, of which each training
  gets a copy, for further attempts with ``reset_parameters`` called. Or in its place
  ``network``, the widths of hidden layers or a module, with ``known`` (func(t, y) of what is known),
  ``scale`` (of the missing rates) and ``typical`` (magnitudes of the components), as
  :class:`stiffml.closures.Closure` takes them;
- perhaps ``data``: Runs, an xarray Dataset, or the name of a CSV or netCDF file beside it; ``--data`` is the
  other way. ``reading`` has further arguments of ``read_csv``, ``components`` the columns wanted, in order;
- perhaps ``fit_options``: arguments of ``stiffml.training.fit``. Those of one kind of optimizer, such as
  ``target`` or ``learning_rate``, count with it only.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from problems.own_files import OWN, ProblemFileError, blamed_on, run_file
from stiffml.cli.asked import Asked, SetUp
from stiffml.cli.tables import read_table, split

if TYPE_CHECKING:
    from stiffml.training import Runs

DEFINES = "problem, model, or network (with known and scale)"
RESERVED = ("method", "optimizer", "seed", "iterations", "folder", "resume", "report", "validate")
"""Arguments of a fit that the command line has options for, or that belong to it."""

OF_LM = ("target", "judged", "attempts", "bounds", "levenberg_marquardt", "strategy")
OF_DESCENT = ("learning_rate", "first_order")


def defines_problem(path: Path) -> bool:
    return hasattr(_module(path.absolute()), "problem")


@functools.cache
def _module(path: Path) -> ModuleType:
    """The file, run once in a process."""
    return run_file(path, DEFINES)


@dataclass(frozen=True)
class OwnModel:
    """seed -> the model of a file, in any process. ``typical`` is that of the data."""

    path: Path
    typical: tuple[float, ...]
    components: tuple[str, ...]

    def __call__(self, seed: int) -> nn.Module:
        from stiffml.closures import Closure

        module = _module(self.path)
        with blamed_on(self.path, DEFINES):
            if hasattr(module, "model"):
                found = _called(module.model, seed)
            else:
                found = Closure(
                    getattr(module, "known", None),
                    _called(module.network, seed),
                    typical=getattr(module, "typical", self.typical),
                    scale=getattr(module, "scale", None),
                    components=self.components,
                    seed=seed,
                )
        if not isinstance(found, nn.Module):
            raise ProblemFileError(
                f"{self.path}: model must be a torch.nn.Module, or a function of a seed that returns one, "
                f"not {type(found).__name__}"
            )
        return found


def _called(value: Any, seed: int) -> Any:
    """A function of the seed is called; of a module this is a copy; widths are what they are."""
    if isinstance(value, nn.Module):  # trainings change it in place, and each begins with it as it was
        return copy.deepcopy(value)
    if not callable(value):
        return value
    return value(seed) if inspect.signature(value).parameters else value()


def require_sent(model: object) -> None:
    """Raise ValueError for a module of a class of one's own file, which another process does not know."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    for one in modules:
        if type(one).__module__.startswith(OWN):
            raise ValueError(
                f"a {type(one).__name__} with attempts cannot be sent to other processes; write a function "
                f"of the seed, model = lambda seed: {type(one).__name__}(…), or leave out --jobs and --mpi"
            )


def own_set_up(asked: Asked) -> SetUp:
    """The set-up that a file defines.

    Raises
    ------
    ProblemFileError
        If it raises, or lacks something; the message says what and how to write it.
    """
    from stiffml.training.data.ranges import largest_of

    path = Path(asked.name).absolute()
    module = _module(path)
    if not hasattr(module, "model") and not hasattr(module, "network"):
        raise ProblemFileError(
            f"{path} must define {DEFINES}. Write, for example:\n"
            "    def known(t, y): ...          # dy/dt as far as it is known\n"
            "    network = [16, 16]            # hidden layers of what is missing\n"
            "    scale = 1e-3                  # of the missing rates\n"
            '    data = "lab.csv"              # or pass --data lab.csv'
        )
    runs = _data(module, path, asked)
    data, validate = split(runs, asked.hold_out)
    typical = tuple(largest_of(data.values).tolist())  # nothing of what is held out
    model = OwnModel(path, typical, tuple(runs.components))
    _try_out(model, path, data)
    options = _options(module, path)
    # Copies of a module are all alike: a fit that may begin anew gets a module, and resets its parameters.
    is_module = isinstance(getattr(module, "model", getattr(module, "network", None)), nn.Module)
    made = model(0) if is_module and options["lm"].get("attempts", 1) != 1 else model
    return SetUp(path.stem, path.stem, made, data, validate, options)


def _data(module: ModuleType, path: Path, asked: Asked) -> Runs:
    import xarray

    from stiffml.training import Runs, from_xarray

    reading, components = getattr(module, "reading", {}), getattr(module, "components", None)
    if not isinstance(reading, Mapping):
        raise ProblemFileError(f"{path}: reading must be a dict of arguments of read_csv, not {reading!r}")
    if asked.data is not None:
        return read_table(asked.data, asked.time, asked.run, components, reading)
    if not hasattr(module, "data"):
        raise ProblemFileError(f'{path} has no data: pass --data lab.csv, or define data = "lab.csv" in it')
    data = module.data
    if isinstance(data, str | Path):
        return read_table(path.parent / data, asked.time, asked.run, components, reading)
    if isinstance(data, xarray.Dataset):
        return from_xarray(data, **{"initial": "known", **reading})
    if isinstance(data, Runs):
        return data
    raise ProblemFileError(
        f"{path}: data must be Runs, an xarray Dataset or the name of a file, not {type(data).__name__}"
    )


def _options(module: ModuleType, path: Path) -> dict[str, dict[str, Any]]:
    """Those for all optimizers, and those of one kind."""
    from stiffml.training import fit
    from stiffml.training.asked import EQUATIONS, STEPPING

    options = getattr(module, "fit_options", {})
    if not isinstance(options, Mapping):
        raise ProblemFileError(f"{path}: fit_options must be a dict of arguments of fit, not {options!r}")
    for name in RESERVED:
        if name in options and name != "method":
            raise ProblemFileError(
                f"{path}: fit_options cannot have {name}; the command has an option for it"
            )
    known = [*inspect.signature(fit).parameters, *EQUATIONS, *STEPPING]
    for name in options:
        if name not in known:
            raise ProblemFileError(
                f"{path}: fit_options: fit has no argument {name!r}; it has {', '.join(known)}"
            )
    kinds: dict[str, dict[str, Any]] = {"all": {}, "lm": {}, "descent": {}}
    for name, value in options.items():
        kinds["lm" if name in OF_LM else "descent" if name in OF_DESCENT else "all"][name] = value
    return kinds


def _try_out(model: OwnModel, path: Path, data: Runs) -> None:
    """Evaluate the model once, at the first state; the file is named if that fails."""
    func, run = model(0), data[0]
    dtype = next((p.dtype for p in func.parameters()), torch.float64)
    y = torch.from_numpy(run.y0.copy()).to(dtype)
    with blamed_on(path, DEFINES), torch.no_grad():
        found = func(torch.tensor(float(run.times[0]), dtype=dtype), y)
    if not isinstance(found, torch.Tensor) or found.shape != y.shape:
        got = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise ProblemFileError(
            f"{path}: the model must return dy/dt of shape {tuple(y.shape)} for the components "
            f"{', '.join(data.components)}, not {got}"
        )
