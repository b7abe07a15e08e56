"""How a solve ends, and the errors that say so."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from stiffml.stats import Stats
from stiffml.steps import Recorded

LINEAR_HINT = (
    "a better preconditioner (linear=GMRES(preconditioner=Assembled(…))), more iterations (max_iterations=…, "
    "restart=…), or smaller steps"
)
"""What to try if a Krylov method does not converge."""


DERIVATIVE_HINT = (
    "a func that is smooth there: (x² + ε²)^½ in place of |x| or of a norm, torch.where with safe values in "
    "both branches"
)
"""What to try if a derivative of func is infinite or NaN."""


class Status(enum.Enum):
    """How a solve ended.

    ``SUCCESS``: at the last output time. ``EVENT``: at the event. ``STOPPED``: the callback ended
    it. All others are failures.

    Examples
    --------
    >>> sol = stiffml.solve(lambda t, y: y**2, y0, 2 * t, throw=False)
    >>> sol.status is stiffml.Status.SUCCESS, sol.status.name
    (False, 'STEP_TOO_SMALL')
    """

    SUCCESS = "success"
    EVENT = "event"
    STOPPED = "stopped by the callback"
    NEWTON_FAILED = "newton failed"
    LINEAR_FAILED = "linear solver failed"
    STEP_TOO_SMALL = "step too small"
    MAX_STEPS = "step limit reached"
    MAX_SECONDS = "time limit reached"
    STIFF = "stiff"
    NON_FINITE = "non-finite value"
    NO_EVENT = "no event"
    INFINITE_DERIVATIVE = "non-finite derivative"
    OUT_OF_BOUNDS = "out of bounds"
    NO_ROOM = "no room for checkpoints"


class PartialSolution(Protocol):
    """The outputs reached before a failure; a :class:`stiffml.Solution`."""

    t: Tensor
    y: Tensor | tuple[Tensor, ...]
    status: Status
    message: str
    stats: Stats
    steps: Recorded | tuple[Recorded, ...]

    def interpolate(self, t: Tensor) -> Tensor | tuple[Tensor, ...]: ...


class SolveError(RuntimeError):
    """A solve stopped before its last output time.

    Attributes
    ----------
    status : Status
        What stopped it.
    t : float
        The time of the last accepted step.
    h : float
        The size of the step that could not be taken.
    component : tuple of int or None
        The component to look at, if there is one: its index in ``y0``. For a tuple state the first entry is
        the position of the tensor.
    hint : str
        What to try.
    solution : Solution or None
        The outputs reached before the failure.

    Examples
    --------
    >>> explosion = lambda t, y: y**2  # 1/(1 - t)
    >>> try:
    ...     stiffml.solve(explosion, y0, 2 * t)
    ... except stiffml.SolveError as error:
    ...     print(error.status.name, round(error.t, 3))
    STEP_TOO_SMALL 1.0
    """

    def __init__(
        self,
        status: Status,
        reason: str,
        hint: str,
        *,
        t: float,
        h: float,
        component: tuple[int, ...] | None = None,
        solution: PartialSolution | None = None,
    ) -> None:
        self.status = status
        self.t = t
        self.h = h
        self.component = component
        self.hint = hint
        self.solution = solution
        message = f"{reason} (t = {t:.10g}, step = {h:.3g}"
        if component is not None:
            message += f", component {list(component)}"
        message += ")"
        super().__init__(f"{message}. Try: {hint}")

    def __reduce__(self) -> tuple:
        """Pickle the message and the attributes, for pools of workers.

        The solution has a graph and is left out.
        """
        return _restored, (str(self), vars(self) | {"solution": None})


def _restored(message: str, attributes: dict[str, object]) -> SolveError:
    error = SolveError.__new__(SolveError, message)
    error.__dict__.update(attributes)
    return error


class LinearSolveError(RuntimeError):
    """A linear system of a recorded step, or of the backward pass, could not be solved."""


class NonFiniteDerivativeError(RuntimeError):
    """A derivative of ``func`` is infinite or NaN at a recorded state, so that the gradient is NaN."""


class ReplayError(RuntimeError):
    """A recorded step could not be repeated, or ``func`` is no longer the function that the run solved."""


@dataclass(frozen=True)
class _Explanation:
    """The reason in words, what to try, and what else to try if the method is explicit."""

    reason: str
    advice: str
    if_explicit: str = ""


_EXPLANATIONS = {
    Status.NEWTON_FAILED: _Explanation(
        "Newton's iteration did not converge, however much the step was cut",
        "scale the state so that its components are of order one, use more and shorter steps or "
        "steps=Adaptive(), newton=Newton(max_iterations=…); and check that func is smooth",
    ),
    Status.LINEAR_FAILED: _Explanation(
        "the linear systems of Newton's iteration could not be solved, however much the step was cut",
        LINEAR_HINT,
    ),
    Status.STEP_TOO_SMALL: _Explanation(
        "the step size became too small",
        "a larger atol for the component named, looser rtol, or a smaller Adaptive(minimum=…); a jump "
        "in func, or a solution that blows up in finite time, has this effect too",
    ),
    Status.MAX_STEPS: _Explanation(
        "the step limit was reached",
        "steps=Adaptive(max_steps=…), looser rtol and atol",
        "; the problem may be stiff: use method='bdf'",
    ),
    Status.MAX_SECONDS: _Explanation(
        "the time limit was reached",
        "a larger max_seconds, looser rtol and atol, compile=True; what was reached is in the error's "
        "solution, which throw=False returns",
        "; the problem may be stiff: use method='bdf'",
    ),
    Status.STIFF: _Explanation(
        "the problem is stiff for this explicit method: stability keeps its steps short, not accuracy",
        "method='bdf' or another implicit one; steps=Adaptive(stop_if_stiff=False) goes on with this one",
    ),
    Status.NON_FINITE: _Explanation(
        "func or the state became infinite or NaN after the time given",
        "call func at that time and state; look for a square root, logarithm or power of a "
        "negative number, an overflow, or parameters that are not finite",
        "; an explicit method on a stiff problem blows up: use method='bdf'",
    ),
    Status.INFINITE_DERIVATIVE: _Explanation(
        "no step could be solved for",
        DERIVATIVE_HINT + "; or an explicit method, which needs derivatives for gradients only",
    ),
    Status.OUT_OF_BOUNDS: _Explanation(
        "the state would leave its bounds, however much the step was cut",
        "a func that does not lead out of the bounds (its value where the state is at one); smaller rtol "
        "and atol, if the state has come to lie outside by less than atol and drifts on; or wider bounds",
    ),
    Status.NO_ROOM: _Explanation(
        "a checkpoint could not be written",
        "a folder with more room, or fewer checkpoints in memory: adjoint=Discrete(checkpoints=50)",
    ),
}


def explain(status: Status, implicit: bool) -> tuple[str, str]:
    """The reason in words, and what to try, for a solve that stopped with ``status``.

    ``implicit`` says whether the method was.
    """
    found = _EXPLANATIONS[status]
    return found.reason, found.advice + ("" if implicit else found.if_explicit)
