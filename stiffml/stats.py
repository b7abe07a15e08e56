"""What a solve and its backward passes cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from stiffml.display import Table, printed, table


@dataclass
class AdjointStats:
    """Cost of the backward passes so far.

    ``rhs_evals`` and ``jacobians`` count the states at which f and ∂f/∂y were evaluated; one call may
    evaluate many states. ``wall_s`` is in seconds.
    """

    rhs_evals: int = 0
    jacobians: int = 0
    krylov_iterations: int = 0
    wall_s: float = 0.0


@printed
@dataclass
class Stats:
    """Cost of a solve.

    Attributes
    ----------
    accepted, rejected : int
        Steps. One is rejected if its error is too large, Newton's iteration fails, a value is not finite, or
        it ends out of bounds.
    ramp_steps : int
        Steps that a multistep method added to those asked for.
    at_once : int
        Steps that were solved for together with others.
    in_c : int
        Steps that compiled code took with nothing of Python in between but func, and nothing at all where
        func is compiled too, see ``compile``.
    rhs_evals, jacobians : int
        Evaluations of f and of ∂f/∂y.
    newton_iterations : int
        Of implicit methods but Rosenbrock's, which solve linear systems only: ``linear_solves``.
    linear_solves : int
        Of Rosenbrock methods whose steps PETSc takes, one for each stage. Other methods solve one in each
        Newton iteration.
    krylov_iterations : int
        0 with ``LU``.
    mended_jacobians : int
        Jacobians with infinite or NaN entries, which differences of f replaced.
    wall_s : float
        Seconds.
    renewed : str
        Why ``KeptSteps`` were chosen anew, see there; empty if they were kept, and for other steps.
    given_up : str
        Why steps that compiled code had begun to take were taken again in Python, from the start; else empty.
    linear : str
        How linear systems were solved.
    adjoint : AdjointStats or None
        None until a backward pass has run.
    """

    accepted: int = 0
    rejected: int = 0
    ramp_steps: int = 0
    at_once: int = 0
    in_c: int = 0
    rhs_evals: int = 0
    jacobians: int = 0
    newton_iterations: int = 0
    linear_solves: int = 0
    krylov_iterations: int = 0
    mended_jacobians: int = 0
    wall_s: float = 0.0
    renewed: str = ""
    given_up: str = ""
    linear: str = ""
    adjoint: AdjointStats | None = None

    def rows(self) -> list[tuple[str, str]]:
        """What was done, as pairs (name, value), for printing: what this solve had none of is left out."""
        optional = {
            "added by multistep methods": self.ramp_steps,
            "steps solved together": self.at_once,
            "steps in C": self.in_c,
            "Newton iterations": self.newton_iterations,
            "linear systems": self.linear_solves,
            "Krylov iterations": self.krylov_iterations,
            "Jacobians mended": self.mended_jacobians,
        }
        return [
            ("steps accepted, rejected", f"{self.accepted}, {self.rejected}"),
            ("evaluations of f, Jacobians", f"{self.rhs_evals}, {self.jacobians}"),
            *((name, str(number)) for name, number in optional.items() if number),
            *([("linear systems by", self.linear)] if self.linear else []),
            ("wall time", f"{self.wall_s:.3g} s"),
        ]

    def __str__(self) -> str:
        return table("cost", self.rows())

    def _table(self) -> Table:
        return (), self.rows()

    def count(self, **costs: float) -> None:
        """Add to the counts."""
        for name, cost in costs.items():
            setattr(self, name, getattr(self, name) + cost)


def named_solves(counts: dict[str, int], newton: bool, krylov: bool) -> dict[str, int]:
    """Counts of a run by what they are: PETSc counts a linear solve as one iteration, of any kind.

    Parameters
    ----------
    counts : dict
        With ``newton_iterations`` and ``krylov_iterations`` as PETSc has them.
    newton, krylov : bool
        Whether the method uses Newton's iteration, and the solver is a Krylov method.
    """
    found = dict(counts)
    if not newton:
        found["linear_solves"] = found.pop("newton_iterations", 0)
    if not krylov:
        found["krylov_iterations"] = 0
    return found


@dataclass
class Totals:
    """What solves and their backward passes cost together: steps, and states at which f was evaluated."""

    accepted: int = 0
    rejected: int = 0
    rhs_evals: int = 0
    jacobians: int = 0


_counting: ContextVar[tuple[Totals, ...]] = ContextVar("counting", default=())


@contextmanager
def totals() -> Iterator[Totals]:
    """Counts all that is solved and differentiated within the block."""
    total = Totals()
    token = _counting.set((*_counting.get(), total))
    try:
        yield total
    finally:
        _counting.reset(token)


def spend(*, accepted: int = 0, rejected: int = 0, rhs_evals: int = 0, jacobians: int = 0) -> None:
    """Add to the totals that are being counted."""
    for total in _counting.get():
        total.accepted += accepted
        total.rejected += rejected
        total.rhs_evals += rhs_evals
        total.jacobians += jacobians
