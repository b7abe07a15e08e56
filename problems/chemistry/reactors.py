"""Closed, adiabatic, well-stirred reactors as functions func(t, y) of time and state."""

from __future__ import annotations

import abc
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from problems.chemistry.mechanism import Mechanism
from problems.chemistry.units import GAS_CONSTANT
from stiffml.checks import described


class _Reactor(nn.Module, abc.ABC):
    """A mechanism with one quantity held constant. The equations use ``factor`` divided by that quantity."""

    _constant: Tensor
    _factor: Tensor

    dependent = ("T",)
    """What follows from the other components: see :meth:`follow`."""

    def __init__(self, mechanism: Mechanism, name: str, value: float | Tensor, factor: float) -> None:
        super().__init__()
        constant = torch.as_tensor(value, dtype=torch.float64)
        if not bool(((constant > 0) & constant.isfinite()).all()):
            raise ValueError(f"{name} must be positive and finite, not {value}")
        self.mechanism = mechanism
        self.register_buffer("_constant", constant, persistent=False)
        self.register_buffer("_factor", factor / constant.unsqueeze(-1), persistent=False)

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components of the state."""
        return ("T", *self.mechanism.species)

    @property
    def invariants(self) -> dict[str, Tensor]:
        """By element, (1 + k) weights of a sum that reactions conserve: kmol of its atoms in a kg."""
        gas = self.mechanism
        atoms = gas.composition * gas.inverse_weights
        rows = zip(gas.elements, torch.cat([torch.zeros_like(atoms[:, :1]), atoms], dim=1), strict=True)
        return {element: row for element, row in rows if bool(row.any())}

    def follow(self, t: Tensor, y: Tensor, rates: Tensor) -> Tensor:
        """(…, 1 + k) rates, with that of T for which those of the species release or take heat.

        Parameters
        ----------
        t, y : Tensor
            Of which the state y counts.
        rates : Tensor
            (…, 1 + k) dy/dt of further reactions, such as a closure has learned; that of T is replaced.
        """
        gas = self.mechanism
        T, moles = _split(gas, y)
        heat, enthalpy, _ = gas.thermodynamics.mixture(T, gas.thermodynamics.basis(T))
        change = rates[..., 1:]
        slope = self._slope(T, heat, enthalpy, moles, change * gas.inverse_weights)
        return torch.cat([slope, change], dim=-1)

    @staticmethod
    @abc.abstractmethod
    def _slope(T: Tensor, heat: Tensor, enthalpy: Tensor, moles: Tensor, source: Tensor) -> Tensor:
        """dT/dt (…, 1) of changes of moles, from cp/R and h/RT of the species."""

    def state(self, T: float | Tensor, Y: Tensor) -> Tensor:
        """(…, 1 + k) from T (…) or a number in K, and mass fractions Y (…, k).

        Raises
        ------
        TypeError
            For proportions such as ``{"H2": 1}`` in place of mass fractions.
        """
        if not isinstance(Y, Tensor):
            raise TypeError(
                "Y must be a tensor of mass fractions, as mechanism.mass_fractions(moles) and "
                f"mechanism.premixed(phi, fuel) return them, not {described(Y)}"
            )
        T = torch.as_tensor(T, dtype=Y.dtype).unsqueeze(-1)
        shape = torch.broadcast_shapes(T.shape[:-1], Y.shape[:-1])
        return torch.cat([T.expand(*shape, 1), Y.expand(*shape, -1)], dim=-1)


class ConstantPressureReactor(_Reactor):
    """dT/dt = -Σ h ω / (ρ cp) and dY/dt = ω W / ρ at constant pressure, ρ = p/(R T Σ(Y/W)).

    The state y is (…, 1 + k): T in K, then the k mass fractions, and t in s. ω are the net production
    rates, h molar enthalpies, cp the mixture's heat capacity per mass. The equations hold off Σ Y = 1 too,
    as in Cantera's ``IdealGasConstPressureReactor``, and conserve elements there.

    Parameters
    ----------
    mechanism : Mechanism
    pressure : float or Tensor
        Pa; a tensor (…) gives each state its own.

    Examples
    --------
    >>> from problems.chemistry import ConstantPressureReactor, Mechanism
    >>> mechanism = Mechanism.from_yaml("h2o2.yaml")
    >>> reactor = ConstantPressureReactor(mechanism, pressure=101325.0)
    >>> start = reactor.state(1200.0, mechanism.premixed(1.0, "H2"))
    >>> sol = stiffml.solve(reactor, start, torch.tensor([0.0, 1e-3]).double())
    >>> reactor.components[0], bool(sol.y[-1, 0] > 2500)  # K, burnt
    ('T', True)
    >>> hydrogen = sol.y @ reactor.invariants["H"]  # kmol of its atoms in a kg
    >>> bool((hydrogen[1] / hydrogen[0] - 1).abs() < 1e-12)
    True
    """

    def __init__(self, mechanism: Mechanism, pressure: float | Tensor = 101325.0) -> None:
        super().__init__(mechanism, "pressure", pressure, GAS_CONSTANT)

    @property
    def pressure(self) -> Tensor:
        """Pa, () or one for each state."""
        return self._constant

    def forward(self, t: Tensor, y: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """dy/dt; ``parameters`` holds rate parameters to use in place of the mechanism's own."""
        return constant_pressure(self.mechanism, self._factor, y, parameters)

    @staticmethod
    def _slope(T: Tensor, heat: Tensor, enthalpy: Tensor, moles: Tensor, source: Tensor) -> Tensor:
        return _isobaric(T, heat, enthalpy, moles, source)


