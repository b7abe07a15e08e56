"""Equations with named rate constants that are learned, beside networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stiffml.checks import described, number


class Positive(nn.Module):
    """Named positive constants, learned by their logarithms; ``positive()`` is a mapping of names to tensors.

    Parameters
    ----------
    values : mapping of str to float
        Where they begin.
    bounds : mapping of str to (low, high), optional
        Of some: ln k is then low + (high − low) · sigmoid(x) of the logarithms of the bounds, and x is
        learned.

    Examples
    --------
    >>> from stiffml.closures import Positive
    >>> k = Positive({"k1": 0.04, "k2": 3e7}, bounds={"k2": (1e6, 1e9)})
    >>> {name: f"{value.item():.6g}" for name, value in k().items()}
    {'k1': '0.04', 'k2': '3e+07'}
    """

    def __init__(self, values: Mapping[str, float], bounds: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if not isinstance(values, Mapping) or not values:
            raise TypeError(f"constants must be a mapping of names to numbers, not {described(values)}")
        bounds = dict(bounds or {})
        unknown = [name for name in bounds if name not in values]
        if unknown:
            raise ValueError(f"bounds: there is no constant {unknown[0]!r}; there are {', '.join(values)}")
        self.bounds: dict[str, tuple[float, float]] = {}
        self.raw = nn.ParameterDict()
        for name, value in values.items():
            x = math.log(number(f"constants: {name}", value, above=0))
            if name in bounds:
                low, high = (
                    math.log(number(f"bounds: {name}", side, above=0)) for side in _pair(name, bounds[name])
                )
                if not low < x < high:
                    raise ValueError(
                        f"constants: {name} = {value:g} must lie between its bounds {bounds[name]}"
                    )
                self.bounds[name] = (low, high)
                x = math.log((x - low) / (high - x))
            self.raw[name] = nn.Parameter(torch.tensor(x, dtype=torch.float64))

    def forward(self) -> dict[str, Tensor]:
        return {name: torch.exp(self._logarithm(name, raw)) for name, raw in self.raw.items()}

    def _logarithm(self, name: str, raw: Tensor) -> Tensor:
        if name not in self.bounds:
            return raw
        low, high = self.bounds[name]
        return low + (high - low) * torch.sigmoid(raw)


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    try:
        low, high = value
    except (TypeError, ValueError):
        raise ValueError(f"bounds: {name} must be (low, high), not {described(value)}") from None
    return low, high


class Hybrid(nn.Module):
    """func(t, y) = rhs(t, y, p), with p a mapping of learned constants, fixed ones, and networks by name.

    Parameters
    ----------
    rhs : callable
        rhs(t, y, p) -> dy/dt, as of the problems library.
    constants : mapping of str to float
        Positive, and learned by their logarithms: see :class:`Positive`.
    fixed : mapping of str to float or Tensor, optional
        Other entries of p; they stay as they are.
    networks : mapping of str to nn.Module, optional
        Further entries of p.
    bounds : mapping of str to (low, high), optional
        Of some constants, as of :class:`Positive`.

    Raises
    ------
    TypeError, ValueError
        For constants that are not positive or outside their bounds, or a name in two mappings.

    Examples
    --------
    >>> import torch, stiffml
    >>> from stiffml.closures import Hybrid, mlp
    >>> def rhs(t, y, p):
    ...     return -p["k"] * y + p["gain"](y)
    >>> model = Hybrid(rhs, {"k": 50.0}, networks={"gain": mlp([1, 4, 1], gain=0.1)})
    >>> y = stiffml.odeint(model, torch.ones(1).double(), torch.linspace(0, 1, 2, dtype=torch.float64))
    >>> y[-1].square().sum().backward()
    >>> sorted(name for name, _ in model.named_parameters())[0]
    'constants.raw.k'
    """

    def __init__(
        self,
        rhs: Callable[[Tensor, Tensor, Mapping[str, Any]], Tensor],
        constants: Mapping[str, float],
        *,
        bounds: Mapping[str, Any] | None = None,
        fixed: Mapping[str, Any] | None = None,
        networks: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not callable(rhs):
            raise TypeError(f"rhs must be callable as rhs(t, y, p), not {described(rhs)}")
        self.rhs = rhs
        self.constants = Positive(constants, bounds)
        fixed, networks = dict(fixed or {}), dict(networks or {})
        twice = (set(constants) & set(fixed)) | ((set(constants) | set(fixed)) & set(networks))
        if twice:
            raise ValueError(f"{sorted(twice)[0]} is in two of constants, fixed and networks")
        self._fixed = tuple(fixed)
        for name, value in fixed.items():
            value = torch.as_tensor(value, dtype=torch.float64)
            self.register_buffer(f"fixed_{name}", value, persistent=False)
        for name, network in networks.items():
            if not isinstance(network, nn.Module):
                raise TypeError(f"networks: {name} must be a torch.nn.Module, not {described(network)}")
        self.networks = nn.ModuleDict(networks)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        fixed = {name: getattr(self, f"fixed_{name}") for name in self._fixed}
        return self.rhs(t, y, {**fixed, **self.constants(), **self.networks})
