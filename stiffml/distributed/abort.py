"""What goes wrong on one process is an error on all of them, instead of leaving the others waiting for it."""

from __future__ import annotations

import atexit
import contextlib
import math
import sys
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from stiffml.distributed.communicator import mpi
from stiffml.distributed.processes import mpi_world, processes
from stiffml.errors import SolveError

INTERRUPTED = 130
"""The exit code of a program that was interrupted, as shells have it."""

PATIENCE = 0.5
"""Seconds in which processes that fail at the same moment print their tracebacks before all are ended."""

SAME = 1e-5
"""By how much what is the same on all ranks may differ, relative to its size: not all processors agree."""

CHUNK = 1_000_000
"""Numbers of a tensor that are compared in one go."""

Result = TypeVar("Result")


class EnsembleError(RuntimeError):
    """Other ranks failed, or the ranks did not do the same.

    Attributes
    ----------
    ranks : tuple of int
        Which, as far as known.
    """

    def __init__(self, message: str, ranks: Iterable[int]) -> None:
        super().__init__(message)
        self.ranks = tuple(ranks)


class _SolveErrorElsewhere(EnsembleError, SolveError):
    """Solves failed on other ranks: whoever catches SolveError in order to go on does so on every rank.

    Its attributes are those of the first; ``component`` counts the samples of that rank's share.
    """

    def __init__(self, message: str, ranks: Iterable[int], solve: Mapping[str, Any]) -> None:
        RuntimeError.__init__(self, message)
        vars(self).update(solve, solution=None, ranks=tuple(ranks))


@dataclass(frozen=True)
class _Report:
    """What a rank tells the others of its part."""

    call: str
    who: str
    given: dict[str, tuple]
    result: object = None
    error: str | None = None
    solve: dict[str, Any] | None = None  # the attributes of a SolveError

    @classmethod
    def of_error(cls, error: Exception, **common: Any) -> _Report:
        solve = None
        if isinstance(error, SolveError):
            solve = {name: getattr(error, name) for name in ("status", "t", "h", "component", "hint")}
        return cls(**common, error=f"{type(error).__name__}: {error}", solve=solve)


def together(
    call: str,
    who: str,
    given: Mapping[str, Tensor | None],
    work: Callable[[], Result],
    describe: Callable[[Result], object],
) -> tuple[Result, list[Any]]:
    """Do this rank's part of what all do together. Collective.

    Parameters
    ----------
    call : str
        What is done.
    who : str
        This rank, and its part, for messages.
    given : mapping of str to Tensor
        What every rank must have been given alike.
    work : callable
        Does this rank's part, without collective calls.
    describe : callable
        What the others must know of its result: a small object.

    Returns
    -------
    result
        This rank's.
    descriptions : list
        Of every rank's, by rank.

    Raises
    ------
    Exception
        Whatever ``work`` raises on this rank, unchanged.
    EnsembleError
        If it raises on others, or if the ranks do not do the same.
    """
    common: dict[str, Any] = {"call": call, "who": who, "given": {}}
    failed: Exception | None = None
    try:
        common["given"] = {name: _gist(tensor) for name, tensor in given.items()}
        result = work()
        report = _Report(**common, result=describe(result))
    except Exception as error:
        failed, report = error, _Report.of_error(error, **common)
    try:
        reports: list[Any] = processes().exchange(report)
    except RuntimeError as error:
        message = f"{call}: another rank has ended, or cannot be reached"
        raise EnsembleError(message, ()) from failed or error
    if failed is not None:
        try:
            raise failed
        finally:
            del failed  # which holds this frame, which would hold it
    _require_same_call(reports)
    _require_success(call, reports)
    _require_same_given(reports)
    return result, [report.result for report in reports]


def _require_same_call(reports: Sequence[Any]) -> None:
    calls = [report.call if isinstance(report, _Report) else str(report) for report in reports]
    for rank, call in enumerate(calls):
        if call != calls[0]:
            raise EnsembleError(
                f"rank 0 is at {calls[0]}, rank {rank} at {call}: all ranks must call forward and backward "
                "equally often and in the same order",
                (0, rank),
            )


