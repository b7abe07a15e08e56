"""Runs from CSV files and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
from kinetics import COLUMNS, NOISE, write_kinetics

from stiffml.training.data import from_pandas, read_csv

FRAME = pandas.DataFrame(
    {
        "exp": ["x", "y", "x", "y"],
        "t": [2.0, 1.0, 0.0, 0.0],
        "A": [0.5, None, 1.0, 2.0],
        "w": [3.0, 4.0, 5.0, 6.0],
        "T": [300, 350, 300, 350],
    }
)


def test_a_file_of_experiments(tmp_path: Path) -> None:
    tables = write_kinetics(tmp_path / "runs.csv")
    start = {"conc_A": "measured", "conc_B": 0.0, "conc_C": 0.0}
    runs = read_csv(tmp_path / "runs.csv", run="run", time="t_s", time_units="s", noise=NOISE, initial=start)
    assert runs.components == COLUMNS
    assert set(runs.names) == set(tables)
    for name, table in tables.items():
        np.testing.assert_array_equal(runs[name].times, table[:, 0])
        np.testing.assert_array_equal(runs[name].values, table[:, 1:])
        seen = not np.isnan(table[0, 1])
        np.testing.assert_array_equal(runs[name].y0_noise, [0.01 if seen else np.inf, 0, 0])
    train, validate = runs.split(fraction=0.67)
    assert (len(train), len(validate)) == (4, 2)
    assert len(runs.plot().axes) == 3


def test_a_table_goes_round(tmp_path: Path) -> None:
    write_kinetics(tmp_path / "runs.csv", runs=2)
    runs = read_csv(tmp_path / "runs.csv", run="run", time="t_s")
    runs.to_pandas().to_csv(tmp_path / "again.csv", index=False)
    again = read_csv(tmp_path / "again.csv", run="run", time="time")
    np.testing.assert_array_equal(again.values, runs.values)
    np.testing.assert_array_equal(again.times, runs.times)


def test_columns() -> None:
    runs = from_pandas(
        FRAME,
        time="t",
        run="exp",
        columns={"A": "a"},
        inputs=["T"],
        weights={"a": "w"},
        start=-1.0,
        initial={"a": 9},
    )
    assert (runs.names, runs.components) == (("x", "y"), ("a",))
    np.testing.assert_array_equal(runs["x"].times, [-1, 0, 2])
    np.testing.assert_array_equal(runs["x"].values[1:, 0], [1.0, 0.5])
    np.testing.assert_array_equal(runs["x"].weights[1:, 0], [5, 3])
    np.testing.assert_array_equal(runs["y"].weights[1:, 0], [6, 1])  # none where nothing was observed
    assert (runs["y"].inputs, runs["x"].y0[0]) == ({"T": 350.0}, 9.0)
    indexed = from_pandas(FRAME.set_index(["exp", "t"])[["A"]], time="t", run="exp")
    np.testing.assert_array_equal(indexed["x"].values, [[1.0], [0.5]])
    assert from_pandas(FRAME[:1][["t", "A", "w"]], time="t").components == ("A", "w")
    assert from_pandas(FRAME.astype({"A": "Float64"})[["t", "A"]][:2], time="t")[0].mask.sum() == 1


def test_forcing(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("exp,t,A\nx,0,1\nx,2,0.5\ny,0,2\n")
    (tmp_path / "own.csv").write_text("exp,t,T\nx,1,310\nx,0,300\ny,0,350\n")
    (tmp_path / "shared.csv").write_text("t,T\n0,300\n5,400\n")
    runs = read_csv(tmp_path / "runs.csv", run="exp", time="t", forcing=tmp_path / "own.csv")
    assert runs["x"].forcing is not None
    np.testing.assert_array_equal(runs["x"].forcing.times, [0, 1])
    np.testing.assert_array_equal(runs["x"].forcing.values, [[300], [310]])
    np.testing.assert_array_equal(runs["y"].forcing.values, [[350]])
    runs = read_csv(tmp_path / "runs.csv", run="exp", time="t", forcing=tmp_path / "shared.csv")
    assert runs["x"].forcing is runs["y"].forcing
    (tmp_path / "own.csv").write_text("exp,t,T\nx,1,310\n")
    with pytest.raises(ValueError, match="forcing: run y has none; it is there for x"):
        read_csv(tmp_path / "runs.csv", run="exp", time="t", forcing=tmp_path / "own.csv")


def test_fields_of_laboratories(tmp_path: Path) -> None:
    """A byte order mark, semicolons, blanks, several words for what is missing, names with leading zeros."""
    text = "\ufeffexp; t ;A;B\r\n007;0; 1.5 ;NA\r\n007;1;;2e-3\r\nNA;0;nan;1\r\n"
    (tmp_path / "runs.csv").write_bytes(text.encode())
    runs = read_csv(tmp_path / "runs.csv", run="exp", time="t", separator=";")
    assert runs.names == ("007", "NA")
    np.testing.assert_array_equal(runs["007"].values, [[1.5, np.nan], [np.nan, 2e-3]])


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("exp,t,A\nx,0,1\n", {"time": "time"}, r"time: there is no 'time'; there are exp, t, A"),
        ("exp,t_s,A\nx,0,1\n", {"time": "ts"}, r"time: there is no 'ts'; did you mean t_s\?"),
        ("exp,t,conc_A\nx,0,1\n", {"columns": ["conc_a"]}, r"columns: .*'conc_a'; did you mean conc_A\?"),
        ("exp,t,A\nx,0,1\nx,0.0,2\n", {}, r"time: rows 1 and 2 of run x are both at t = 0; keep one"),
        ("exp,t,A\nx,,1\n", {}, r"time: t is missing in row 1"),
        ("exp,t,A\nx,0,1\n,1,1\n", {}, r"run: exp is missing in row 2"),
        ("exp,t,A\nx,0,1\nx,1,high\n", {}, r"columns: A holds 'high' in row 2, which is no finite number"),
        ("exp,t,A\nx,0,1\nx,1,high\n", {}, r"no finite number$"),
        (
            "exp,t,A\nx,0,1\n",
            {"run": None},
            r"'x' in row 1, .* If it names the runs, pass run=\"exp\"",
        ),
        ("exp,t,A\nx,0,inf\n", {}, r"columns: A holds 'inf' in row 1"),
        ("exp,t,A,A\nx,0,1,2\n", {}, r"columns must differ, but A is there more than once"),
        ("exp,t,A,T\nx,0,1,3\nx,1,1,4\n", {"inputs": ["T"]}, r"inputs: T is both 3 and 4 of run x"),
        ("exp,t,A,T\nx,0,1,3\nx,1,1,\n", {"inputs": ["T"]}, r"inputs: T is missing in some rows of run x"),
        ("exp,t,A\n", {}, r"no rows"),
        ("exp,t,A\nx,0,1,2\n", {}, r"is no table"),
        ("", {}, r"is no table"),
        ("exp,t\nx,0\n", {}, r"columns: none is left"),
        ("exp,t,A\nx,0,1\n", {"weights": {"B": "A"}, "columns": ["A"]}, r"weights: there is no 'B'"),
    ],
)
def test_what_is_wrong_is_said_by_name(tmp_path: Path, text: str, arguments: dict, message: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_csv(path, **{"run": "exp", "time": "t", **arguments})
    assert "runs.csv" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_csv(tmp_path / "runs.csv", time="t")
    (tmp_path / "runs.csv").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(ValueError, match="is no table"):
        read_csv(tmp_path / "runs.csv", time="t")


def test_dates_are_refused() -> None:
    frame = pandas.DataFrame({"t": pandas.to_datetime(["2020-01-01", "2020-01-02"]), "A": [1.0, 2.0]})
    with pytest.raises(ValueError, match="time: t holds Timestamp"):
        from_pandas(frame, time="t")
