"""States as xarray Datasets that follow the CF conventions: names, units, and what made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stiffml.version import made_by

if TYPE_CHECKING:
    import xarray

MIXED = "the units of each component are in the coordinate units"


@dataclass(frozen=True)
class Labels:
    """Names and units of a problem's states, and what a Dataset says of it.

    Attributes
    ----------
    components, units : tuple of str
        Along the first axis of a state; a unit for each.
    time_units : str
    grid : mapping of str to ndarray
        Coordinates along the further axes.
    grid_units : str
        Of all of them.
    about : mapping
        Attributes: numbers and texts.
    """

    components: tuple[str, ...]
    units: tuple[str, ...]
    time_units: str = "1"
    grid: Mapping[str, np.ndarray] = field(default_factory=dict)
    grid_units: str = "1"
    about: Mapping[str, Any] = field(default_factory=dict)

    def dataset(self, t: np.ndarray, values: Mapping[str, np.ndarray], **about: Any) -> xarray.Dataset:
        """States ([trajectory,] time, component [, grid]) by name; ``about`` are further attributes."""
        import xarray

        dims = ("time", "component", *self.grid)
        attrs = {"long_name": "state", **shared_units(self.units)}
        variables = {
            name: (("trajectory", *dims) if array.ndim > len(dims) else dims, array, dict(attrs))
            for name, array in values.items()
        }
        axes = zip(self.grid.items(), "XYZ", strict=False)
        coords: dict[str, Any] = {
            "time": ("time", t, {"long_name": "time", "units": self.time_units}),
            "component": ("component", list(self.components), {"long_name": "component"}),
            "units": ("component", list(self.units), {"long_name": "units of the component"}),
            **{
                name: (name, x, {"long_name": name, "units": self.grid_units, "axis": axis})
                for (name, x), axis in axes
            },
        }
        return xarray.Dataset(variables, coords, attrs={**made_by(), **self.about, **about})


def shared_units(units: tuple[str, ...]) -> dict[str, str]:
    """The attribute ``units`` where all are the same; where they differ there is none, but a comment."""
    return {"units": units[0]} if len(set(units)) == 1 else {"comment": MIXED}


def plain_dataset(
    t: np.ndarray,
    arrays: Sequence[np.ndarray],
    names: Sequence[str] | None,
    units: str | None,
    about: Mapping[str, Any],
) -> xarray.Dataset:
    """States (time, …) that have no labels of their own."""
    import xarray

    variables: dict[str, tuple] = {}
    coords: dict[str, Any] = {"time": ("time", t, {"long_name": "time"})}
    for position, values in enumerate(arrays):
        name = "state" if len(arrays) == 1 else f"state{position}"
        dims = ["time", *(f"{name}_dim{i}" for i in range(values.ndim - 1))]
        if names is not None and values.ndim > 1:
            if len(names) != values.shape[-1]:
                raise ValueError(f"names: {len(names)} given, but {name} has {values.shape[-1]} components")
            dims[-1] = "component"
            coords["component"] = ("component", list(names), {"long_name": "component"})
        attrs = {"long_name": "state", **({"units": units} if units else {})}
        variables[name] = (tuple(dims), values, attrs)
    return xarray.Dataset(variables, coords, attrs={**made_by(), **about})
