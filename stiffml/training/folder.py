"""The folder of a fit: what was asked for, with which versions, the history, the state, what failed.

A state is replaced by renaming a complete file, and the one before is kept beside it. Each has a checksum: of
a file with one wrong byte torch may read wrong numbers without a word.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stiffml.checks import path as checked_path
from stiffml.files import require_writable, save_atomically, save_netcdf

if TYPE_CHECKING:
    import xarray

CONFIG, STATE, BEFORE, DAMAGED = "fit.json", "state.pt", "state.before.pt", "state.damaged.pt"
HISTORY, FAILURES, FIGURES = "history.nc", "failures.log", "figures"


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
        If it holds another fit, one by other versions, or one that cannot be read.
    OSError
        If it cannot be written to.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any], resume: bool) -> None:
        self.path = checked_path("folder", folder)
        config = json.loads(json.dumps(dict(config)))  # as it will be read: tuples are lists
        held = self._held()
        if held is not None and not resume:
            raise FileExistsError(
                f"folder: {self.path} holds a fit already; pass resume=True to go on with it, or "
                "another folder"
            )
        if held is None and (self.path / STATE).exists():
            raise FileExistsError(
                f"folder: {self.path} holds {STATE} without {CONFIG}, of something else; use another folder"
            )
        require_writable(self.path, "folder")
        self.resumes = held is not None
        if held is not None:
            self._require_same(held["fit"], config, "use another folder")
            versions = "its numbers would not be those of one fit; use these versions, or another folder"
            self._require_same(held["versions"], versions_used(), versions)
            self._clean()
            return
        text = json.dumps({"fit": config, "versions": versions_used()}, indent=1, ensure_ascii=False)
        save_atomically(self.path / CONFIG, lambda file: file.write(text.encode()))

    def _held(self) -> dict[str, dict[str, Any]] | None:
        try:
            held = json.loads((self.path / CONFIG).read_text())
            return {name: dict(held[name]) for name in ("fit", "versions")}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path / CONFIG} is not of a fit ({error}); use another folder") from error

    def _require_same(self, held: Mapping[str, Any], config: Mapping[str, Any], advice: str) -> None:
        for name in [*config, *(set(held) - set(config))]:
            if held.get(name) != config.get(name):
                raise ValueError(
                    f"folder: {self.path} holds a fit with {name} = {held.get(name)}, not "
                    f"{config.get(name)}; {advice}"
                )

    def _clean(self) -> None:
        """Remove what a kill has left in the middle of writing."""
        for name in (CONFIG, STATE, HISTORY, FAILURES):
            for path in self.path.glob(f".{name}.*"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def save(self, state: Any) -> None:
        """Write a state of dicts, lists, tensors, numbers and texts; the last one stays beside it."""
        content = io.BytesIO()
        torch.save(state, content)
        data = content.getvalue()
        packed = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "state": torch.frombuffer(bytearray(data), dtype=torch.uint8),
        }
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.path / STATE, self.path / BEFORE)
        save_atomically(self.path / STATE, lambda file: torch.save(packed, file))

    def load(self) -> Any:
        """The last state that is undamaged; None if none was written. Nothing in the files is executed.

        Warns, and says in the log of failures, if the last one is damaged and the one before is taken.

        Raises
        ------
        ValueError
            If there is no undamaged one.
        """
        problems = []
        for path in (self.path / STATE, self.path / BEFORE):
            try:
                state = _read(path)
            except FileNotFoundError:
                continue
            except ValueError as error:
                problems.append(str(error))
                continue
            if problems:
                # Out of the way: the next state must not push the good one out.
                os.replace(self.path / STATE, self.path / DAMAGED)
                text = f"{problems[0]}, and now {DAMAGED}; going on from the state before, {path}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
            return state
        if problems:
            raise ValueError(
                f"{' and '.join(problems)}. There is no other state to resume from: use another folder"
            )
        return None

    def write(self, history: xarray.Dataset, failures: Sequence[object]) -> None:
        """Write the history, and the failures one a line."""
        save_netcdf(self.path / HISTORY, history)
        text = "".join(f"{' '.join(str(failure).split())}\n" for failure in failures)
        save_atomically(self.path / FAILURES, lambda file: file.write(text.encode()))


def versions_used() -> dict[str, str]:
    """Of what numbers depend on."""
    names = ("stiffml", "torch", "numpy", "scipy", "petsc4py")
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _read(path: Path) -> Any:
    """The state in a file; ValueError if it is damaged."""
    data = path.read_bytes()
    try:
        packed = torch.load(io.BytesIO(data), weights_only=True)
        held = packed["state"].numpy().tobytes()
        if hashlib.sha256(held).hexdigest() != packed["sha256"]:
            raise ValueError("its checksum is wrong")
        return torch.load(io.BytesIO(held), weights_only=True)
    except Exception as error:  # torch raises many kinds for files that are none of its own
        why = " ".join(str(error).split())[:100]
        raise ValueError(f"{path} is damaged ({why})") from error


def to_tensors(value: Any) -> Any:
    """The same with tensors in place of arrays."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: to_tensors(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_tensors(one) for one in value]
    return value


def to_arrays(value: Any) -> Any:
    """The same with arrays in place of tensors."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: to_arrays(one) for key, one in value.items()}
    if isinstance(value, list):
        return [to_arrays(one) for one in value]
    return value
