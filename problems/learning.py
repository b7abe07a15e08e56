"""What can be learned of a problem: its constants, or all of its right-hand side, from data that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from problems.datasets import make_dataset
from problems.definition import Definition
from stiffml.checks import texts
from stiffml.closures import Closure, LogFeatures
from stiffml.training.data import Runs, from_xarray

SPREAD = 1.5
"""Constants begin within this factor of their values."""

HIDDEN = (16, 16)
RTOL = 1e-6


class Constants(nn.Module):
    """A problem on states (…, size), some of whose parameters are learned; those above zero as logarithms.

    Parameters
    ----------
    problem : Problem
    names : sequence of str
    seed : int
        Of where they begin: within a factor of 1.5 of their values, arrays within 0.4 of their entries.
    """

    def __init__(self, problem: Definition, names: Sequence[str], seed: int) -> None:
        super().__init__()
        self._func = [problem.make().func()]  # not a submodule: its buffers are what is learned from here
        self._shape, self.names = problem.y0.shape, tuple(names)
        self.logarithms = nn.ParameterDict()
        self.numbers = nn.ParameterDict()
        generator = np.random.default_rng(seed)
        for name in self.names:
            value = np.asarray(problem.values[name], dtype=float)
            off = generator.uniform(-1, 1, value.shape) * np.log(SPREAD)
            if value.ndim:
                self.numbers[name] = nn.Parameter(torch.tensor(value + off))
            elif value > 0:
                self.logarithms[name] = nn.Parameter(torch.tensor(float(np.log(value) + off)).double())
            else:
                self.numbers[name] = nn.Parameter(torch.tensor(float(value * np.exp(off))).double())

    def values(self) -> dict[str, Tensor]:
        """The learned parameters by name."""
        return {**{name: one.exp() for name, one in self.logarithms.items()}, **dict(self.numbers.items())}

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        func = self._func[0]
        states = y.reshape(*y.shape[:-1], *self._shape)
        return func.rhs(t, states, {**func.values(), **self.values()}).reshape(y.shape)


def learnable(problem: Definition) -> tuple[str, ...]:
    """The scalar parameters that the right-hand side depends on, or arrays if there are none.

    Found by derivatives at the start, and at the state of each reference.
    """
    names = [name for name in problem.values if not problem.parameters[name].initial]
    func = problem.func(*names)
    states = [(problem.t_span[0], problem.y0), *((r.t, r.y) for r in problem.references)]
    used: dict[str, Any] = {}
    parameters = dict(func.named_parameters())
    shift = 1e-3 * problem.per_component(1.0 if problem.scale is None else problem.scale)
    for t, y in states:
        slopes = func(torch.tensor(float(t)).double(), torch.from_numpy(y + shift))
        found = torch.autograd.grad(slopes.square().sum(), list(parameters.values()), allow_unused=True)
        used |= {
            n: 1 for n, g in zip(parameters, found, strict=True) if g is not None and bool((g != 0).any())
        }
    scalars = [name for name in names if name in used and not np.ndim(problem.values[name])]
    arrays = [name for name in names if name in used and np.ndim(problem.values[name])]
    return tuple(scalars if not arrays else arrays[:1])


def checked_constants(problem: Definition, names: Sequence[str]) -> tuple[str, ...]:
    """The names, if they are parameters of the problem.

    Raises
    ------
    ValueError
        Else; with those that there are.
    """
    for name in texts("learn", names):
        if name not in problem.values:
            raise ValueError(
                f"{problem.name} has no parameter {name}; it has {', '.join(problem.values) or 'none'}"
            )
    problem.func(*names)  # refuses those that only the initial state depends on
    return tuple(names)


def neural_rates(problem: Definition, seed: int) -> nn.Module:
    """A network for all of the right-hand side of a problem, of states, their logarithms, and its scale.

    Raises
    ------
    ValueError
        For fields and DAEs.
    """
    if problem.grid or problem.mass is not None:
        raise ValueError(
            f"{problem.name} is a {'field' if problem.grid else 'DAE'}; a dense network of its whole state "
            "is no sensible model of it. Learn constants: --learn NAME,NAME"
        )
    typical = problem.per_component(1.0 if problem.scale is None else problem.scale).ravel()
    span = problem.t_span[1] - problem.t_span[0]
    return Closure(
        None,
        HIDDEN,
        typical=typical,
        scale=typical / span,
        components=problem.components,
        features=LogFeatures(typical),
        conserve=problem.invariants or None,
        seed=seed,
    )


def runs_of(problem: Definition, points: int, noise: float = 0.0, seed: int = 0) -> tuple[Runs, Runs]:
    """Observations of a problem at ``points`` times after the start, and its solution between these.

    The initial state is known exactly. ``noise`` is in units of the problem's scale. Fields are flattened.
    """
    times = problem.times(points)
    middle = (times[2:] * times[1:-1]).sqrt() if problem.time_grid == "log" else (times[2:] + times[1:-1]) / 2
    data = make_dataset(problem, points, noise=noise, seed=seed)
    data["observed"].values[0] = data["state"].values[0]
    unseen = make_dataset(problem, len(middle), times=torch.cat([times[:1], middle]))
    return tuple(  # type: ignore[return-value]
        from_xarray(one, "observed", initial="known") for one in (data, unseen)
    )


def solving(problem: Definition) -> dict[str, Any]:
    """The arguments of a fit that belong to a problem: its mass matrix and tolerances."""
    atol = problem.atol(RTOL)
    found: dict[str, Any] = {"rtol": RTOL, "atol": atol.reshape(-1) if isinstance(atol, Tensor) else atol}
    mass = problem.mass_matrix()
    if mass is not None:
        found |= {"mass": mass, "make_consistent": True}
    return found
