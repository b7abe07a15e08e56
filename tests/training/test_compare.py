"""Comparisons: their numbers are those of single fits, in one process or several, interrupted or not."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from compared import Relaxation, Stiff, runs
from rich.console import Console

from stiffml import Adaptive, Grid
from stiffml.training import Comparison, compare, fit
from stiffml.training.comparing.record import Record
from stiffml.training.comparing.training import DONE

TIMES = ("wall_s", "cpu_s")
QUICK = {"methods": ["cn", "beuler"], "optimizers": ["adamw", "lm"], "iterations": 6, "scale": 1.0}


def quick(**more) -> Comparison:
    train, unseen = runs()
    return compare(Relaxation, train, validate=unseen, **{**QUICK, "seeds": 2, **more})


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    folder = tmp_path_factory.mktemp("compare") / "straight"
    return quick(folder=folder), folder


def require_same(found: Comparison, other: Comparison) -> None:
    xarray.testing.assert_identical(found.data.drop_vars(TIMES), other.data.drop_vars(TIMES))


def test_values_are_those_of_single_fits(straight: tuple[Comparison, Path]) -> None:
    train, unseen = runs()
    for method in QUICK["methods"]:
        one = fit(
            Relaxation,
            train,
            optimizer="adamw",
            method=method,
            seed=1,
            iterations=6,
            scale=1.0,
        )
        data = straight[0].data.sel({"method": method, "optimizer": "adamw", "seed": 1})
        np.testing.assert_array_equal(data["loss"][:6], one.history["loss"])
        last = {"snapshot": int(data["at"].notnull().sum()) - 1}
        assert data["at"][last] == 6
        for name, own in (("error", train), ("held_out", unseen)):
            expected = one.report(own, rtol=1e-6, atol=1e-9).mean
            np.testing.assert_allclose(data[name][last], expected, rtol=1e-10)
        np.testing.assert_allclose(data["own_error"], one.error, rtol=1e-12)
        assert data["own_steps"] == 8
        lm = fit(Relaxation, train, method=method, seed=1, scale=1.0)
        data = straight[0].data.sel({"method": method, "optimizer": "lm", "seed": 1})
        count = int(data["iterations"])
        first = lm.history["rung"][:count] == 0  # eight intervals with a residual each
        np.testing.assert_allclose(
            data["loss"][:count][first.values], 2 * lm.history["cost"][:count][first] / 8
        )


def test_gradient_norms_are_those_of_differences(straight: tuple[Comparison, Path]) -> None:
    """Of the loss that both optimizers begin with; LM's first rung has the same intervals for any seed."""
    train, _ = runs()
    data = straight[0].data.sel({"method": "cn", "optimizer": "adamw", "seed": 0})

    def loss(shift: np.ndarray) -> float:
        model = Relaxation(0)
        with torch.no_grad():
            model.weights += torch.from_numpy(shift)
        found = fit(model, train, optimizer="adamw", method="cn", iterations=1, scale=1.0)
        return float(found.history["loss"][0])

    slopes = [(loss(1e-5 * e) - loss(-1e-5 * e)) / 2e-5 for e in np.eye(2)]
    np.testing.assert_allclose(data["norm"][0], np.linalg.norm(slopes), rtol=1e-6)


def test_costs_are_counted(straight: tuple[Comparison, Path]) -> None:
    data = straight[0].data
    per = data.sel({"method": "cn", "optimizer": "adamw", "seed": 0})
    assert (per["accepted"][:5] == 8).all(), "eight steps in each iteration"
    assert (per["rhs_evals"][:5] >= 16).all(), "forwards and backwards"
    assert (data["rhs_evals"].sum("iteration") > 0).all()


def test_processes_come_to_the_same_numbers(straight: tuple[Comparison, Path], tmp_path: Path) -> None:
    require_same(quick(jobs=2, folder=tmp_path / "two"), straight[0])


