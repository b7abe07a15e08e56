"""Runs from CSV files and pandas tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stiffml.checks import described, number, texts
from stiffml.checks import path as checked_path
from stiffml.training.data.labels import named, require_known
from stiffml.training.data.run import Forcing, Run, distinct
from stiffml.training.data.runs import Runs

if TYPE_CHECKING:
    import pandas

_MISSING = {"", "na", "n/a", "nan", "null", "none"}
_ONE = "run0"


def read_csv(
    path: str | Path,
    *,
    time: str,
    run: str | None = None,
    forcing: str | Path | None = None,
    separator: str = ",",
    **more: Any,
) -> Runs:
    """Runs from a CSV file: a line of names, then a row for each time of each run, in any order.

    Empty fields, NA and NaN are missing values.

    Parameters
    ----------
    path : str or Path
    time, run : str
        The columns of times and of names of runs. Without ``run`` all rows are one run.
    forcing : str or Path
        A file with what acts on the runs from outside, at times of its own: the columns ``time``, perhaps
        ``run``, and one for each quantity.
    separator : str
        Default ``","``.
    **more
        As of :func:`from_pandas`: ``columns``, ``inputs``, ``weights``, ``units``, ``time_units``, ``noise``,
        ``initial``, ``start``.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If one is no table, and as :func:`from_pandas`.

    Examples
    --------
    >>> import os, tempfile
    >>> from stiffml.training.data import read_csv
    >>> text = "exp,t,A,B,T\\nx,0,1.0,,300\\nx,2,0.6,0.4,300\\ny,0,2.0,0.0,350\\n"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "runs.csv")
    ...     with open(path, "w") as file:
    ...         _ = file.write(text)
    ...     read_csv(path, run="exp", time="t", inputs=["T"], units={"T": "K"}, time_units="s")
    2 runs of A, B
      run  times  from … to [s]  observed  T [K]
      x        2          0 … 2    3 of 4    300
      y        1          0 … 0    2 of 2    350
    """
    if not isinstance(separator, str) or len(separator) != 1:
        raise TypeError(f"separator must be one character, not {described(separator)}")
    frame = _read("path", path, separator)
    table = None if forcing is None else _read("forcing", forcing, separator)
    try:
        return from_pandas(frame, time=time, run=run, forcing=table, **more)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_pandas(
    frame: pandas.DataFrame,
    *,
    time: str,
    run: str | None = None,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    inputs: Sequence[str] = (),
    weights: Mapping[str, str] | None = None,
    forcing: pandas.DataFrame | None = None,
    units: str | Sequence[str] | Mapping[str, str] = "1",
    time_units: str = "1",
    noise: Any = None,
    initial: Any = None,
    start: float | None = None,
) -> Runs:
    """Runs from a table with a row for each time of each run, in any order.

    Parameters
    ----------
    frame : pandas.DataFrame
        Levels of its index that have names count as columns.
    time, run : str
        The columns of times and of names of runs. Without ``run`` all rows are one run.
    columns : sequence or mapping of str
        The columns of components, or these and how to call the components. Default: all other columns.
    inputs : sequence of str
        Columns with one value in all rows of a run.
    weights : mapping of str
        From components to columns with weights of their observations.
    forcing : pandas.DataFrame
        What acts on the runs from outside: the columns ``time``, perhaps ``run``, and one for each quantity.
    units, time_units, noise, initial
        As for :class:`Runs`.
    start : float
        When all runs began, if that is before the first row: ``initial`` is then said of this time.

    Raises
    ------
    TypeError, ValueError
        For a column that there is not (the message has the nearest names), two rows of one run at one time, a
        missing time, an input that varies, or a field that is no number.

    Examples
    --------
    >>> import pandas
    >>> from stiffml.training.data import from_pandas
    >>> frame = pandas.DataFrame({"t": [1.0, 0.0], "A": [0.5, 1.0]})
    >>> from_pandas(frame, time="t")[0].values
    array([[1. ],
           [0.5]])
    """
    frame = _frame("frame", frame)
    known = list(frame.columns)
    require_known("time", [time], known)
    if run is not None:
        require_known("run", [run], known)
    inputs = distinct("inputs", inputs)
    require_known("inputs", inputs, known)
    if weights is not None and not isinstance(weights, Mapping):
        raise TypeError(f"weights must be a mapping of components to columns, not {described(weights)}")
    weights = weights or {}
    require_known("weights", weights.values(), known)
    used = [time, run, *inputs, *weights.values()]
    if columns is None:
        columns = [name for name in known if name not in used]
    given = tuple(columns) if isinstance(columns, Mapping) else distinct("columns", columns)
    require_known("columns", given, known)
    components = distinct("columns", columns.values()) if isinstance(columns, Mapping) else given
    if not given:
        raise ValueError("columns: none is left for components")
    named("weights", weights, components)
    tables = _forcing(forcing, time, run)
    values = _numbers("columns", frame, given)
    factors = np.ones_like(values)
    for component, column in weights.items():
        factors[:, components.index(component)] = _numbers("weights", frame, [column])[:, 0]
    factors[np.isnan(values)] = 1
    conditions = _numbers("inputs", frame, inputs)
    runs = []
    for name, times, rows in _groups(frame, time, run):
        scalars = {column: _one(name, column, conditions[rows, i]) for i, column in enumerate(inputs)}
        runs.append(Run(name, times, values[rows], scalars, _of(tables, name), factors[rows]))
    if start is not None:
        runs = [one.starting_at(number("start", start)) for one in runs]
    return Runs(runs, components, units=units, time_units=time_units, noise=noise, initial=initial)


def _read(argument: str, path: Any, separator: str) -> pandas.DataFrame:
    """All fields as texts."""
    import pandas

    path = checked_path(argument, path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            frame = pandas.read_csv(
                file, sep=separator, dtype=str, keep_default_na=False, header=None, index_col=False
            )
    except ValueError as error:  # no text, no columns, or rows of different lengths
        raise ValueError(f"{argument}: {path} is no table: {' '.join(str(error).split())}") from error
    names = [str(name).strip() for name in frame.iloc[0]]
    return frame.iloc[1:].set_axis(names, axis=1).reset_index(drop=True)


def _frame(argument: str, frame: Any) -> pandas.DataFrame:
    import pandas

    if not isinstance(frame, pandas.DataFrame):
        raise TypeError(f"{argument} must be a pandas.DataFrame, not {described(frame)}")
    levels = [name for name in frame.index.names if name is not None]
    frame = frame.reset_index(level=levels) if levels else frame
    distinct(f"{argument}: columns", frame.columns)
    if not len(frame):
        raise ValueError(f"{argument}: the table has no rows")
    return frame


def _groups(
    frame: pandas.DataFrame, time: str, run: str | None
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Names of runs in the order in which they appear, their times, and the places of their rows by time."""
    import pandas

    times = _numbers("time", frame, [time])[:, 0]
    if np.isnan(times).any():
        raise ValueError(f"time: {time} is missing in row {int(np.argmax(np.isnan(times))) + 1}")
    names = [_ONE] * len(frame) if run is None else _names(frame, run)
    codes, distinct_names = pandas.factorize(np.array(names, dtype=object))
    order = np.lexsort((times, codes))
    twice = np.flatnonzero((np.diff(times[order]) == 0) & (np.diff(codes[order]) == 0))
    if len(twice):
        first, second = sorted(order[twice[0] : twice[0] + 2])
        of = "" if run is None else f" of run {names[first]}"
        raise ValueError(
            f"time: rows {first + 1} and {second + 1}{of} are both at {time} = {times[first]:g}; keep "
            "one of them"
        )
    ends = np.cumsum(np.bincount(codes))
    for name, places in zip(distinct_names, np.split(order, ends[:-1]), strict=True):
        yield name, times[places], places


