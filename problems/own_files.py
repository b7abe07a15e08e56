"""Runs a file of the user's own, and names its lines where it is wrong."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

OWN = "_problem_file_"
"""How the names of modules begin that such files are."""


class ProblemFileError(ValueError):
    """A file raised an error or lacks what it must define; ``__cause__`` is the error it raised."""


def run_file(path: Path, defines: str) -> ModuleType:
    """Run a Python file and return it as a module.

    Parameters
    ----------
    path : Path
    defines : str
        What it must define, for messages.

    Raises
    ------
    FileNotFoundError
    ProblemFileError
        If it raises; the message has the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    # Dataclasses look up their module in sys.modules while the file runs. No other module has this name.
    name = f"{OWN}{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    with blamed_on(path, defines):
        spec.loader.exec_module(module)
    return module


@contextmanager
def blamed_on(path: Path, defines: str) -> Iterator[None]:
    """Turn what a file raises into a ProblemFileError that names the file and the line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _is(frame, path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{path}, line {line}" if line else f"{path}"
        what = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ProblemFileError(
            f"{where}: {type(error).__name__}: {what}. The file must run, and define {defines}"
        ) from error


def _is(frame: traceback.FrameSummary, path: Path) -> bool:
    return Path(frame.filename) in (path, path.absolute())
