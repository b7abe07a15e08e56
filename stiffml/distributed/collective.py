"""What all processes do together: an error on one becomes an error on all, so that none waits for another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from stiffml.distributed.processes import processes
from stiffml.errors import SolveError

SAME = 1e-5
"""The relative difference that tensors may have which are the same on all ranks: not all processors agree."""

CHUNK = 1_000_000
"""Numbers of a tensor that are compared at a time."""

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
    """Solves failed on other ranks. A program that catches SolveError and goes on does so on every rank.

    Its attributes are those of the first failure; ``component`` counts the samples of that rank's share.
    """

    def __init__(self, message: str, ranks: Iterable[int], solve: Mapping[str, Any]) -> None:
        RuntimeError.__init__(self, message)
        vars(self).update(solve, solution=None, ranks=tuple(ranks))


@dataclass(frozen=True)
class _Report:
    """What a rank tells the others about its part."""

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
        What is done, for messages.
    who : str
        This rank and its part, for messages.
    given : mapping of str to Tensor
        Tensors that must be the same on every rank.
    work : callable
        Does this rank's part, without collective calls.
    describe : callable
        What the others need to know of its result: a small object.

    Returns
    -------
    result
        This rank's result.
    descriptions : list
        The descriptions of all results, by rank.

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
            del failed  # it holds this frame, which would hold it
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
    """A few numbers that tell a tensor from another."""
    if tensor is None:
        return ()
    values = tensor.detach()
    values = (torch.view_as_real(values) if values.is_complex() else values).double().reshape(-1)
    # Weights, so that another order of the same numbers is noticed.
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
