"""Scales of state, time and derivative together, and a network that works with scaled ones.

Training on y/scale and t/t_end, whose derivatives have size 1, is what made neural ODEs of Robertson's
problem possible: S. Kim, W. Ji, S. Deng, Y. Ma & C. Rackauckas, Stiff neural ordinary differential equations,
Chaos 31 (2021) 093122.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stiffml.checks import described
from stiffml.training.data.runs import Runs
from stiffml.training.data.scalers import Range, Scaler, fitted, require_scaler


class Scaling(nn.Module):
    """Scales of state and time, z = S(y) and τ = T(t), and what they make of derivatives.

    Parameters
    ----------
    state, time : Scaler
        That of the state over its components, that of time of single numbers.

    Examples
    --------
    >>> import torch
    >>> from stiffml.training.data import Run, Runs, Scaling
    >>> runs = Runs([Run("a", [0.0, 10.0], [[0.0, 3e-5], [2.0, 1e-5]])], ["A", "B"])
    >>> scaling = Scaling.fit(runs)
    >>> scaling.rate(0.0, torch.zeros(2), torch.tensor([0.2, 0.0]).double())  # dz/dτ
    tensor([1.0000, 0.0000], dtype=torch.float64)
    """

    def __init__(self, state: Scaler, time: Scaler) -> None:
        super().__init__()
        require_scaler("Scaling: state", state)
        require_scaler("Scaling: time", time)
        self.state, self.time = state, time

    @classmethod
    def fit(
        cls, runs: Runs, state: type[Scaler] | Scaler = Range, time: type[Scaler] | Scaler = Range
    ) -> Scaling:
        """Fitted to runs, which must be those to train on only; by default y/(max − min), t/t_end."""
        if not isinstance(runs, Runs):
            raise TypeError(f"runs must be Runs, not {described(runs)}")
        times = torch.from_numpy(runs.times)
        return cls(fitted("state", state, torch.from_numpy(runs.values)), fitted("time", time, times))

    def rate(self, t: Any, y: Tensor, dydt: Tensor) -> Tensor:
        """dz/dτ = S′(y) · dy/dt / T′(t)."""
        return self.state.derivative(y) * dydt / self.time.derivative(self._time(t, y))

    def inverse_rate(self, tau: Any, z: Tensor, dzdtau: Tensor) -> Tensor:
        """dy/dt = (dy/dz) · dz/dτ / (dt/dτ)."""
        return self.state.inverse_derivative(z) * dzdtau / self.time.inverse_derivative(self._time(tau, z))

    @staticmethod
    def _time(t: Any, y: Tensor) -> Tensor:
        """One time, or one of each state, (…), as a number beside the components."""
        t = torch.as_tensor(t, dtype=y.dtype, device=y.device)
        return t[..., None] if t.dim() else t


class Scaled(nn.Module):
    """func(t, y) in units of the data, of a network that sees scaled time and state, and returns dz/dτ.

    Parameters
    ----------
    net : nn.Module
        net(τ, z) -> dz/dτ, in the shape of z.
    scaling : Scaling
        Saved with the network in ``state_dict``.

    Examples
    --------
    >>> from stiffml.training.data import Scaled, Scaling
    >>> network = Decay(1.0)  # dz/dτ = −z, in units of the data's ranges: 1 for A and 2 for time
    >>> model = Scaled(network, Scaling.fit(runs))
    >>> model(torch.tensor(0.0), torch.tensor([1.0]).double())  # −1/2 in units of the data
    tensor([-0.5000], dtype=torch.float64, grad_fn=<DivBackward0>)
    """

    def __init__(self, net: Callable[[Tensor, Tensor], Tensor], scaling: Scaling) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"Scaled: net must be a torch.nn.Module, not {described(net)}")
        if not isinstance(scaling, Scaling):
            raise TypeError(f"Scaled: scaling must be a Scaling, not {described(scaling)}")
        self.net, self.scaling = net, scaling

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        tau, z = self.scaling.time(t), self.scaling.state(y)
        return self.scaling.inverse_rate(tau, z, self.net(tau, z))