def _require_success(call: str, reports: Sequence[_Report]) -> None:
    ranks = [rank for rank, report in enumerate(reports) if report.error is not None]
    if not ranks:
        return
    first = reports[ranks[0]]
    message = f"{call}: {first.who} failed with {first.error}"
    if len(ranks) > 1:
        message += f" (and {', '.join(reports[rank].who for rank in ranks[1:])})"
    if first.solve is not None and all(reports[rank].solve is not None for rank in ranks):
        raise _SolveErrorElsewhere(message, ranks, first.solve)
    raise EnsembleError(message, ranks)


def _require_same_given(reports: Sequence[_Report]) -> None:
    first = reports[0].given
    for rank, report in enumerate(reports):
        for name in first | report.given:
            if not _alike(first.get(name), report.given.get(name)):
                raise EnsembleError(
                    f"{name} is not the same on rank 0 and rank {rank}: every rank must be given the whole "
                    "batch, compute the same loss from it, and make the same updates. Seed random numbers "
                    "alike on all ranks, and use no sampler that splits the data",
                    (0, rank),
                )


def _gist(tensor: Tensor | None) -> tuple:
    """Enough of a tensor to tell it from another."""
    if tensor is None:
        return ()
    values = tensor.detach()
    values = (torch.view_as_real(values) if values.is_complex() else values).double().reshape(-1)
    # To notice another order.
    weights = torch.linspace(1, 2, min(len(values), CHUNK), dtype=torch.float64, device=values.device)
    weighted = sum((weights[: len(chunk)] @ chunk).item() for chunk in values.split(CHUNK))
    kind = (tuple(tensor.shape), str(tensor.dtype), tensor.requires_grad)
    return *kind, values.norm().item(), weighted, math.sqrt(len(values))


def _alike(a: tuple | None, b: tuple | None) -> bool:
    if not a or not b or a[:3] != b[:3]:
        return a == b
    (norm, sum_, root), (other_norm, other_sum, _) = a[3:], b[3:]
    if not math.isfinite(norm) or not math.isfinite(other_norm):
        return math.isfinite(norm) == math.isfinite(other_norm)
    size = max(norm, other_norm)
    return abs(norm - other_norm) <= SAME * size and abs(sum_ - other_sum) <= SAME * size * root


_code_left_with: object = None  # of the sys.exit that nothing caught


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

    For this ``sys.excepthook`` and ``sys.exit`` are replaced, and put back when the last of these is gone.
    What has replaced them in its turn meanwhile is left there.
    """

    _held = 0
    _hooks: _Hooks | None = None

    def __init__(self) -> None:
        if mpi_world() is None:
            return
        # One that was put in its place since then may call ours, or may not: ours comes first again.
        if EndsAll._hooks is None or not EndsAll._hooks.in_place:
            if EndsAll._hooks is not None:
                EndsAll._hooks.remove()
            EndsAll._hooks = _Hooks()
        EndsAll._held += 1
        weakref.finalize(self, EndsAll._let_go).atexit = False
        # Registered last, called first: before others that wait for other processes.
        atexit.unregister(_abort_if_left_by_error)
        atexit.register(_abort_if_left_by_error)

    @staticmethod
    def _let_go() -> None:
        EndsAll._held -= 1
        if EndsAll._held == 0 and EndsAll._hooks is not None:
            EndsAll._hooks.remove()
            EndsAll._hooks = None

    def __copy__(self) -> EndsAll:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> EndsAll:
        return self

    def __reduce__(self) -> tuple[type[EndsAll], tuple[()]]:
        return EndsAll, ()


class _Hooks:
    """``sys.excepthook`` and ``sys.exit`` in place of those that are there.

    Once removed they pass on to these, for whoever has kept them.
    """

    def __init__(self) -> None:
        self._active = True
        self._before: tuple[Any, Any] = sys.excepthook, sys.exit
        self._own = self._report_and_abort, self._exit
        sys.excepthook, sys.exit = self._own

    @property
    def in_place(self) -> bool:
        return (sys.excepthook, sys.exit) == self._own

    def remove(self) -> None:
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

    Python has no hook for that. But one that is caught is destroyed while the code that caught it still runs,
    and one that is not when no Python code is left.
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
