"""∂f/∂θ at many states at once: one backward pass for each component of f, at all states in one call.

By torch.func, which needs parameters that belong to modules. Where they do not, or where f uses what
torch.func does not take, the answer is None, and products along directions serve instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from stiffml.parameters.names import reached
from stiffml.system.derivatives.curvature import Curvature
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.function.batching import Batching

NUMBERS = 20_000_000
"""Largest number of float64 values of a Jacobian with respect to parameters (160 MB)."""

EVERY = 16
"""Of so many Jacobians of one f by the same parameters the first is compared with a product."""

Product = Callable[[list[Tensor | None]], Tensor]
"""The product of a Jacobian with a direction that is given by parameter, (K, size)."""

Values = dict[int, Tensor]
"""Parameters by position."""


def parameter_jacobian(
    dynamics: Dynamics, positions: Sequence[int], s: Tensor, u: Tensor
) -> dict[int, Tensor] | None:
    """∂f/∂θ at K states by the positions of parameters, each (K, size, numbers of the parameter).

    Missing ones are zero. None if f cannot be differentiated in this way.
    """
    if len(s) * u.shape[-1] * sum(dynamics.parameters[i].numel() for i in positions) <= NUMBERS:
        known = dynamics.parameter_jacobian(positions, s, u)
        if known is not None:
            return known
    by_parameters = _ByParameters(dynamics, positions)
    expanded = dynamics.span.expanded(s) if dynamics.span.degree else None
    s_at, u_at = (s, u) if expanded is None else (expanded.times, u[expanded.rows])
    found = by_parameters.jacobian(by_parameters.value, s_at, u_at)
    if found is None:
        return None
    if expanded is not None:
        for position, values in found.items():
            weighed = expanded.weights[:, None, None] * values
            found[position] = values.new_zeros(len(s), *values.shape[1:]).index_add(0, expanded.rows, weighed)
    which = tuple(positions)
    calls = dynamics.agreed.get(which, 0)
    if calls % EVERY == 0 and not by_parameters.agree(found, lambda v: dynamics.jvps(s, u, [v])[0]):
        return None
    dynamics.agreed[which] = calls + 1
    return found


def parameter_jacobian_of_bracket(
    curvature: Curvature, positions: Sequence[int], row: int
) -> dict[int, Tensor] | None:
    """The same of D = J y + τ ∂f/∂s of a Rosenbrock row, at the old states of all steps."""
    by_parameters = _ByParameters(curvature.dynamics, positions)

    def bracket(values: Values, t: Tensor, u: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        return jvp(lambda t, u: by_parameters.value(values, t, u), (t, u), (tau, y))[1]

    y, tau = curvature.direction(row)
    along = (curvature.dynamics.direction * tau).to(curvature.dynamics.layout.dtype)
    found = by_parameters.jacobian(bracket, curvature.s, curvature.u, y, along)

    def product(direction: list[Tensor | None]) -> Tensor:
        return torch.from_numpy(curvature.through_parameters([direction], [row])[row][0])

    return found if found is not None and by_parameters.agree(found, product) else None


class _ByParameters:
    """f as a function of those of its parameters that modules have."""

    def __init__(self, dynamics: Dynamics, positions: Sequence[int]) -> None:
        self._dynamics = dynamics
        self._wanted = {position: dynamics.parameters[position] for position in positions}
        position_of = {id(p): position for position, p in self._wanted.items()}
        self._slots: list[tuple[dict, str, int]] = [
            (module._parameters, name, position_of[id(p)])
            for module in reached(dynamics.func).modules
            if not isinstance(module, torch.jit.ScriptModule)
            for name, p in module._parameters.items()
            if id(p) in position_of
        ]

    @contextmanager
    def _replaced(self, values: Values) -> Iterator[None]:
        """While active, the modules have other values.

        ``torch.func.functional_call`` does not put back the parameters of a module that occurs twice.
        """
        try:
            for store, name, position in self._slots:
                store[name] = values[position]
            yield
        finally:
            for store, name, position in self._slots:
                store[name] = self._wanted[position]

    def value(self, values: Values, t: Tensor, u: Tensor) -> Tensor:
        """f (size,) at one time and state, in the time of the solver."""
        dynamics, layout = self._dynamics, self._dynamics.layout
        y = layout.unflatten(u.to(layout.device, layout.dtype))
        with self._replaced(values):
            slope = layout.flatten(dynamics.func(t, y))
        return dynamics.direction * slope.to("cpu", torch.float64)

    def jacobian(self, value: Callable[..., Tensor], s: Tensor, *at: Tensor) -> dict[int, Tensor] | None:
        """The Jacobian of ``value``, a function of the parameters and of K rows, at times s (K,).

        None if it takes too much memory, or if torch.func does not take it.
        """
        dynamics, size, count = self._dynamics, self._dynamics.layout.size, len(s)
        values = {position: self._wanted[position].detach() for *_, position in self._slots}
        numbers = sum(p.numel() for p in values.values())
        if not numbers or not count or count * size * numbers > NUMBERS:
            return None
        if dynamics.batching_at(float(s[0]), at[0][0].numpy()) is Batching.LOOP:
            return None
        t = (dynamics.direction * s).to(dynamics.layout.device, dynamics.layout.dtype)
        if dynamics.layout.dtype != torch.float64:
            t = dynamics.span.own_times(t)
        units = torch.eye(size, dtype=torch.float64)

        def rows(*at: Tensor) -> Values:
            pull = vjp(lambda values: value(values, *at), values)[1]
            return vmap(pull)(units)[0]

        try:
            with torch.no_grad():
                found = vmap(rows)(t, *at)
        except Exception:  # whatever it is, it says that torch.func does not take this function
            return None
        dynamics.rhs_evals += count
        # Zeros may have no memory yet.
        return {
            position: torch.zeros(count, size, values[0, 0].numel(), dtype=torch.float64).copy_(
                values.reshape(count, size, -1)
            )
            for position, values in found.items()
        }

    def agree(self, found: dict[int, Tensor], product: Product) -> bool:
        """Whether a Jacobian gives the product along a direction that autograd gives without torch.func."""
        generator = torch.Generator().manual_seed(0)
        direction: list[Tensor | None] = [None] * len(self._dynamics.parameters)
        expected, size = torch.zeros(()), torch.zeros(())
        for position, parameter in self._wanted.items():
            v = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5
            direction[position] = v.to(parameter)
            if position in found:
                expected = expected + found[position] @ v.view(-1)
                size = size + found[position].abs() @ v.view(-1)
        eps = torch.finfo(self._dynamics.layout.dtype).eps
        return bool(((product(direction) - expected).abs() <= 1e3 * eps * size.max()).all())
