"""The data of a stiff initial value problem, and the forms in which solves take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from problems.function import PartFunction, Parts, ProblemFunction, Rhs
from problems.parameters import Parameter, Values
from problems.references import Reference
from problems.requirements import checked_fields, checked_span
from stiffml import Split
from stiffml.checks import array, number, texts, whole

if TYPE_CHECKING:
    from typing import Self

    from scipy.sparse import csr_array

Invariant = np.ndarray | Callable[[np.ndarray, Values], np.ndarray]
"""A row w for which w·y is constant in time; or a function I(y, p) of states (…, *shape), constant in
time and of order 1."""


@dataclass(frozen=True)
class Definition:
    """An initial value problem M y' = rhs(t, y, p), where M is the identity unless ``mass`` is given.

    Only the first four are needed for a problem of your own.

    Attributes
    ----------
    name : str
        The name for :func:`problems.load`.
    rhs : callable
        rhs(t, y, p) in torch, batched over leading dimensions of y, usable under ``torch.func``;
        ``p`` maps parameter names to tensors.
    y0 : array_like
        Initial state: one number a component, (n,), or for a field (components, \\*grid).
    t_span : tuple of float
    parameters : mapping of str to Parameter
    title, equations, citation, stiffness : str
        One line of description; the equations in writing; their source; what makes them stiff.
    components : tuple of str
        Names along the first axis of the state. Default y1, y2, …
    kind : str
        ``"ode"``, ``"dae"`` where M is singular, or ``"pde"`` for the method of lines.
    mass : ndarray or None
        The constant mass matrix M: (n,) its diagonal, or (n, n); None for the identity.
    parts : Parts or None
        The right-hand side as an implicit and an explicit part, for ``arkimex-…`` methods.
    units : str or tuple of str
        Of all components, or one of each.
    time_units : str
    grid : mapping of str to ndarray
        For a field: the coordinates along each axis after the first.
    grid_units : str
        Of these.
    invariants : mapping of str to ndarray or callable
        By name: a row w for which w·y over the flat state is constant in time, or a function I(y, p) that is.
    bounds : tuple or None
        (low, high), each a number or one for each component, between which the exact solution stays.
    scale : array_like or None
        Typical magnitude of each component.
    threshold : array_like or None
        Magnitude of each component below which its digits do not count: :meth:`solve` takes
        atol = rtol · threshold. Default 1e-3 of ``scale``.
    time_grid : str
        ``"log"`` or ``"linear"``: the spacing of output times.
    first_time : float or None
        First time of a logarithmic grid, counted from the start. Default 1e-6 of the span.
    breakpoints : tuple of float
        Times at which rhs jumps.
    sparsity : callable or None
        () -> csr_array (n, n) with an entry wherever ∂rhs/∂y over the flat state may differ from zero.
    initial : callable or None
        (values of the parameters) -> y0, where the initial state depends on them.
    resized : callable or None
        (size) -> the problem with that many grid points along each axis.
    references : tuple of Reference
        Known states. They hold for these parameter values only, so :meth:`make` drops them.

    Examples
    --------
    >>> import problems
    >>> problem = problems.Problem(
    ...     "decay", lambda t, y, p: -p["k"] * y, y0=np.ones(1), t_span=(0.0, 1.0),
    ...     parameters={"k": problems.Parameter(2.0, "1/s")}, components=("A",), time_units="s")
    >>> problem.solve(rtol=1e-8).y[-1]  # exp(−2)
    tensor([0.1353], dtype=torch.float64)
    """

    name: str
    rhs: Rhs
    y0: np.ndarray
    t_span: tuple[float, float]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    title: str = ""
    equations: str = ""
    citation: str = ""
    stiffness: str = ""
    components: tuple[str, ...] = ()
    kind: str = "ode"
    mass: np.ndarray | None = None
    parts: Parts | None = None
    units: str | tuple[str, ...] = "1"
    time_units: str = "1"
    grid: Mapping[str, np.ndarray] = field(default_factory=dict)
    grid_units: str = "1"
    invariants: Mapping[str, Invariant] = field(default_factory=dict)
    bounds: tuple[Any, Any] | None = None
    scale: np.ndarray | None = None
    threshold: np.ndarray | None = None
    time_grid: str = "linear"
    first_time: float | None = None
    breakpoints: tuple[float, ...] = ()
    sparsity: Callable[[], csr_array] | None = None
    initial: Callable[[Values], np.ndarray] | None = None
    resized: Callable[[int], Self] | None = None
    references: tuple[Reference, ...] = ()

    def __post_init__(self) -> None:
        given = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        for name, value in checked_fields(given).items():
            object.__setattr__(self, name, value)

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return self.y0.size

    @property
    def values(self) -> dict[str, Any]:
        """The parameters' values by name."""
        return {name: parameter.value for name, parameter in self.parameters.items()}

    @property
    def stiff_part(self) -> str:
        """The kind of implicit part: ``"linear"``, ``"nonlinear"``, or ``""`` without one."""
        return "" if self.parts is None else "linear" if self.parts.linear else "nonlinear"

    def units_of(self, component: int) -> str:
        return self.units if isinstance(self.units, str) else self.units[component]

    def per_component(self, values: Any) -> np.ndarray:
        """One number, or one for each component, as an array that broadcasts with states."""
        values = np.broadcast_to(np.asarray(values, dtype=float), len(self.components))
        return values.reshape(-1, *[1] * len(self.grid)).copy()

    def make(
        self,
        y0: np.ndarray | None = None,
        t_span: tuple[float, float] | None = None,
        size: int | None = None,
        **values: Any,
    ) -> Self:
        """The same problem with other parameter values, initial state, span or size, and without references.

        Parameters
        ----------
        size : int
            Grid points along each axis, for problems on a grid.

        Raises
        ------
        ValueError
            For a parameter the problem does not have, a value of the wrong shape, or a size where there is
            no grid.
        """
        if t_span is not None:
            t_span = checked_span("t_span", t_span)
        y0 = None if y0 is None else array("y0", y0)
        if size is not None:
            size = whole("size", size)
            if self.resized is None:
                raise ValueError(f"{self.name} has no grid, so that its size is always {self.size}")
            span = self.t_span if t_span is None else t_span
            return self.resized(size).make(y0, span, **{**self.values, **values})
        self._check_known(values)
        parameters = {
            name: dataclasses.replace(parameter, value=_like(self.name, name, parameter.value, values[name]))
            if name in values
            else parameter
            for name, parameter in self.parameters.items()
        }
        if y0 is None:
            y0 = self.y0
            if self.initial is not None and values:
                y0 = self.initial({name: parameter.value for name, parameter in parameters.items()})
        return dataclasses.replace(
            self,
            y0=y0,
            t_span=self.t_span if t_span is None else t_span,
            parameters=parameters,
            references=(),
        )

    def func(self, *trainable: str) -> ProblemFunction:
        """func(t, y) as ``stiffml.solve`` takes it; the parameters named are trainable.

        Raises
        ------
        ValueError
            For a parameter the problem does not have, or one that only the initial state depends on.
        """
        self._check_known(texts("trainable", trainable))
        for name in trainable:
            if self.parameters[name].initial:
                raise ValueError(
                    f"{self.name}: only the initial state depends on {name}; differentiate with respect to y0"
                )
        return ProblemFunction(self.rhs, self.values, trainable)

    def split(self, *trainable: str) -> Split:
        """The two parts as a ``stiffml.Split``, with the parameters named trainable.

        Raises
        ------
        ValueError
            If the problem has no parts.
        """
        if self.parts is None:
            raise ValueError(f"{self.name} has no natural split into an implicit and an explicit part")
        shared = self.func(*trainable)
        implicit, explicit = (PartFunction(shared, f) for f in (self.parts.implicit, self.parts.explicit))
        return Split(implicit, explicit, linear=self.parts.linear)

    def initial_state(self) -> Tensor:
        """y0, float64."""
        return torch.tensor(self.y0, dtype=torch.float64)

    def mass_matrix(self) -> Tensor | None:
        """``mass`` as ``stiffml.solve`` takes it, float64; None for the identity."""
        return None if self.mass is None else torch.tensor(self.mass, dtype=torch.float64)

    def times(self, count: int, first: float | None = None) -> Tensor:
        """(count + 1,) output times from the start to the end of the span, spaced as ``time_grid`` says.

        ``first`` is the first time of a logarithmic grid, counted from the start. Default ``first_time``.
        """
        start, end = self.t_span
        count = whole("count", count)
        if first is not None:
            first = number("first", first, above=0)
        if self.time_grid == "linear":
            return torch.linspace(start, end, count + 1, dtype=torch.float64)
        if first is None:
            first = (end - start) * 1e-6 if self.first_time is None else self.first_time
        later = np.geomspace(first, end - start, count) + start
        return torch.tensor(np.concatenate([[start], later]))

    def atol(self, rtol: float) -> Tensor:
        """The absolute tolerances that belong to ``rtol``, in the shape of y0."""
        rtol = number("rtol", rtol, above=0)
        threshold = self.threshold
        if threshold is None:
            threshold = 1e-3 * np.asarray(1.0 if self.scale is None else self.scale)
        return torch.from_numpy(rtol * np.broadcast_to(self.per_component(threshold), self.y0.shape))

    def limits(self) -> tuple[Tensor, Tensor]:
        """``bounds`` as ``stiffml.solve`` takes them, (low, high) in the shape of y0.

        Raises
        ------
        ValueError
            If the problem has none.
        """
        if self.bounds is None:
            raise ValueError(f"{self.name} has no bounds; pass bounds=(low, high)")
        low, high = (
            torch.from_numpy(np.broadcast_to(self.per_component(side), self.y0.shape).copy())
            for side in self.bounds
        )
        return low, high

    def _check_known(self, names: Any) -> None:
        unknown = sorted(set(names) - set(self.parameters))
        if unknown:
            known = ", ".join(self.parameters) or "none"
            raise ValueError(f"{self.name} has no parameter {', '.join(unknown)}; it has {known}")


def _like(problem: str, name: str, old: Any, new: Any) -> Any:
    """A new value of a parameter, checked to be a number or an array of the shape of the old one."""
    if np.ndim(old) == 0:
        return number(f"{problem}: {name}", new)
    new = array(f"{problem}: {name}", new)
    if new.shape != np.shape(old):
        raise ValueError(f"{problem}: {name} has shape {np.shape(old)}, not {new.shape}")
    return new
