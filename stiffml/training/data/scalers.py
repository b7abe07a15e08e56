"""Maps of values to scaled values, fitted to training data; modules, so that they travel with a model."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.checks import array, described
from stiffml.training.data.run import numbers
from stiffml.training.data.runs import Runs


class Scaler(nn.Module, abc.ABC):
    """A map of each component of its own, x to z, increasing and differentiable.

    ``scaler(x)`` and ``scaler.inverse(z)`` take any leading dimensions, (…, components); ``derivative`` is
    dz/dx at x, and ``inverse_derivative`` dx/dz at z.

    Examples
    --------
    >>> from stiffml.training.data import Range, Scaler
    >>> scaler = Range.fit(runs)
    >>> isinstance(scaler, Scaler), float(scaler.inverse(scaler(torch.tensor([0.5]).double())))
    (True, 0.5)
    """

    @classmethod
    @abc.abstractmethod
    def fit(cls, data: Any) -> Scaler:
        """From the observations of runs, or from values (…, components), NaN where there are none."""

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def inverse(self, z: Tensor) -> Tensor:
        """x of z, (…, components)."""

    @abc.abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """dz/dx at x, (…, components)."""

    @abc.abstractmethod
    def inverse_derivative(self, z: Tensor) -> Tensor:
        """dx/dz at z, (…, components)."""

    def _keep(self, **buffers: Any) -> None:
        for name, value in buffers.items():
            what = f"{type(self).__name__}: {name}"
            numbers = array(what, value)
            if numbers.ndim > 1 or numbers.size == 0:
                raise ValueError(f"{what} must be a number or one for each component, not {described(value)}")
            self.register_buffer(name, torch.tensor(numbers))


class _Affine(Scaler):
    """z = (x − offset)/scale.

    Parameters
    ----------
    offset, scale : array_like
        (components,) or one number; scale positive.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, offset: Any, scale: Any) -> None:
        super().__init__()
        self._keep(scale=scale, offset=offset)
        _require_positive(self, "scale")

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.offset) / self.scale

    def inverse(self, z: Tensor) -> Tensor:
        return self.offset + self.scale * z

    def derivative(self, x: Tensor) -> Tensor:
        return (1 / self.scale).expand_as(x)

    def inverse_derivative(self, z: Tensor) -> Tensor:
        return self.scale.expand_as(z)


class MinMax(_Affine):
    """z = (x − min)/(max − min), from 0 to 1 on the data it was fitted to.

    A component that is constant, or was never observed, keeps its scale.

    Parameters
    ----------
    offset, scale : array_like
        (components,) or one number: the smallest, and the range, positive; :meth:`fit` finds them.

    Examples
    --------
    >>> from stiffml.training.data import MinMax
    >>> scaler = MinMax.fit(np.array([[10.0], [30.0]]))
    >>> scaler(torch.tensor([[10.0], [20.0], [30.0]]).double()).flatten()
    tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """

    @classmethod
    def fit(cls, data: Runs | Tensor | np.ndarray) -> MinMax:
        """From the observations of runs, or from values (…, components), NaN where there are none."""
        x = _observed(data)
        low, high = np.nanmin(x, axis=0), np.nanmax(x, axis=0)
        return cls(low, _or_one(high - low))


class Standard(_Affine):
    """z = (x − mean)/(standard deviation).

    A component that is constant, or was never observed, keeps its scale.

    Parameters
    ----------
    offset, scale : array_like
        (components,) or one number: mean and deviation, positive; :meth:`fit` finds them.

    Examples
    --------
    >>> from stiffml.training.data import Standard
    >>> scaler = Standard.fit(np.array([[10.0], [30.0]]))  # mean 20, standard deviation 10
    >>> scaler(torch.tensor([[10.0], [20.0], [30.0]]).double()).flatten()
    tensor([-1.,  0.,  1.], dtype=torch.float64)
    """

    @classmethod
    def fit(cls, data: Runs | Tensor | np.ndarray) -> Standard:
        """From the observations of runs, or from values (…, components), NaN where there are none."""
        x = _observed(data)
        return cls(np.nanmean(x, axis=0), _or_one(np.nanstd(x, axis=0)))


class Range(_Affine):
    """z = x/(max − min), which leaves 0 where it is; the scale of Kim et al. (2021), also of times.

    A component that is constant, or was never observed, keeps its scale.

    Parameters
    ----------
    scale : array_like
        (components,) or one number; positive.

    Examples
    --------
    >>> from stiffml.training.data import Range
    >>> scaler = Range.fit(np.array([[10.0], [30.0]]))
    >>> scaler(torch.tensor([[0.0], [20.0]]).double()).flatten()
    tensor([0., 1.], dtype=torch.float64)
    """

    def __init__(self, scale: Any) -> None:
        scale = array("Range: scale", scale)
        super().__init__(np.zeros_like(scale), scale)

    @classmethod
    def fit(cls, data: Runs | Tensor | np.ndarray) -> Range:
        """From the observations of runs, or from values (…, components), NaN where there are none."""
        x = _observed(data)
        return cls(_or_one(np.nanmax(x, axis=0) - np.nanmin(x, axis=0)))


