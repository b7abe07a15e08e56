"""Whether a drawn combination does what it should; what is off, by how much, and what to look at.

``repeat(seed)`` does one draw again, by itself.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from combinations.cases import Case
from combinations.drawing import Combination, draw
from combinations.gradients import check_gradients
from combinations.values import check_by_hand, check_exact, check_outputs

DEADLINE = 900
"""Seconds of the processor's time after which a draw hangs. A usual one takes 1; many steps by a Krylov
method, solved thirty times for differences, take 300."""


class HangsError(BaseException):
    """A draw took too long. No Exception, which might be taken for a failed step."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise after so much of the processor's time, which other programs do not shorten."""

    def stop(*_: object) -> None:
        raise HangsError(f"it has not ended after {seconds:g} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def failures(seed: int, each: bool = True) -> list[str]:
    """What is wrong with the draw of a seed; empty if nothing is.

    ``each``: whether the gradient with respect to each kind of input is looked at by itself, which takes
    three times as long as one direction through all of them.
    """
    c = draw(seed)
    try:
        with deadline(DEADLINE):
            found = failures_of(c, each)
    except HangsError as error:
        found = [f"hangs: {error}; look at where it is in the traceback of repeat({seed}, raises=True)"]
    except Exception as error:
        found = [f"raised {type(error).__name__}: {error}; see repeat({seed}, raises=True)"]
    if not found:
        return []
    again = f"again, in tests/helpers/: python -c 'from combinations.checks import repeat; repeat({seed})'"
    return [str(c), *(f"  {line}" for line in found), f"  {again}"]


def failures_of(c: Combination, each: bool = True) -> list[str]:
    """What is wrong with a combination; what it raises passes through."""
    case, refusal = Case(c), c.refusal()
    if refusal is not None:
        return _check_refusal(case, refusal)
    alone = None
    if c.grad == "no_grad first":
        with torch.no_grad():
            alone = case.run.solve().rows
    found = check_outputs(case)
    if found:
        return found
    if alone is not None and not torch.equal(alone, case.outcome.rows.detach()):
        off = float((alone - case.outcome.rows).detach().abs().max())
        found.append(f"value: under no_grad it is {off:.1e} away; look at what a run leaves behind")
    return found + check_by_hand(case) + check_exact(case) + check_gradients(case, each)


def repeat(seed: int, raises: bool = False) -> None:
    """Do the draw of a seed again and print what is wrong; with ``raises`` let its exceptions through."""
    found = failures_of(draw(seed)) if raises else failures(seed)
    print("\n".join(found or ["right"]))


def _check_refusal(case: Case, expected: str) -> list[str]:
    try:
        with torch.no_grad():
            case.run.solve()
    except ValueError as error:
        if re.search(expected, str(error)):
            return []
        return [f"refused, but not for {expected!r}: {error}; look at interface/checking.py"]
    return [f"solved, but the capability table refuses it ({expected!r}); look at interface/checking.py"]