class ConstantVolumeReactor(_Reactor):
    """dT/dt = -Σ u ω / (ρ cv) and dY/dt = ω W / ρ at constant density ρ.

    As :class:`ConstantPressureReactor`, with molar internal energies u and the heat capacity cv at
    constant volume; Cantera's ``IdealGasReactor``.

    Parameters
    ----------
    mechanism : Mechanism
    density : float or Tensor
        kg/m³, as from ``mechanism.density(T, p, Y)``; a tensor (…) gives each state its own.

    Examples
    --------
    >>> from problems.chemistry import ConstantVolumeReactor, Mechanism
    >>> mechanism = Mechanism.from_yaml("h2o2.yaml")
    >>> T, Y = torch.tensor(1000.0).double(), mechanism.premixed(1.0, "H2")
    >>> reactor = ConstantVolumeReactor(mechanism, mechanism.density(T, 101325.0, Y))
    >>> reactor(t[0], reactor.state(T, Y)).shape, reactor.components[1]  # dT/dt in K/s, dY/dt in 1/s
    (torch.Size([11]), 'H2')
    """

    def __init__(self, mechanism: Mechanism, density: float | Tensor) -> None:
        super().__init__(mechanism, "density", density, 1.0)

    @property
    def density(self) -> Tensor:
        """kg/m³, () or one for each state."""
        return self._constant

    def forward(self, t: Tensor, y: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """dy/dt; ``parameters`` holds rate parameters to use in place of the mechanism's own."""
        mechanism = self.mechanism
        T, moles = _split(mechanism, y)
        heat, enthalpy, source = mechanism.source(T, moles / self._factor, parameters)
        source = source * self._factor
        slope = self._slope(T, heat, enthalpy, moles, source)
        return torch.cat([slope, source * mechanism.molecular_weights], dim=-1)

    @staticmethod
    def _slope(T: Tensor, heat: Tensor, enthalpy: Tensor, moles: Tensor, source: Tensor) -> Tensor:
        return -T * _dot(enthalpy - 1, source) / _dot(heat - 1, moles)  # u/RT = h/RT - 1, cv/R = cp/R - 1


def constant_pressure(
    mechanism: Mechanism, factor: Tensor, y: Tensor, parameters: Mapping[str, Tensor] | None = None
) -> Tensor:
    """dy/dt of :class:`ConstantPressureReactor`, with ``factor`` = R/p."""
    T, moles = _split(mechanism, y)
    volume = T * moles.sum(dim=-1, keepdim=True) * factor  # m³/kg
    heat, enthalpy, source = mechanism.source(T, moles / volume, parameters)
    source = source * volume
    slope = _isobaric(T, heat, enthalpy, moles, source)
    return torch.cat([slope, source * mechanism.molecular_weights], dim=-1)


def _isobaric(T: Tensor, heat: Tensor, enthalpy: Tensor, moles: Tensor, source: Tensor) -> Tensor:
    return -T * _dot(enthalpy, source) / _dot(heat, moles)


def _split(mechanism: Mechanism, y: Tensor) -> tuple[Tensor, Tensor]:
    """T (…, 1), and kmol of each species in a kg of mixture (…, k)."""
    T, Y = y.split((1, y.shape[-1] - 1), dim=-1)
    return T, Y * mechanism.inverse_weights


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(…, 1)."""
    return (a * b).sum(dim=-1, keepdim=True)
