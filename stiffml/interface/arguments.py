"""The arguments of a solve as its caller passed them: every option once, with its default."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from stiffml.interface.graphs import outside_of_graphs
from stiffml.interface.jumps import Jumps
from stiffml.interface.solution import Solution
from stiffml.interface.tolerances import Tolerance
from stiffml.linear.given_jacobian import JacobianFunc
from stiffml.linear.settings import LU, Krylov
from stiffml.linear.sparsity import Sparsity
from stiffml.methods import Method
from stiffml.run.crossings import Watched
from stiffml.run.watching import Callback
from stiffml.settings import Discrete, Newton
from stiffml.steps import KeptSteps, Recorded, Steps
from stiffml.system.function.batching import Func
from stiffml.system.state import State

Bounded = tuple[Any, Any]
"""(low, high), each None, a number, or tensors like y0."""


@dataclass(frozen=True, eq=False)
class Arguments:
    """What :func:`stiffml.solve` was called with, unchecked; that function says what each argument means.

    A new option gets a field here and a parameter in ``solve``, ``odeint`` and ``ODEBlock``, which a test
    compares with the fields.
    """

    func: Func
    y0: State
    t: Tensor
    _: KW_ONLY
    method: str | Method | None = "bdf"
    rtol: Tolerance | None = None
    atol: Tolerance | None = None
    steps: Steps | KeptSteps | Sequence[Recorded] | None = None
    stepping: str = "auto"
    guess: Solution | None = None
    outputs: str = "auto"
    linear: LU | Krylov | str = "auto"
    jacobian: str | Sparsity | JacobianFunc = "auto"
    batch_dims: int = 0
    mass: Tensor | None = None
    make_consistent: bool = False
    event: Watched | None = None
    bounds: Bounded | None = None
    breakpoints: Tensor | Sequence[float] | None = None
    jumps: Jumps | None = None
    through: Tensor | Sequence[float] | None = None
    params: Iterable[Tensor] = ()
    adjoint: Discrete | None = None
    newton: Newton | None = None
    options: Mapping[str, object] | None = None
    compile: bool = False
    callback: Callback | None = None
    max_seconds: float | None = None
    progress: bool = False
    throw: bool = True

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Arguments:
        """Those of a call that names all of them, which takes a tenth of the time of the other way."""
        made = object.__new__(cls)
        vars(made).update(given)
        return made


DEFAULTS = {field.name: field.default for field in dataclasses.fields(Arguments) if field.kw_only}
"""The options, with their defaults."""


P = ParamSpec("P")
R = TypeVar("R")


def named_arguments(**refused: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function that takes options of a solve: an unknown name is an error that lists the known.

    ``refused`` has messages for names that are options of a solve, but not of this function. Where the
    function takes ``**arguments``, these are the other options of a solve.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        owner = function.__qualname__.partition(".")[0]
        parameters = inspect.signature(function).parameters.values()
        named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        known = named | (DEFAULTS.keys() if any(p.kind is p.VAR_KEYWORD for p in parameters) else set())
        options = ", ".join(sorted(known & DEFAULTS.keys()))

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            unknown = sorted(kwargs.keys() - known)
            if unknown:
                message = f"{owner}: no argument {unknown[0]!r}; known are {options}"
                raise TypeError(refused.get(unknown[0], message))
            return function(*args, **kwargs)

        return outside_of_graphs(call)

    return decorate
