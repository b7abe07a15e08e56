"""How a step loop ends before its last output."""

from __future__ import annotations

from stiffml.run.record import Failure


class Finished(Exception):
    """Ends the step loop: the event was reached, at the time ``s``."""

    def __init__(self, s: float) -> None:
        self.s = s


class Stop(Exception):
    """Ends the step loop: the run cannot go on."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