def _names(frame: pandas.DataFrame, run: str) -> list[str]:
    missing = frame[run].isna() | (frame[run] == "")
    if missing.any():
        raise ValueError(f"run: {run} is missing in row {int(missing.to_numpy().argmax()) + 1}")
    return [str(value) for value in frame[run]]


def _numbers(argument: str, frame: pandas.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """(rows, columns) numbers, NaN where a field is missing."""
    found = [_column(argument, frame, column) for column in columns]
    return np.stack(found, axis=1) if found else np.empty((len(frame), 0))


def _column(argument: str, frame: pandas.DataFrame, column: str) -> np.ndarray:
    import pandas

    fields = frame[column]
    if pandas.api.types.is_numeric_dtype(fields) and not pandas.api.types.is_bool_dtype(fields):
        found = fields.to_numpy(dtype=float, na_value=np.nan)
        wrong = np.isinf(found)
    else:
        missing = fields.isna() | fields.astype(str).str.strip().str.lower().isin(_MISSING)
        plain = ~missing & ~fields.map(lambda field: isinstance(field, bool)).astype(bool)
        numbers = pandas.to_numeric(fields.where(plain, np.nan).astype(object), errors="coerce")
        found = numbers.to_numpy(dtype=float)
        wrong = (np.isnan(found) & ~missing.to_numpy()) | np.isinf(found)
    if wrong.any():
        place = int(np.argmax(wrong))
        hint = ""
        if argument == "columns" and np.isnan(found).all():  # not a number in any row
            hint = f'. If it names the runs, pass run="{column}"; else say with columns= which to read'
        raise ValueError(
            f"{argument}: {column} holds {described(fields.iloc[place])} in row {place + 1}, which is "
            f"no finite number{hint}"
        )
    return found


def _one(run: str, column: str, values: np.ndarray) -> float:
    if np.isnan(values).any() or (values != values[0]).any():
        varying = (
            "missing in some rows"
            if np.isnan(values).any()
            else f"both {values.min():g} and {values.max():g}"
        )
        raise ValueError(
            f"inputs: {column} is {varying} of run {run}; what changes in time goes into a table "
            "of its own, forcing="
        )
    return float(values[0])


def _forcing(frame: Any, time: str, run: str | None) -> dict[str | None, Forcing]:
    """Tables by the name of the run; None is that of all runs."""
    if frame is None:
        return {}
    frame = _frame("forcing", frame)
    require_known("forcing: time", [time], frame.columns)
    by = run if run in frame.columns else None
    names = texts("forcing: columns", [name for name in frame.columns if name not in (time, by)])
    values = _numbers("forcing", frame, names)
    return {
        None if by is None else name: Forcing(times, values[rows], names)
        for name, times, rows in _groups(frame, time, by)
    }


def _of(tables: dict[str | None, Forcing], run: str) -> Forcing | None:
    if not tables or None in tables:
        return tables.get(None)
    if run not in tables:
        raise ValueError(f"forcing: run {run} has none; it is there for {', '.join(map(str, tables))}")
    return tables[run]
