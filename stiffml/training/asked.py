"""What a fit was asked for, checked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stiffml.checks import described
from stiffml.interface.arguments import DEFAULTS
from stiffml.methods import Method, resolve
from stiffml.settings import Newton
from stiffml.steps import Adaptive, Steps
from stiffml.training.data import Runs
from stiffml.training.data.ranges import ranges_of
from stiffml.training.folder import RunFolder
from stiffml.training.lm.residuals import Residuals
from stiffml.training.lm.vector import FittedVector
from stiffml.training.recording import Recording, summary_writer
from stiffml.training.restarts import Restarts

EQUATIONS = ("linear", "jacobian", "mass", "make_consistent")
"""Further arguments of a solve that a fit takes. Solves with tight tolerances get them too."""

STEPPING = ("rtol", "atol", "newton", "compile")
"""Those of the fit's own solves: a result is solved again with tolerances of its own."""


RELATIVE, ABSOLUTE = 1e-9, 1e-10
"""Tolerances of Newton's iteration for known steps; the absolute one in units of the scale."""


@dataclass(frozen=True)
class Asked:
    """The arguments of a fit, whatever the optimizer.

    Attributes
    ----------
    equations : dict
        Arguments of a solve that are part of the equations.
    compile : bool
        Whether the model is compiled, for the fit's own solves and where it is solved again.
    known_noise : bool
        Whether residuals are in units of the noise.
    config : dict
        What a resumed fit must have been asked for too.
    """

    residuals: Residuals
    restarts: Restarts
    validate: Runs | None
    equations: dict[str, Any]
    compile: bool
    known_noise: bool
    folder: str | Path | None
    resume: bool
    config: dict[str, Any]
    save_every: int
    progress: bool
    tensorboard: bool
    report: Callable[[Any], None] | None

    def recording(self, config: Mapping[str, Any]) -> Recording:
        """How the fit is kept and shown, with its folder made, for all that it was asked for.

        Raises
        ------
        ValueError, FileExistsError, ImportError, OSError
            See :func:`stiffml.training.fit`.
        """
        for name in ("resume", "tensorboard"):
            if getattr(self, name) and self.folder is None:
                raise ValueError(f"{name} needs the folder of the fit; pass folder=…")
        if self.tensorboard:
            summary_writer()
        folder = None if self.folder is None else RunFolder(self.folder, config, self.resume)
        return Recording(folder, self.save_every, self.progress, self.tensorboard, self.report)


def require_runs(data: Any, validate: Any) -> None:
    """Raise unless data can be fitted to: runs of which something is observed, without conditions."""
    for name, runs in (("data", data), ("validate", validate)):
        if runs is None and name == "validate":
            continue
        if not isinstance(runs, Runs):
            raise TypeError(
                f"{name} must be Runs, as read_csv(path, time=…, run=…) and from_xarray(…) make them, not "
                f"{described(runs)}"
            )
        if runs.inputs or runs[0].forcing is not None:
            raise ValueError(
                f"{name}: runs have inputs or forcing, which a model func(t, y) does not see; make inputs "
                "components of the state whose derivative is 0"
            )
        for run in runs:
            if len(run) < 2:
                raise ValueError(f"{name}: run {run.name} has one time only; leave it out")
    if validate is not None and validate.components != data.components:
        raise ValueError(f"validate has components {validate.components}, data {data.components}")


def scale_of(scale: Any, data: Runs) -> tuple[np.ndarray, bool]:
    """(components,) the units of residuals, and whether these are the noise of all components."""
    if scale is None:
        known = ~np.isnan(data.noise) & (np.nan_to_num(data.noise) > 0)
        return np.where(known, data.noise, ranges_of(data.values)), bool(known.all())
    try:
        found = np.broadcast_to(np.asarray(scale, dtype=float), (len(data.components),)).copy()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"scale must be a number, or one for each of {len(data.components)} components, not "
            f"{described(scale)}"
        ) from error
    if not (np.isfinite(found) & (found > 0)).all():
        raise ValueError(f"scale must be positive and finite, not {described(scale)}")
    return found, False


def solving_arguments(
    arguments: Mapping[str, Any], method: str | Method, steps: Steps
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of the fit's own solves, and those among them that are part of the equations."""
    for name in arguments:
        if name not in EQUATIONS + STEPPING:
            known = ", ".join(EQUATIONS + STEPPING)
            if name in DEFAULTS:
                raise TypeError(f"fit does not take {name!r} of solve; it takes {known}")
            raise TypeError(f"fit: no argument {name!r}; of those of solve it takes {known}")
    equations = {name: value for name, value in arguments.items() if name in EQUATIONS}
    return {"method": method, "steps": steps, **arguments}, equations


def with_newton(solving: dict[str, Any], scale: np.ndarray, model: nn.Module) -> dict[str, Any]:
    """The arguments with tolerances for Newton's iteration that fit the scale of residuals.

    The default of known steps, 1e-10 of each component whatever its size, asks for more than rounding allows
    where a component is far below its scale. Then trajectories that exist count as lost.
    """
    known_steps = not isinstance(solving["steps"], Adaptive) and resolve(solving["method"]).newton
    double = all(p.dtype == torch.float64 for p in model.parameters())
    if "newton" in solving or not known_steps or not double:
        return solving
    return {**solving, "newton": Newton(rtol=RELATIVE, atol=torch.from_numpy(ABSOLUTE * scale))}


def bounds_of(bounds: Any, vector: FittedVector) -> tuple[np.ndarray, np.ndarray]:
    """(size,) low and high of all numbers, from bounds by the name of a parameter or of one number of it."""
    low, high = np.full(len(vector), -np.inf), np.full(len(vector), np.inf)
    if bounds is None:
        return low, high
    if not isinstance(bounds, Mapping):
        raise TypeError(f"bounds must be a mapping of names to (low, high), not {described(bounds)}")
    names = vector.names
    for key, pair in bounds.items():
        own = [i for i, name in enumerate(names) if name == key or name.rpartition("[")[0] == key]
        if not own:
            raise ValueError(f"bounds: there is no {key!r}; known are {', '.join(names[:12])}")
        try:
            least, most = (float(value) for value in pair)
        except (TypeError, ValueError) as error:
            raise ValueError(f"bounds: {key} must be (low, high), not {described(pair)}") from error
        if not least < most:
            raise ValueError(f"bounds: low must be less than high, but {key} has {least:g} and {most:g}")
        low[own], high[own] = least, most
    return low, high


def config_of(
    model: nn.Module,
    data: Runs,
    validate: Runs | None,
    solving: Mapping[str, Any],
    scale: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    """What a fit depends on, in texts and numbers."""
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    return {
        "model": f"{' '.join(_text(model).split())} {shapes}",
        "data": _digest(data),
        "validate": "none" if validate is None else _digest(validate),
        "scale": scale.tolist(),
        "seed": seed,
        **{name: _text(value) for name, value in solving.items()},
    }


def _text(value: Any) -> str:
    """As text, without the addresses of objects, which are others in each process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _digest(runs: Runs) -> str:
    digest = hashlib.sha256()
    for run in runs:
        for array in (run.times, run.values, run.weights, run.y0, run.y0_noise):
            digest.update(np.ascontiguousarray(array).tobytes())
    return f"{len(runs)} runs of {', '.join(runs.components)}, {digest.hexdigest()[:16]}"
