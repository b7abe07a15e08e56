"""The folder of a fit: what was asked for, with which versions, the history, the state, what failed."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stiffml.checks import path as checked_path
from stiffml.files import require_writable, save_atomically, save_netcdf

if TYPE_CHECKING:
    import xarray

CONFIG, STATE, HISTORY, FAILURES = "fit.json", "state.pt", "history.nc", "failures.log"


class RunFolder:
    """The folder of one fit.

    Parameters
    ----------
    folder : path
        Made if it is missing.
    config : mapping of str to str or number
        What the fit depends on.
    resume : bool
        Whether to go on with the fit that the folder holds, if it holds one.

    Raises
    ------
    FileExistsError
        If it holds a fit and ``resume`` is false.
    ValueError
        If it holds another fit, or one that cannot be read.
    OSError
        If it cannot be written to.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any], resume: bool) -> None:
        self.path = checked_path("folder", folder)
        held = self._held()
        if held is not None and not resume:
            raise FileExistsError(
                f"folder: {self.path} holds a fit already; pass resume=True to go on with it, or "
                "another folder"
            )
        require_writable(self.path, "folder")
        self.resumes = held is not None
        if held is not None:
            self._require_same(held, config)
            return
        versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
        text = json.dumps({"fit": dict(config), "versions": versions}, indent=1, ensure_ascii=False)
        save_atomically(self.path / CONFIG, lambda file: file.write(text.encode()))

    def _held(self) -> dict[str, Any] | None:
        try:
            held = json.loads((self.path / CONFIG).read_text())
            return dict(held["fit"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path / CONFIG} is not of a fit ({error}); use another folder") from error

    def _require_same(self, held: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        for name in [*config, *(set(held) - set(config))]:
            if held.get(name) != config.get(name):
                raise ValueError(
                    f"folder: {self.path} holds a fit with {name} = {held.get(name)}, not "
                    f"{config.get(name)}; use another folder"
                )

    def save(self, state: Any) -> None:
        """Write a state of dicts, lists, arrays, numbers and texts."""
        save_atomically(self.path / STATE, lambda file: torch.save(_to_tensors(state), file))

    def load(self) -> Any:
        """The last state; None if none was written. Nothing in the file is executed.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        path = self.path / STATE
        if not path.exists():
            return None
        try:
            return _to_arrays(torch.load(path, weights_only=True))
        except Exception as error:  # torch raises many kinds for files that are none of its own
            raise ValueError(f"{path} is damaged and cannot be resumed from; use another folder") from error

    def finish(self, history: xarray.Dataset, failures: Sequence[object]) -> None:
        """Write the history, and the failures one a line."""
        save_netcdf(self.path / HISTORY, history)
        text = "".join(f"{' '.join(str(failure).split())}\n" for failure in failures)
        save_atomically(self.path / FAILURES, lambda file: file.write(text.encode()))


def _to_tensors(value: Any) -> Any:
    """The same with tensors in place of arrays."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: _to_tensors(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_to_tensors(one) for one in value]
    return value


def _to_arrays(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: _to_arrays(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_to_arrays(one) for one in value]
    return value