def test_a_comparison_goes_on(
    straight: tuple[Comparison, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted within a training, with states saved before it; then seeds are added."""
    folder = tmp_path / "parts"
    add, count = Record.add, 0

    def interrupted(self: Record, line) -> None:
        nonlocal count
        count += 1
        if count == 11:
            raise KeyboardInterrupt
        add(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(Record, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quick(seeds=1, folder=folder, save_every=2)
    done = {path: path.stat().st_mtime_ns for path in folder.rglob(DONE)}
    assert len(done) == 1
    with pytest.raises(FileExistsError, match="resume=True"):
        quick(seeds=1, folder=folder, save_every=2)
    quick(seeds=1, folder=folder, save_every=2, resume=True)
    found = quick(seeds=2, folder=folder, save_every=2, resume=True)
    assert all(path.stat().st_mtime_ns == before for path, before in done.items()), "done again"
    # An iteration that was begun twice is counted twice in what its process has spent, and in nothing else.
    costs = ["rhs_evals", "jacobians", "accepted", "rejected"]
    xarray.testing.assert_identical(
        found.data.drop_vars([*TIMES, *costs]), straight[0].data.drop_vars([*TIMES, *costs])
    )
    with pytest.raises(ValueError, match="iterations = 6, not 7"):
        quick(folder=folder, save_every=2, resume=True, iterations=7)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs) -> None:
        self.found += [value for name, value in attrs if name in ("src", "srcset", "href")]
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_an_explicit_method_that_cannot_go_on_is_a_row(tmp_path: Path) -> None:
    train, unseen = runs()
    found = compare(
        Stiff,
        train,
        validate=unseen,
        methods=["cn", "dopri5"],
        optimizers=["adamw"],
        seeds=1,
        iterations=3,
        folder=tmp_path / "run",
    )
    data = found.data.isel(optimizer=0, seed=0)
    assert str(data["reason"].sel({"method": "cn"}).values) == ""
    reason = str(data["reason"].sel({"method": "dopri5"}).values)
    assert "stability" in reason
    assert float(data["stiffness"].max()) > 1e6
    console = Console(width=80, record=True, file=(tmp_path / "text").open("w"))
    console.print(found.table())
    text = console.export_text()
    assert "0/1" in text
    assert "1/1" in text
    assert "dopri5, adamw, seed 0: " in text
    assert max(map(len, text.splitlines())) <= 80
    names = {path.name for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert {"compare.nc", "compare.json", "report.html", "error-time.png", "stiffness.png"} <= names
    page = (tmp_path / "run" / "report.html").read_text()
    links = _Links()
    links.feed(page)
    assert not links.open
    assert len(links.found) == 14, "seven figures, light and dark"
    assert all(link.startswith("data:image/png;base64,") for link in links.found)
    assert "That is stiff." in page
    assert re.search(r"Seed 0 could not go on: .*stability", page)
    assert "prefers-color-scheme: dark" in page
    assert 'content="width=device-width' in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iterations": None}, "budget"),
        ({"methods": "cn"}, "methods must be a sequence"),
        ({"methods": ["cm"]}, "unknown name 'cm'"),
        ({"methods": []}, "methods must have one"),
        ({"optimizers": ["newton"]}, "optimizer must be one of"),
        ({"optimizers": {"lm": {"iterations": 3}}}, "the budget of all"),
        ({"seeds": [0, 0]}, "distinct"),
        ({"steps": {"bdf": Grid()}}, "none of the methods"),
        ({"method": "cn"}, "methods=…, not method"),
        ({"rtol": 1e-3}, "none of the methods"),
        ({"resume": True}, "needs the folder"),
        ({"jobs": 0}, "jobs"),
        ({"executor": 3}, "executor"),
        ({"nonsense": 3}, "no argument 'nonsense'"),
    ],
)
def test_mistakes_are_explained(arguments: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        quick(**arguments)


def test_models_that_cannot_travel_are_refused() -> None:
    train, _ = runs()
    with pytest.raises(ValueError, match="at the top of a module"):
        compare(lambda seed: Relaxation(seed), train, **QUICK, jobs=2)


def test_unknown_starts_are_refused() -> None:
    train, _ = runs()
    with pytest.raises(ValueError, match="run fitted begins with values that are not known"):
        compare(Relaxation, train.with_initial("learned"), **QUICK)


def test_steps_and_optimizers_of_ones_own() -> None:
    train, _ = runs()
    optimizers = {"slow": {"optimizer": "adamw", "learning_rate": 1e-4}, "adamw": {}}
    found = compare(
        Relaxation(3),
        train,
        methods=["cn"],
        optimizers=optimizers,
        seeds=[0],
        iterations=3,
        steps={"cn": Adaptive()},
        rtol=1e-4,
    )
    data = found.data.isel(method=0, seed=0)
    slow, usual = (data.sel(optimizer=name) for name in ("slow", "adamw"))
    assert slow["loss"][0] == usual["loss"][0]
    assert slow["loss"][2] != usual["loss"][2]
    assert data["held_out"].isnull().all()
