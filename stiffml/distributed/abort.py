"""An error that ends one process ends all of them, instead of leaving the others waiting for it."""

from __future__ import annotations

import atexit
import contextlib
import sys
import time
import traceback
import weakref
from types import TracebackType
from typing import Any, NoReturn

from stiffml.distributed.communicator import mpi
from stiffml.distributed.processes import mpi_world

INTERRUPTED = 130
"""The exit code of a program that was interrupted, by the convention of shells."""

PATIENCE = 0.5
"""Seconds in which processes that fail at the same moment print their tracebacks before all are ended."""

_code_left_with: object = None  # of the sys.exit that ends the program, because nothing caught it


class EndsAll:
    """While one of these exists, an error that ends this process ends all that ``mpiexec`` started with it.

    Without this a process that fails waits in MPI_Finalize for the others, which wait for it in some other
    collective call. Does nothing in a single process, and nothing under ``torchrun``, which ends the others
    itself. Copies are the same object, for copies of what holds it.

    Covered are: exceptions that nothing catches, KeyboardInterrupt among them, whose traceback is
    printed with the process's rank; ``sys.exit(code)`` with a code other than 0 or None, that of argparse and
    the like included, unless it is caught; and, by the launcher, signals that kill the process and
    ``os._exit``. Not covered are ``raise SystemExit(code)`` written out, of which Python tells nobody the
    code (``python -m mpi4py script.py`` sees it), and exceptions in threads, which do not end a process.

    For this ``sys.excepthook`` and ``sys.exit`` are replaced, and put back when the last of these objects is
    gone. If something else has replaced them meanwhile, that stays.
    """

    _held = 0
    _hooks: _Hooks | None = None

    def __init__(self) -> None:
        if mpi_world() is None:
            return
        # Others may have taken the place of ours since, and may not call ours: ours comes first again.
        if EndsAll._hooks is None or not EndsAll._hooks.in_place:
            if EndsAll._hooks is not None:
                EndsAll._hooks.close()
            EndsAll._hooks = _Hooks()
        EndsAll._held += 1
        weakref.finalize(self, EndsAll._close_one).atexit = False
        # Registered last, called first: before others that wait for other processes.
        atexit.unregister(_abort_if_left_by_error)
        atexit.register(_abort_if_left_by_error)

    @staticmethod
    def _close_one() -> None:
        EndsAll._held -= 1
        if EndsAll._held == 0 and EndsAll._hooks is not None:
            EndsAll._hooks.close()
            EndsAll._hooks = None

    def __copy__(self) -> EndsAll:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> EndsAll:
        return self

    def __reduce__(self) -> tuple[type[EndsAll], tuple[()]]:
        return EndsAll, ()


class _Hooks:
    """``sys.excepthook`` and ``sys.exit`` that end all processes.

    Once closed they only call those that were there before, in case somebody has kept a reference.
    """

    def __init__(self) -> None:
        self._active = True
        self._before: tuple[Any, Any] = sys.excepthook, sys.exit
        self._own = self._report_and_abort, self._exit
        sys.excepthook, sys.exit = self._own

    @property
    def in_place(self) -> bool:
        return (sys.excepthook, sys.exit) == self._own

    def close(self) -> None:
        """Put back what was there, unless others have taken its place since."""
        self._active = False
        if sys.excepthook == self._own[0]:
            sys.excepthook = self._before[0]
        if sys.exit == self._own[1]:
            sys.exit = self._before[1]

    def _report_and_abort(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if not self._active:
            self._before[0](kind, error, trace)
            return
        world = mpi_world()
        print(f"rank {world.rank} of {world.size} failed, which ends all of them:", file=sys.stderr)
        try:
            self._before[0](kind, error, trace)
        except Exception:
            traceback.print_exception(kind, error, trace)
        _abort(INTERRUPTED if issubclass(kind, KeyboardInterrupt) else 1)

    def _exit(self, status: object = None, /) -> NoReturn:
        """``sys.exit``."""
        if not self._active:
            self._before[1](status)
        raise _Exit(*(() if status is None else (status,)))


class _Exit(SystemExit):
    """A SystemExit that notices whether it ends the program.

    Python has no hook for that. But one that is caught is destroyed while the code that caught it still runs;
    one that is not is destroyed when no Python code is left.
    """

    def __del__(self) -> None:
        global _code_left_with
        try:
            sys._getframe(1)
        except ValueError:
            _code_left_with = self.code


def _abort_if_left_by_error() -> None:
    code = _code_left_with
    if code is None or code == 0:
        return
    world = mpi_world()
    number = code if isinstance(code, int) else 1
    print(f"rank {world.rank} of {world.size} exits with {number}, which ends all of them", file=sys.stderr)
    _abort(number)


def _abort(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or a pipe that nobody reads
            stream.flush()
    if not mpi().Is_finalized():
        time.sleep(PATIENCE)
        mpi().COMM_WORLD.Abort(code)
