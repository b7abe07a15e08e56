"""A stiff initial value problem with what is known about it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor, nn

Rhs = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Reference:
    """A state known from elsewhere.

    ``mask`` marks the components to compare; ``rtol_valid`` is the relative error the values are known
    to; ``verified`` says how they were checked.
    """

    t: float
    y: np.ndarray
    source: str
    rtol_valid: float
    verified: str
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Parameter:
    """A named constant of a problem: value, units, and what it is."""

    value: float
    units: str = "1"
    description: str = ""


@dataclass(frozen=True)
class Problem:
    """An initial value problem M y' = rhs(t, y, p), where M is the identity unless ``mass`` is given.

    Attributes
    ----------
    name, title : str
        The name :func:`problems.load` knows it by, and one line about it.
    rhs : callable
        rhs(t, y, p) in torch, batched over leading dimensions of y, usable under ``torch.func``;
        ``p`` maps parameter names to tensors.
    y0 : ndarray
        (n,) initial state.
    t_span : tuple of float
    parameters : mapping of str to Parameter
    components : tuple of str
        Names of the n components.
    citation, stiffness : str
        Where it comes from; what makes it stiff.
    kind : str
        ``"ode"``, or ``"dae"`` where M is singular.
    mass : ndarray or None
        The constant mass matrix M: (n,) its diagonal, or (n, n); None for the identity.
    units, time_units : str
    invariants : ndarray or None
        (k, n): rows W for which W·y stays what it is at the start.
    bounds : tuple of float or None
        What every component of the exact solution stays within.
    scale : ndarray or None
        (n,) typical magnitude of the components.
    time_grid : str
        ``"log"`` or ``"linear"``: how output times are best spread.
    references : tuple of Reference
        Valid for these very values only: :meth:`make` drops them.
    """

    name: str
    title: str
    rhs: Rhs
    y0: np.ndarray
    t_span: tuple[float, float]
    parameters: Mapping[str, Parameter]
    components: tuple[str, ...]
    citation: str
    stiffness: str
    kind: str = "ode"
    mass: np.ndarray | None = None
    units: str = "1"
    time_units: str = "1"
    invariants: np.ndarray | None = None
    bounds: tuple[float, float] | None = None
    scale: np.ndarray | None = None
    time_grid: str = "linear"
    references: tuple[Reference, ...] = field(default=())

    def make(self, y0: np.ndarray | None = None, t_span: tuple[float, float] | None = None, **values: float):
        """The same problem with other parameter values, initial state or span, and without references.

        Raises
        ------
        ValueError
            For a parameter the problem does not have.
        """
        unknown = sorted(set(values) - set(self.parameters))
        if unknown:
            known = ", ".join(self.parameters)
            raise ValueError(f"{self.name} has no parameter {', '.join(unknown)}; it has {known}")
        parameters = {
            name: dataclasses.replace(parameter, value=float(values.get(name, parameter.value)))
            for name, parameter in self.parameters.items()
        }
        return dataclasses.replace(
            self,
            y0=self.y0 if y0 is None else np.asarray(y0, dtype=float),
            t_span=self.t_span if t_span is None else t_span,
            parameters=parameters,
            references=(),
        )

    def func(self, *trainable: str) -> ProblemFunction:
        """func(t, y) as ``stiffml.solve`` takes it; the parameters named are trainable."""
        return ProblemFunction(self, trainable)

    def initial_state(self) -> Tensor:
        """(n,) float64."""
        return torch.tensor(self.y0, dtype=torch.float64)

    def mass_matrix(self) -> Tensor | None:
        """``mass`` as ``stiffml.solve`` takes it, float64; None for the identity."""
        return None if self.mass is None else torch.tensor(self.mass, dtype=torch.float64)

    def times(self, count: int, first: float | None = None) -> Tensor:
        """(count + 1,) output times: the start, then ``count`` up to the end, spread as suits the problem.

        ``first`` is the first time after the start of a logarithmic grid, by default 1e-6 of the span.
        """
        start, end = self.t_span
        if self.time_grid == "linear":
            return torch.linspace(start, end, count + 1, dtype=torch.float64)
        first = (end - start) * 1e-6 if first is None else first
        later = np.geomspace(first, end - start, count) + start
        return torch.tensor(np.concatenate([[start], later]))

    def invariant_drift(self, y: np.ndarray) -> float:
        """Largest |W·(y − y0)| over states y (…, n); 0 where there are no invariants."""
        if self.invariants is None:
            return 0.0
        return float(np.abs((np.asarray(y) - self.y0) @ self.invariants.T).max())


class ProblemFunction(nn.Module):
    """A problem's right-hand side as a module; its trainable parameters carry their names."""

    def __init__(self, problem: Problem, trainable: tuple[str, ...]) -> None:
        super().__init__()
        unknown = sorted(set(trainable) - set(problem.parameters))
        if unknown:
            raise ValueError(f"{problem.name} has no parameter {', '.join(unknown)}")
        self.rhs = problem.rhs
        for name, parameter in problem.parameters.items():
            value = torch.tensor(parameter.value, dtype=torch.float64)
            if name in trainable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self._names = tuple(problem.parameters)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.rhs(t, y, {name: getattr(self, name) for name in self._names})


def published(key: str, rtol_valid: float) -> Reference:
    """An entry of ``references.json``: values printed in the literature, or exact, to all their digits."""
    entry = json.loads(files("problems").joinpath("references.json").read_text())[key]
    return Reference(
        t=float(entry["t"]),
        y=np.array(entry["y"]),
        source=entry["source"],
        rtol_valid=rtol_valid,
        verified=entry["verified"],
    )