class Log(Scaler):
    """z = log(max(x, floor)), for what spans decades; not to be inverted below the floor.

    Parameters
    ----------
    floor : array_like
        (components,) or one number; positive. What lies below is noise or nothing.

    Examples
    --------
    >>> from stiffml.training.data import Log
    >>> Log(1e-6)(torch.tensor([1.0, 1e-3, 0.0]).double())
    tensor([  0.0000,  -6.9078, -13.8155], dtype=torch.float64)
    """

    floor: Tensor

    def __init__(self, floor: Any) -> None:
        super().__init__()
        self._keep(floor=floor)
        _require_positive(self, "floor")

    @classmethod
    def fit(cls, data: Runs | Tensor | np.ndarray) -> Log:
        """With a floor of 1e-6 of each component's largest observation."""
        return cls(_share_of_largest(data, 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.floor).log()

    def inverse(self, z: Tensor) -> Tensor:
        return z.exp()

    def derivative(self, x: Tensor) -> Tensor:
        """1/x, and 0 below the floor."""
        return torch.where(x >= self.floor, 1 / torch.maximum(x, self.floor), 0)

    def inverse_derivative(self, z: Tensor) -> Tensor:
        return z.exp()


class ASinh(Scaler):
    """z = asinh(x/scale): linear where x is small against the scale, logarithmic beyond, on both sides of 0.

    Parameters
    ----------
    scale : array_like
        (components,) or one number; positive.

    Examples
    --------
    >>> from stiffml.training.data import ASinh
    >>> ASinh(1e-3)(torch.tensor([-1.0, 0.0, 1e-3, 1.0]).double())
    tensor([-7.6009,  0.0000,  0.8814,  7.6009], dtype=torch.float64)
    """

    scale: Tensor

    def __init__(self, scale: Any) -> None:
        super().__init__()
        self._keep(scale=scale)
        _require_positive(self, "scale")

    @classmethod
    def fit(cls, data: Runs | Tensor | np.ndarray) -> ASinh:
        """With a scale of 1e-3 of each component's largest observation."""
        return cls(_share_of_largest(data, 1e-3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.asinh(x / self.scale)

    def inverse(self, z: Tensor) -> Tensor:
        return self.scale * torch.sinh(z)

    def derivative(self, x: Tensor) -> Tensor:
        return 1 / torch.hypot(x, self.scale.expand_as(x))

    def inverse_derivative(self, z: Tensor) -> Tensor:
        return self.scale * torch.cosh(z)


class Chain(Scaler):
    """One scaler after another.

    Parameters
    ----------
    *scalers : Scaler
        The first sees the data. ``Chain.fit(data, Log, MinMax)`` fits kinds of scalers one after the other.

    Examples
    --------
    >>> import torch
    >>> from stiffml.training.data import Chain, Log, MinMax
    >>> scaler = Chain.fit(torch.tensor([[1e-4], [1.0]], dtype=torch.float64), Log, MinMax)
    >>> scaler(torch.tensor([1e-2], dtype=torch.float64))
    tensor([0.5000], dtype=torch.float64)
    """

    def __init__(self, *scalers: Scaler) -> None:
        super().__init__()
        for scaler in scalers:
            require_scaler("Chain: scalers", scaler)
        self.scalers = nn.ModuleList(scalers)

    @classmethod
    def fit(cls, data: Runs | Tensor | np.ndarray, *kinds: type[Scaler] | Scaler) -> Chain:
        """Each fitted to what those before it make of the data; scalers that are fitted already stay so."""
        if not kinds:
            raise ValueError("Chain: kinds must not be empty")
        x = torch.from_numpy(_observed(data))
        scalers: list[Scaler] = []
        for kind in kinds:
            scalers.append(fitted("Chain: kinds", kind, x))
            x = scalers[-1](x)
        return cls(*scalers)

    def forward(self, x: Tensor) -> Tensor:
        for scaler in self.scalers:
            x = scaler(x)
        return x

    def inverse(self, z: Tensor) -> Tensor:
        for scaler in reversed(self.scalers):
            z = scaler.inverse(z)  # type: ignore[operator]
        return z

    def derivative(self, x: Tensor) -> Tensor:
        product = torch.ones_like(x)
        for scaler in self.scalers:
            product, x = product * scaler.derivative(x), scaler(x)  # type: ignore[operator]
        return product

    def inverse_derivative(self, z: Tensor) -> Tensor:
        product = torch.ones_like(z)
        for scaler in reversed(self.scalers):
            product, z = product * scaler.inverse_derivative(z), scaler.inverse(z)  # type: ignore[operator]
        return product


def fitted(name: str, kind: type[Scaler] | Scaler, x: Tensor) -> Scaler:
    if isinstance(kind, Scaler):
        return kind
    if not (isinstance(kind, type) and issubclass(kind, Scaler)):
        raise TypeError(f"{name} must be a Scaler or a kind of it, such as MinMax, not {described(kind)}")
    return kind.fit(x)


def require_scaler(name: str, value: object) -> None:
    if not isinstance(value, Scaler):
        raise TypeError(f"{name} must be a Scaler, such as MinMax.fit(runs), not {described(value)}")


def _require_positive(scaler: Scaler, name: str) -> None:
    values = getattr(scaler, name)
    if not (values > 0).all():
        raise ValueError(f"{type(scaler).__name__}: {name} must be positive, not {described(values)}")


def _observed(data: Any) -> np.ndarray:
    """(rows, components) or (rows,); components that were never observed are 0."""
    x = data.values if isinstance(data, Runs) else data
    dims = getattr(x, "ndim", 0)
    x = numbers("data", x, dims)
    if dims == 0 or x.size == 0:
        raise ValueError(f"data must be Runs, or values with at least one row, not {described(data)}")
    x = x.reshape(-1, x.shape[-1]) if dims > 1 else x
    return np.where(np.isnan(x).all(axis=0), 0.0, x)


def _or_one(scale: np.ndarray) -> np.ndarray:
    return np.where(scale > 0, scale, 1.0)


def _share_of_largest(data: Any, share: float) -> np.ndarray:
    return _or_one(share * np.nanmax(np.abs(_observed(data)), axis=0))
