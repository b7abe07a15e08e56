"""A set of runs: what a training is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from stiffml.checks import described, number
from stiffml.checks import path as checked_path
from stiffml.display import screen
from stiffml.files import save_netcdf
from stiffml.training.data import arrays, splitting
from stiffml.training.data.batches import Batch, Minibatches, padded
from stiffml.training.data.display import as_html, as_text, draw
from stiffml.training.data.labels import Labels, require_known, started
from stiffml.training.data.run import Run, distinct

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.figure import Figure


class Runs(Sequence[Run]):
    """Runs of the same components, each with times of its own, and with gaps.

    ``runs[0]`` and ``runs["exp00"]`` are runs; ``runs[:3]`` and ``runs[["exp00", "exp03"]]`` sets of them.
    :func:`read_csv`, :func:`from_pandas`, :func:`from_xarray` and :func:`read_netcdf` make sets from files
    and tables.

    Parameters
    ----------
    runs : iterable of Run
        At least one, with different names, and with the same inputs and columns of forcing.
    components : sequence of str
    units : str, sequence or mapping of str
        Of all components, of each, or by name, also of inputs and forcing. Default ``"1"``.
    time_units : str
        Default ``"1"``.
    noise : float or mapping
        Standard deviation of observations' errors, of all components or by name. Default: not known.
    initial : str, float or mapping
        Initial values, of all components or by name; see :meth:`with_initial`. Default: those of the runs.

    Raises
    ------
    TypeError, ValueError
        For runs that do not fit together; the message names the run.

    Examples
    --------
    >>> from stiffml.training.data import Run, Runs
    >>> a = Run("a", [0.0, 1.0, 4.0], [[1.0], [0.6], [0.1]])
    >>> b = Run("b", [0.0, 2.0], [[2.0], [float("nan")]])
    >>> runs = Runs([a, b], ["A"], units="mol/L", time_units="s", initial="known")
    >>> runs
    2 runs of A [mol/L]
      run  times  from … to [s]  observed
      a        3          0 … 4    3 of 3
      b        2          0 … 2    1 of 2
    >>> runs.padded().times
    tensor([[0., 1., 4.],
            [0., 2., 2.]], dtype=torch.float64)
    """

    def __init__(
        self,
        runs: Iterable[Run],
        components: Sequence[str],
        *,
        units: str | Sequence[str] | Mapping[str, str] = "1",
        time_units: str = "1",
        noise: Any = None,
        initial: Any = None,
    ) -> None:
        labels = Labels(components, units, time_units, noise)  # type: ignore[arg-type]
        found = _fitting(runs, labels.components)
        if initial is not None:
            found = [started(run, initial, labels) for run in found]
        self._set(found, labels)

    def _set(self, runs: Sequence[Run], labels: Labels) -> Runs:
        self._runs, self.labels = tuple(runs), labels
        return self

    def _with(self, runs: Sequence[Run]) -> Runs:
        return Runs.__new__(Runs)._set(runs, self.labels)

    # What it holds

    @property
    def names(self) -> tuple[str, ...]:
        """Of the runs, in their order."""
        return tuple(run.name for run in self)

    @property
    def components(self) -> tuple[str, ...]:
        """Their names, in the order of the state."""
        return self.labels.components

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(self[0].inputs)

    @property
    def noise(self) -> np.ndarray:
        """(components,) standard deviation of the errors of observations, NaN where it is not known."""
        return self.labels.noise

    def units_of(self, name: str) -> str:
        """The unit of a component, an input or a column of forcing."""
        return self.labels.units_of(name)

    @property
    def times(self) -> np.ndarray:
        """(rows,) the times of all runs, one run after the other."""
        return np.concatenate([run.times for run in self])

    @property
    def values(self) -> np.ndarray:
        """(rows, components) the observations of all runs, NaN where there are none, or have weight 0."""
        return np.concatenate([run.observations for run in self])

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    @overload
    def __getitem__(self, key: int | str) -> Run: ...
    @overload
    def __getitem__(self, key: slice | list[str] | list[int]) -> Runs: ...
    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            require_known("runs", [key], self.names)
            return self._runs[self.names.index(key)]
        if isinstance(key, slice | list | tuple):
            chosen = self._runs[key] if isinstance(key, slice) else [self[one] for one in key]
            if not chosen:
                raise IndexError(f"runs: nothing is left of {len(self)} runs by [{described(key)}]")
            return self._with(_fitting(chosen, self.components))
        return self._runs[key]

    # What is changed

    def with_initial(self, initial: Any, noise: Any = None) -> Runs:
        """The runs with initial values as said, for all components or by name; others stay as they are.

        Parameters
        ----------
        initial : str, float or mapping
            ``"known"``: exactly the value at the first time. ``"measured"``: that, with the error of
            observations; where it is missing, or has weight 0, as the next. ``"learned"``: nothing is known,
            and the earliest observation is where to begin. A number: exactly that, in all runs.
        noise : float or mapping
            Standard deviation of the errors, of all components or by name. Default: as it was.

        Returns
        -------
        Runs
            Each run's ``y0`` holds the values and ``y0_noise`` their standard deviation, 0 for what is
            known, infinite for what is to be learned.

        Raises
        ------
        ValueError
            For a component that there is not, a value to be known that is missing, or one to be measured
            without ``noise``.

        Examples
        --------
        >>> from stiffml.training.data import Run, Runs
        >>> runs = Runs([Run("a", [0.0, 1.0], [[1.1, 0.0], [0.6, 0.5]])], ["A", "B"])
        >>> run = runs.with_initial({"A": "measured", "B": 0.0}, noise={"A": 0.1})[0]
        >>> run.y0, run.y0_noise
        (array([1.1, 0. ]), array([0.1, 0. ]))
        """
        labels = self.labels if noise is None else self.labels.with_noise(noise)
        return Runs.__new__(Runs)._set([started(run, initial, labels) for run in self], labels)

    def starting_at(self, time: float) -> Runs:
        """The runs with a first row at this time, without observations where there was none.

        Initial values are then of this time, and to be learned unless :meth:`with_initial` says more.
        """
        return self._with([run.starting_at(number("time", time)) for run in self])

    # What a training takes

    def split(
        self,
        by: str = "run",
        fraction: float | None = None,
        *,
        seed: int = 0,
        validate: Sequence[str] | None = None,
        at: float | None = None,
    ) -> tuple[Runs, Runs]:
        """The runs in two parts, to train on and to validate on; no observation is in both.

        Windows of one run stay together; by time, split before cutting them.

        Parameters
        ----------
        by : str
            ``"run"``: each run as a whole. ``"time"``: the earlier part of each to train on; the later part
            starts with its first complete state, rows before which are left out. A run of which a part has
            one time only is left out of that part.
        fraction : float
            Share of the runs, or of the times of each run, to train on. Default 0.8.
        seed : int
            Which runs are chosen. Default 0.
        validate : sequence of str
            The names of the runs to validate on, in place of ``fraction``.
        at : float
            The first time to validate on, in place of ``fraction``.

        Raises
        ------
        ValueError
            If a part would be empty, or for a name that no run has.

        Examples
        --------
        >>> train, validate = runs.split(fraction=0.5, seed=0)
        >>> len(train), len(validate)
        (1, 1)
        >>> early, late = runs.split("time", at=1.0)
        >>> float(early[0].times[-1]), float(late[0].times[0])
        (0.75, 1.0)
        """
        train, rest = splitting.parts(self._runs, self.noise, by, fraction, seed, validate, at)
        return self._with(train), self._with(rest)

    def windows(self, length: int, stride: int = 1) -> Runs:
        """All stretches of ``length`` + 1 successive times, each a run of its own.

        A window starts from the state observed in its first row, with the error ``noise`` if that is known,
        else exactly; one at the start of a run starts as the run does. Where a component is missing at a
        start, the start moves on to the next complete row; components that are observed nowhere do not count,
        and are to be learned.

        Parameters
        ----------
        length : int
            Intervals in a window.
        stride : int
            Rows between the starts of successive windows. Default 1.

        Raises
        ------
        ValueError
            If there is no window.

        Examples
        --------
        >>> windows = runs.windows(4, stride=4)  # of 9 times, 8 intervals, in 2 runs
        >>> windows.names, len(windows[0])
        (('a[0:5]', 'a[4:9]', 'b[0:5]', 'b[4:9]'), 5)
        """
        return self._with(splitting.windows(self._runs, self.noise, length, stride))

    def padded(self, dtype: torch.dtype = torch.float64, device: Any = None) -> Batch:
        """All runs as tensors of one shape; see :class:`stiffml.training.data.Batch`."""
        return padded(self._runs, dtype, device)

    def minibatches(self, size: int, **more: Any) -> Minibatches:
        """Batches of ``size`` runs; ``more`` as for :class:`stiffml.training.data.Minibatches`."""
        return Minibatches(self._runs, size, **more)

    # What it is turned into

    def to_xarray(self) -> xarray.Dataset:
        """A Dataset over (run, row, component), NaN where runs are shorter; :func:`from_xarray` reads it."""
        return arrays.dataset(self._runs, self.labels)

    def to_netcdf(self, path: str | Path) -> None:
        """Write a netCDF file, for :func:`read_netcdf`; an old file is replaced only by a complete new one.

        Raises
        ------
        OSError
            If it cannot be written; the message has the path.
        """
        save_netcdf(checked_path("path", path), self.to_xarray())

    def to_pandas(self) -> pandas.DataFrame:
        """A table with the columns ``run``, ``time``, and one for each component and input.

        Examples
        --------
        >>> runs.to_pandas().head(2)
          run  time         A
        0   a  0.00  1.000000
        1   a  0.25  0.472367
        """
        import pandas

        tables = [
            pandas.DataFrame({"run": run.name, "time": run.times})
            .join(pandas.DataFrame(run.values, columns=list(self.components)))
            .assign(**run.inputs)
            for run in self
        ]
        return pandas.concat(tables, ignore_index=True)

    def plot(self) -> Figure:
        """The observations of all runs as points over time, a panel for each component, at most 16.

        The time axis is logarithmic where times span decades, and begins with a linear piece if one is 0.
        """
        return draw(self._runs, self.labels)

    def __repr__(self) -> str:
        return screen(as_text(self._runs, self.labels))

    def _repr_html_(self) -> str:
        return as_html(self._runs, self.labels)


def _fitting(runs: Iterable[Run], components: tuple[str, ...]) -> list[Run]:
    """The runs as a list, checked to have the same components, inputs and forcing."""
    if isinstance(runs, str | bytes | Mapping) or not isinstance(runs, Iterable):
        raise TypeError(f"runs must be a sequence of Run, not {described(runs)}")
    found = list(runs)
    if not found:
        raise ValueError("runs must not be empty")
    for run in found:
        if not isinstance(run, Run):
            raise TypeError(f"runs must be a sequence of Run, but there is {described(run)} among them")
        if run.values.shape[1] != len(components):
            raise ValueError(
                f"components: there are {len(components)}, {', '.join(components)}, but run {run.name} has "
                f"{run.values.shape[1]}"
            )
        for what, own, first in (
            ("inputs", tuple(run.inputs), tuple(found[0].inputs)),
            ("forcing", run.forcing and run.forcing.names, found[0].forcing and found[0].forcing.names),
        ):
            if own != first:
                raise ValueError(f"runs: {found[0].name} has {what} {first}, but {run.name} has {own}")
    distinct("runs: names", [run.name for run in found])
    return found
